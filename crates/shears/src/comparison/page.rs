//! The report of a comparison as a self-contained HTML file, and its table for the terminal.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::picture::Picture;
use super::results::JUMP_WARMUP;
use super::words::{Findings, Group, with_interval};
use crate::report::percent;
use crate::table;

/// The colours of light and dark pages match those of the figures.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --muted: #636366; --line: #e4e4e4;
        --mark: #d55e00; --best: #fff6ee; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7ea; --paper: #15171c; --muted: #9a9ca3; --line: #33363d;
          --mark: #ff8638; --best: #2b2018; --bad: #ff8a80; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1000px; margin: 3rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; letter-spacing: -0.02em; margin-bottom: 0.3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 0.4rem; }
.lead { font-size: 1.1rem; border-left: 3px solid var(--mark); padding: 0.2rem 0 0.2rem 1rem; }
.muted { color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%;
        font-size: 0.92rem; }
th { text-align: right; font-weight: 600; color: var(--muted); }
td { text-align: right; }
th, td { padding: 0.4rem 0.5rem; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; font-family: ui-monospace, monospace; }
th:last-child, td:last-child { text-align: left; white-space: normal; min-width: 7rem; }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere; }
tr.best td { background: var(--best); }
td.bad { color: var(--bad); }
figure { margin: 1rem 0 0; overflow-x: auto; }
svg { max-width: 100%; min-width: 40rem; height: auto; }
";

/// The HTML page.
pub(super) fn html(about: &str, findings: &Findings, pictures: &[Picture]) -> String {
    let best: Vec<usize> = findings.best.iter().flatten().copied().collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Clipping compared" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Clipping compared" }
                p.muted { (about) }
                p.lead { (with_code(&findings.recommendation)) }
                @if let Some(next) = &findings.next {
                    p { "Try next: " code { (next) } }
                }
                h2 { "Every combination" }
                div.wide {
                    table {
                        tr { @for heading in HEADINGS { th { (heading) } } }
                        @for (index, group) in findings.groups.iter().enumerate() {
                            tr.best[best.contains(&index)] {
                                @for (column, text) in row(group).iter().enumerate() {
                                    td.bad[column == 2 && group.converged < group.runs] { (text) }
                                }
                            }
                        }
                    }
                }
                p.muted { (with_code(&legend(findings))) }
                @for picture in pictures {
                    h2 { (picture.title) }
                    p.muted { (with_code(&picture.reading)) }
                    figure { (PreEscaped(&picture.svg)) }
                }
            }
        }
    };
    page.into_string()
}

/// Renders text between backticks as code.
fn with_code(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// The table for the terminal, with as many columns as fit.
pub(super) fn table(findings: &Findings, room: Option<usize>) -> String {
    let mut left_out = vec!["cosine", "loss jumps"];
    if findings.groups.iter().all(|group| group.skipped == 0) {
        left_out.push("skipped");
    }
    let mut lines = table_without(findings, &left_out);
    let fits = |lines: &[String]| {
        let widest = lines.iter().map(|line| line.chars().count()).max();
        room.is_none_or(|room| widest <= Some(room))
    };
    // A narrow terminal drops these, in this order.
    for least in ["steps to target", "skipped", "converged"] {
        if !fits(&lines) {
            left_out.push(least);
            lines = table_without(findings, &left_out);
        }
    }
    lines.join("\n") + "\n"
}

fn table_without(findings: &Findings, left_out: &[&str]) -> Vec<String> {
    let all = [HEADINGS.map(String::from)].into_iter();
    let all = all.chain(findings.groups.iter().map(row));
    let rows = all.map(|cells| {
        let cells = HEADINGS.iter().zip(cells);
        let shown = cells.filter(|(heading, _)| !left_out.contains(heading));
        shown.map(|(_, cell)| cell).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    // The first and the last column are words.
    let numbers = ">".repeat(rows[0].len() - 2);
    table::table(&format!("<{numbers}<"), &rows)
}

const HEADINGS: [&str; 10] = [
    "policy",
    "lr",
    "val loss",
    "converged",
    "clipped",
    "cosine",
    "skipped",
    "loss jumps",
    "steps to target",
    "verdict",
];

fn row(group: &Group) -> [String; HEADINGS.len()] {
    let none = || "-".to_string();
    [
        group.policy.clone(),
        group.lr.to_string(),
        with_interval(group.val_loss, group.val_loss_interval),
        format!("{} of {}", group.converged, group.runs),
        percent(group.clipped_share),
        group
            .cosine
            .map_or_else(none, |cosine| format!("{cosine:.3}")),
        group.skipped.to_string(),
        group.loss_jumps.to_string(),
        group
            .steps_to_target
            .map_or_else(none, |steps| format!("{steps:.0}")),
        group.verdict.clone(),
    ]
}

fn legend(findings: &Findings) -> String {
    let target = findings.target.map_or(String::new(), |target| {
        format!(
            " Target: a training loss of {target:.4}, smoothed as in the figure below, which \
             every policy that converged reaches at its best learning rate."
        )
    });
    format!(
        "Val loss: nats per token at the end, mean over seeds, with a 95 % confidence interval \
         from three seeds on; “diverged” unless every seed ended with a loss below its first. \
         Clipped: share of steps. Cosine: between the gradient before and after, over clipped \
         steps; below 1, direction was lost. Loss jumps: how often the loss left its running band, \
         from step {} on. Verdict: what clipping was to the runs, in the words of `shears \
         inspect`.{target}",
        JUMP_WARMUP + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_keeps_the_most_informative_columns() {
        let mut group = Group::default();
        group.policy = "global-norm:1".into();
        group.verdict = "second learning rate".into();
        group.skipped = 3;
        let findings = Findings {
            groups: vec![group],
            ..Findings::default()
        };
        let heads = |room| table(&findings, room).lines().next().unwrap().to_string();
        let all = heads(None);
        assert!(
            all.contains("steps to target") && all.contains("skipped"),
            "{all}"
        );
        assert_eq!(heads(Some(200)), all);
        let widest = |room| table(&findings, Some(room)).lines().map(str::len).max();
        assert!(widest(80) <= Some(80) && heads(Some(80)).contains("skipped"));
        assert!(!heads(Some(80)).contains("target"));
        // Less than that nothing is left out of.
        assert_eq!(heads(Some(10)), heads(Some(60)));
        assert!(heads(Some(10)).contains("verdict"));
    }
}
