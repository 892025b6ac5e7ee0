//! What `shears replay` prints.

use gradclip::{NormOrder, significant};
use gradclip_judge::statistics::median;
use gradclip_judge::{Spikes, UsualNorm};
use shears_train::OptimizerKind;

use super::Replayed;
use super::account::Account;
use super::spikes::Catch;
use crate::output::{columns, wrap};
use crate::report::{count, counted, percent};
use crate::table::{row, table};

/// Maximum number of spikes that are listed.
const MOST_SPIKES: usize = 10;
/// Maximum width of a policy that shares a line with its numbers.
const WIDEST_NAME: usize = 28;
/// Columns that names and numbers need to fit on one line.
const WIDE: usize = 112;

pub(crate) fn text(replayed: &Replayed) -> String {
    // On a narrow terminal, each policy has a line of its own.
    let widest_name = match columns() {
        Some(..WIDE) => 0,
        _ => WIDEST_NAME,
    };
    let mut lines = head(replayed);
    lines.push(String::new());
    lines.extend(clipping_table(replayed, widest_name));
    lines.push(String::new());
    lines.extend(threshold_table(replayed, widest_name));
    lines.push(String::new());
    lines.extend(spike_list(replayed));
    lines.join("\n")
}

fn head(replayed: &Replayed) -> Vec<String> {
    let plan = &replayed.plan;
    let steps = counted(replayed.steps.len() as u64, "step");
    let mut lines = vec![format!("run {}: {steps}", replayed.run.display())];
    if let (Some((_, clip)), Some(first)) = (replayed.before.last(), replayed.steps.first()) {
        lines[0].push_str(&format!(
            ", from step {first} on; earlier steps used {clip}"
        ));
    }
    let finite = replayed.norms.iter().filter(|norm| norm.is_finite());
    let finite: Vec<f64> = finite.copied().collect();
    if let Some(median) = median(finite.iter().copied()) {
        let max = finite.iter().copied().fold(0.0, f64::max);
        let min = finite.iter().copied().fold(max, f64::min);
        let [min, median, max] = [min, median, max].map(significant);
        let order = match plan.clip.order() {
            NormOrder::TWO => String::new(),
            order => format!(" (p={order})"),
        };
        lines.push(format!(
            "gradient norm{order} before clipping: min {min}, median {median}, max {max}"
        ));
    }
    if replayed.non_finite() > 0 {
        lines.push(format!(
            "{} with gradients that are not finite, which every policy skips",
            counted(replayed.non_finite() as u64, "step")
        ));
    }
    let adam = matches!(plan.optimizer, OptimizerKind::Adam | OptimizerKind::AdamW);
    if adam && let Some(rule) = plan.clip.rules_inside_adam().next() {
        lines.push(format!(
            "the run's {} works inside Adam, on updates: its row is about gradients only",
            rule.name()
        ));
    }
    lines.push(String::new());
    let open_loop = format!(
        "Open loop: these are the norms that the run met with {}. Under another policy it would \
         have taken other steps and met other gradients. This shows what a policy does with norms \
         like these, not how a run with it would have ended.",
        plan.clip
    );
    lines.push(broken(&open_loop));
    lines
}

/// Wraps prose to the terminal, or to the width of a page.
fn broken(text: &str) -> String {
    wrap(text, columns().unwrap_or(95), 0)
}

/// The row of a policy; a wide name gets a line of its own above the numbers.
fn of_policy<const N: usize>(
    account: &Account,
    widest: usize,
    cells: [String; N],
) -> Vec<Vec<String>> {
    let name = format!("{:<3}  {}", account.label, account.policy);
    let (above, name) = match name.len() <= widest {
        true => (None, name),
        false => (Some(vec![name]), String::new()),
    };
    let row = [&[name], cells.as_slice()].concat();
    above.into_iter().chain([row]).collect()
}

