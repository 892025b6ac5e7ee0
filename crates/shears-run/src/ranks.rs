//! What the log records of a run that several processes train.

use std::fmt;

use gradclip::significant;
use serde::{Deserialize, Serialize};

/// The processes that train the run from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanksEvent {
    /// Steps taken before.
    pub step: u64,
    /// The machine of each rank, in the order of the ranks.
    pub hosts: Vec<String>,
    /// Threads per rank.
    pub threads: usize,
    /// Whether any other number of ranks that divides the plan's `shards` gives the same bits.
    pub same_bits: bool,
}

impl RanksEvent {
    /// "4 ranks on 2 machines (a, b), 8 threads each".
    pub fn words(&self) -> String {
        let mut machines: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        machines.sort_unstable();
        machines.dedup();
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        format!(
            "{} on {} ({}), {} each",
            count(self.hosts.len(), "rank"),
            count(machines.len(), "machine"),
            machines.join(", "),
            count(self.threads, "thread"),
        )
    }
}

/// How the ranks exchanged their gradients in a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExchangeEvent {
    /// Bytes of gradients that each rank contributed.
    pub bytes: u64,
    /// The time of the exchange in the first rank, including waiting, in ms.
    pub ms: f64,
    /// The time of forward and backward pass in the slowest rank, in ms; 0 in older logs.
    #[serde(default)]
    pub computed_ms: f64,
    /// How much longer the slowest rank computed than the fastest, in ms.
    pub waited_ms: f64,
    /// The slowest rank.
    pub slowest: usize,
}

/// The exchanges of several steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExchangeSummary {
    /// Steps with an exchange.
    pub steps: usize,
    /// Bytes of gradients that each rank contributed to the last of them.
    pub bytes: u64,
    /// Mean time of an exchange in the first rank, in ms.
    pub ms: f64,
    /// Mean time of forward and backward pass in the slowest rank, in ms.
    pub computed_ms: f64,
    /// Mean of how much longer the slowest rank computed than the fastest, in ms.
    pub waited_ms: f64,
    /// The rank that was slowest most often.
    pub slowest: usize,
    /// The share of steps in which it was.
    pub slowest_share: f64,
}

/// Waiting for the slowest rank below this share of a step is noise.
const SIGNIFICANT_WAIT: f64 = 0.05;

impl ExchangeSummary {
    /// Whether the others wait for the slowest rank for at least 5 % of the time to compute and
    /// exchange; below that, which rank is slowest is noise.
    pub fn is_wait_significant(&self) -> bool {
        self.computed_ms > 0.0 && self.waited_ms >= SIGNIFICANT_WAIT * (self.computed_ms + self.ms)
    }

    /// Summarises exchanges; `None` if there are none.
    pub fn of<'a>(exchanges: impl IntoIterator<Item = &'a ExchangeEvent>) -> Option<Self> {
        let (mut steps, mut bytes) = (0, 0);
        let (mut ms, mut computed, mut waited) = (0.0, 0.0, 0.0);
        let mut slowest = std::collections::BTreeMap::<usize, usize>::new();
        for exchange in exchanges {
            steps += 1;
            bytes = exchange.bytes;
            ms += exchange.ms;
            computed += exchange.computed_ms;
            waited += exchange.waited_ms;
            *slowest.entry(exchange.slowest).or_default() += 1;
        }
        // `max_by_key` returns the last of equal elements; from the end, that is the lowest rank.
        let from_last = slowest.into_iter().rev();
        let (rank, count) = from_last.max_by_key(|(_, count)| *count)?;
        Some(ExchangeSummary {
            steps,
            bytes,
            ms: ms / steps as f64,
            computed_ms: computed / steps as f64,
            waited_ms: waited / steps as f64,
            slowest: rank,
            slowest_share: count as f64 / steps as f64,
        })
    }
}

impl fmt::Display for ExchangeSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "each rank exchanged {} of gradients a step in {} ms, waiting included",
            bytes(self.bytes),
            significant(self.ms),
        )?;
        if !self.is_wait_significant() {
            return Ok(());
        }
        write!(
            formatter,
            "; the slowest computed {} ms, {} ms longer than the fastest, and was rank {} in \
             {:.0} % of the steps",
            significant(self.computed_ms),
            significant(self.waited_ms),
            self.slowest,
            100.0 * self.slowest_share
        )
    }
}

/// Bytes in the unit that gives one to three digits before the point.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut value = number as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_described() {
        let ranks = |hosts: &[&str], threads| {
            let hosts = hosts.iter().map(|host| (*host).to_string()).collect();
            let (step, same_bits) = (0, false);
            RanksEvent {
                step,
                hosts,
                threads,
                same_bits,
            }
        };
        let words = ranks(&["a", "b", "a", "b"], 8).words();
        assert_eq!(words, "4 ranks on 2 machines (a, b), 8 threads each");
        let words = ranks(&["a", "a"], 1).words();
        assert_eq!(words, "2 ranks on 1 machine (a), 1 thread each");
    }

    #[test]
    fn exchanges_are_summarised() {
        let exchange = |slowest, ms| ExchangeEvent {
            bytes: 12,
            ms,
            computed_ms: 10.0,
            waited_ms: 1.0,
            slowest,
        };
        let all = [exchange(1, 2.0), exchange(0, 4.0), exchange(1, 6.0)];
        let summary = ExchangeSummary::of(&all).unwrap();
        assert_eq!((summary.steps, summary.bytes, summary.ms), (3, 12, 4.0));
        assert_eq!((summary.slowest, summary.waited_ms), (1, 1.0));
        assert!((summary.slowest_share - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(ExchangeSummary::of(&[]), None);
        let words = summary.to_string();
        assert!(
            words.contains("0.0 kB of gradients a step in 4 ms"),
            "{words}"
        );
        assert!(
            words.ends_with("was rank 1 in 67 % of the steps"),
            "{words}"
        );
        // Of two that were slowest equally often it is the first.
        let even = ExchangeSummary::of(&all[..2]).unwrap();
        assert_eq!((even.slowest, even.slowest_share), (0, 0.5));
        // 1 of the 14 ms of a step, and of 21.
        assert!(summary.is_wait_significant());
        let computed_ms = 17.0;
        let little = ExchangeSummary {
            computed_ms,
            ..summary
        };
        assert!(!little.is_wait_significant());
        let words = little.to_string();
        assert!(words.ends_with("waiting included"), "{words}");
        // A log that does not record how long they computed.
        let line = r#"{"bytes":12,"ms":2.0,"waited_ms":1.0,"slowest":1}"#;
        let older: ExchangeEvent = serde_json::from_str(line).unwrap();
        let summary = ExchangeSummary::of(&[older]).unwrap();
        assert!(!summary.is_wait_significant());
    }

    #[test]
    fn byte_counts_are_readable() {
        let read = [999, 1_500_000, 999_960_000].map(bytes);
        assert_eq!(read, ["1.0 kB", "1.5 MB", "1.0 GB"]);
    }
}
