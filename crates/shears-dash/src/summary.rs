//! The list of runs: a row for each, from the end of its log and a digest of all of it.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::digest::Digest;
use crate::runs::{Run, Runs};
use crate::settings;
use crate::state::RunState;
use shears_run::Damage;

/// How long the background thread reads one run before it turns to the next.
const TURN: Duration = Duration::from_secs(20);

/// A run in the list.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) state: RunState,
    /// How it ended, in words, if there is more to say.
    pub(crate) message: Option<String>,
    pub(crate) damage: Option<Damage>,
    pub(crate) preset: Option<String>,
    /// Kind and size, in words.
    pub(crate) model: Option<String>,
    pub(crate) clip: Option<String>,
    pub(crate) step: Option<u64>,
    pub(crate) steps: Option<u64>,
    pub(crate) loss: Option<f64>,
    pub(crate) val_loss: Option<f64>,
    /// The lowest validation loss, and its step.
    pub(crate) best: Option<Best>,
    /// Equal for runs whose validation losses can be compared.
    pub(crate) group: String,
    /// The learning rate according to its log.
    pub(crate) lr: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) clipped_share: Option<f64>,
    pub(crate) skipped: Option<usize>,
    /// The step from which on the verdict and these counts apply, if the policy was changed.
    pub(crate) since: Option<u64>,
    /// The class of the verdict.
    pub(crate) class: Option<&'static str>,
    /// The class in words, and its colour.
    pub(crate) words: Option<&'static str>,
    pub(crate) tone: Option<&'static str>,
    /// The gradient norm over the whole run, and the threshold.
    pub(crate) norms: Vec<f32>,
    pub(crate) thresholds: Vec<f32>,
    /// Whether the whole log has been read, so that there is a verdict.
    pub(crate) digested: bool,
    /// When the log was last written, in seconds since 1970.
    pub(crate) modified: Option<u64>,
}

/// The best evaluation of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Best {
    pub(crate) step: u64,
    pub(crate) val_loss: f64,
}

impl Row {
    pub(crate) fn of(run: &Run) -> Row {
        let glance = run.glance();
        let digest = run.digest();
        let plan = run.plan();
        let text = |name: &str| {
            let value = plan.as_ref().ok()?.get(name)?;
            Some(settings::shown(value))
        };
        let steps = plan
            .as_ref()
            .ok()
            .and_then(|plan| plan.get("steps")?.as_integer());
        let of_digest = |values: fn(&Digest) -> &Vec<f32>| {
            digest
                .as_ref()
                .map_or(Vec::new(), |digest| values(digest).clone())
        };
        let judgement = digest.as_ref().and_then(|digest| digest.judgement.as_ref());
        let verdict = judgement.map(|judgement| &judgement.verdict);
        let plan_damage = plan.as_ref().err().map(|reason| Damage {
            line: None,
            reason: reason.clone(),
            lines: 0,
        });
        Row {
            name: run.name.clone(),
            state: run.state(&glance),
            message: glance.end.as_ref().and_then(|end| end.message.clone()),
            damage: plan_damage.or_else(|| digest.as_ref()?.damage.clone()),
            preset: text("preset"),
            model: plan.as_ref().ok().and_then(settings::model),
            clip: text("clip"),
            step: glance.step,
            steps: steps.and_then(|steps| u64::try_from(steps).ok()),
            loss: glance.loss,
            val_loss: glance.val_loss.or_else(|| digest.as_ref()?.val_loss),
            tokens_per_second: glance.tokens_per_second,
            clipped_share: verdict.map(|verdict| verdict.numbers.clipped_share()),
            skipped: verdict.map(|verdict| verdict.numbers.skipped),
            since: verdict
                .map(|verdict| verdict.numbers.first_step)
                .filter(|first| *first > 1),
            class: verdict.map(|verdict| verdict.class.name()),
            words: verdict.map(|verdict| verdict.class.words()),
            tone: verdict.map(|verdict| verdict.class.tone().name()),
            best: digest.as_ref().and_then(|digest| {
                let (step, val_loss) = digest.best.map(|best| (best.step, best.val_loss))?;
                Some(Best { step, val_loss })
            }),
            group: ["text", "text-sha256", "val-sha256", "tokenizer"]
                .map(|name| text(name).unwrap_or_default())
                .join(" "),
            lr: digest.as_ref().and_then(|digest| digest.lr),
            norms: of_digest(|digest| &digest.norms),
            thresholds: of_digest(|digest| &digest.thresholds),
            digested: digest.is_some(),
            modified: glance.modified.and_then(seconds),
        }
    }
}

fn seconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// Reads the logs of all runs in the background, one after the other, while `runs` is in use.
pub(crate) fn digest_in_background(runs: &Arc<Runs>) {
    let runs = Arc::downgrade(runs);
    let work = move || {
        while digest_all(&runs) {
            std::thread::sleep(Duration::from_secs(1));
        }
    };
    let thread = std::thread::Builder::new().name("digests".to_string());
    // Without the thread the list has no verdicts, but is still useful.
    drop(thread.spawn(work));
}

fn digest_all(runs: &Weak<Runs>) -> bool {
    let Some(all) = runs.upgrade().map(|runs| runs.all()) else {
        return false;
    };
    let mut latest = all;
    // Somebody looking at the page wants the most recent first. The cached key is needed because
    // logs change while the list is sorted.
    latest.sort_by_cached_key(|run| std::cmp::Reverse(run.glance().modified));
    for run in latest {
        let Some(runs) = runs.upgrade() else {
            return false;
        };
        if digest(&run) {
            runs.forget_unused();
        }
    }
    // Also drop the columns of finished runs that somebody looked at.
    if let Some(runs) = runs.upgrade() {
        runs.forget_unused();
    }
    true
}

/// Updates the digest of a run; false if nothing had to be read for it.
fn digest(run: &Run) -> bool {
    let glance = run.glance();
    if run
        .digest()
        .is_some_and(|digest| digest.file_length == glance.length)
    {
        return false;
    }
    match run.read(TURN) {
        Ok(reach) if reach.complete => {
            let ended = glance.end.is_some();
            run.with_log(|log| {
                run.digest
                    .update(|| run.subject(), log, glance.length, ended)
            });
        }
        // The next turn continues.
        Ok(_) => {}
        Err(error) => run.digest.set(Digest::unreadable(&error, glance.length)),
    }
    true
}