fn clipping_table(replayed: &Replayed, widest_name: usize) -> Vec<String> {
    let spikes = match replayed.spikes.list.len() {
        1 => "1 spike".to_string(),
        number => format!("{} spikes", count(number as u64)),
    };
    let mut rows = vec![
        row([
            "",
            "",
            "clipped",
            "coefficient",
            "",
            "norm",
            "",
            "warm-up",
            &spikes,
        ]),
        row([
            // If policies have lines of their own, there is no such column.
            if widest_name > 0 { "policy" } else { "" },
            "steps",
            "share",
            "median",
            "least",
            "removed",
            "skips",
            "steps",
            "caught/at once",
        ]),
    ];
    for account in &replayed.accounts {
        let (median, smallest) = account.coefficients.unzip();
        let warm_up = account.warm_up.map(|steps| count(steps as u64));
        let cells = [
            count(account.clipped as u64),
            percent(account.clipped_share()),
            or_dash(median),
            or_dash(smallest),
            account.removed.map_or("-".into(), percent),
            count(account.left_out as u64),
            warm_up.unwrap_or("not yet".into()),
            format!("{}/{}", account.caught(), account.at_once()),
        ];
        rows.extend(of_policy(account, widest_name, cells));
    }
    table("<>>>>>>>>", &rows)
}

fn threshold_table(replayed: &Replayed, widest_name: usize) -> Vec<String> {
    let mut rows = vec![row(["threshold", "first", "median", "last", "min", "max"])];
    for account in &replayed.accounts {
        let all = account.thresholds.as_ref();
        let numbers = [
            all.map(|all| all.first),
            all.map(|all| all.median),
            all.and_then(|all| all.last),
            all.map(|all| all.min),
            all.map(|all| all.max),
        ];
        rows.extend(of_policy(account, widest_name, numbers.map(or_dash)));
    }
    table("<>>>>>", &rows)
}

const TIMES_USUAL: f64 = Spikes::TIMES_USUAL;
const WINDOW: usize = UsualNorm::WINDOW;
const FEWEST: usize = UsualNorm::FEWEST;

/// The largest spikes, in the order of their steps.
fn spike_list(replayed: &Replayed) -> Vec<String> {
    let spikes = &replayed.spikes.list;
    let what = format!(
        "A spike is a step, or several in a row, with a norm more than {TIMES_USUAL} times the \
         median of the {WINDOW} before it (of at least {FEWEST}). Caught: a step of it was \
         skipped, or clipped to no more than that."
    );
    let mut lines = vec![broken(&what)];
    if spikes.is_empty() {
        lines.push(match replayed.non_finite() {
            0 => format!("This run had none after its first {FEWEST} steps."),
            broken => format!(
                "This run had none: {} of its {} steps are not finite, which does not count as a \
                 spike. `shears inspect` says where it broke.",
                count(broken as u64),
                count(replayed.norms.len() as u64)
            ),
        });
        return lines;
    }
    let mut shown: Vec<usize> = (0..spikes.len()).collect();
    shown.sort_by(|left, right| spikes[*right].times.total_cmp(&spikes[*left].times));
    shown.truncate(MOST_SPIKES);
    shown.sort_unstable();
    let labels = replayed
        .accounts
        .iter()
        .map(|account| account.label.clone());
    let heading = row(["step", "steps", "norm", "times median"]);
    let mut rows = vec![heading.into_iter().chain(labels).collect()];
    for index in shown {
        let spike = &spikes[index];
        let cells = [
            count(replayed.steps[spike.first]),
            (spike.last - spike.first + 1).to_string(),
            significant(replayed.norms[spike.peak]),
            significant(spike.times),
        ];
        let accounts = replayed.accounts.iter();
        let caught = accounts.map(|account| word(account.catches[index]));
        rows.push(cells.into_iter().chain(caught).collect());
    }
    let columns = ">".repeat(4 + replayed.accounts.len());
    lines.extend(table(&columns, &rows));
    if let Some(more @ 1..) = spikes.len().checked_sub(MOST_SPIKES) {
        lines.push(format!("... and {} smaller ones", count(more as u64)));
    }
    lines
}

fn word(catch: Catch) -> String {
    match catch {
        Catch::Caught { late: 0 } => "at once".to_string(),
        Catch::Caught { late } => format!("{late} late"),
        Catch::InPart => "in part".to_string(),
        Catch::Missed => "missed".to_string(),
    }
}

fn or_dash(number: Option<f64>) -> String {
    number.map_or("-".to_string(), significant)
}
