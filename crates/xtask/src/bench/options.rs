//! The command line of `cargo xtask bench`.

use std::path::PathBuf;

use super::rows::{self, Side};

pub(super) const USAGE: &str = "usage: cargo xtask bench peers|scaling|ranks [OPTION]...
       cargo xtask bench report

  --rounds N         how often every program runs [default: 5, and 3 for scaling]
  --threads N        threads of every program [default: 2]; scaling also tries fewer and more
  --python PATH      a Python that has PyTorch [default: one that is made in target/]
  --rows NAME,...    only these rows of peers, shown and not written
  --peers NAME,...   only these of pytorch, pytorch-compile, burn, candle; without pytorch, shown
                     and not written";

/// The options of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(super) rounds: usize,
    pub(super) threads: usize,
    pub(super) python: Option<PathBuf>,
    /// Empty means all.
    pub(super) rows: Vec<String>,
    pub(super) peers: Vec<Side>,
}

impl Options {
    /// Reads the arguments after the name of the task.
    pub(super) fn parse(task: &str, arguments: &[String]) -> Result<Options, String> {
        let rounds = match task {
            "peers" | "ranks" => 5,
            "scaling" => 3,
            "report" if arguments.is_empty() => 0,
            "report" => return Err("`report` takes no options".to_string()),
            _ => return Err(format!("unknown task `{task}`")),
        };
        let mut options = Options {
            rounds,
            threads: 2,
            python: None,
            rows: Vec::new(),
            peers: Side::PEERS.to_vec(),
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let value = arguments
                .next()
                .ok_or_else(|| format!("`{flag}` needs a value"))?;
            match flag.as_str() {
                "--rounds" => options.rounds = at_least_one(flag, value)?,
                "--threads" if task != "ranks" => options.threads = at_least_one(flag, value)?,
                "--python" if task != "ranks" => options.python = Some(PathBuf::from(value)),
                "--rows" if task == "peers" => options.rows = known_rows(value)?,
                "--peers" if task == "peers" => options.peers = known_peers(value)?,
                _ => return Err(format!("`{task}` has no option `{flag}`")),
            }
        }
        Ok(options)
    }

    /// Whether all rows are measured, and against PyTorch: only then is the file useful.
    pub(super) fn everything(&self) -> bool {
        self.rows.is_empty() && self.peers.contains(&Side::PyTorch)
    }
}

fn at_least_one(flag: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!(
            "`{flag}` takes a number of at least 1, not `{value}`"
        )),
    }
}

fn known_rows(list: &str) -> Result<Vec<String>, String> {
    let known = rows::names();
    list.split(',')
        .map(|name| match known.contains(&name) {
            true => Ok(name.to_string()),
            false => Err(format!("unknown row `{name}`; rows: {}", known.join(", "))),
        })
        .collect()
}

fn known_peers(list: &str) -> Result<Vec<Side>, String> {
    list.split(',')
        .map(|name| {
            let peer = Side::PEERS.into_iter().find(|side| side.key() == name);
            let known = || Side::PEERS.map(Side::key).join(", ");
            peer.ok_or_else(|| format!("unknown peer `{name}`; peers: {}", known()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(task: &str, arguments: &[&str]) -> Result<Options, String> {
        let arguments: Vec<String> = arguments.iter().map(|text| text.to_string()).collect();
        Options::parse(task, &arguments)
    }

    #[test]
    fn defaults_measure_everything() {
        let options = parse("peers", &[]).unwrap();
        assert_eq!((options.rounds, options.threads), (5, 2));
        assert!(options.everything());
        assert_eq!(parse("scaling", &[]).unwrap().rounds, 3);
    }

    #[test]
    fn a_part_is_not_the_whole() {
        let rows = parse("peers", &["--rows", "train-lstm-128,norm-163M"]).unwrap();
        assert_eq!(rows.rows, ["train-lstm-128", "norm-163M"]);
        assert!(!rows.everything());
        let peers = parse("peers", &["--peers", "pytorch-compile,candle"]).unwrap();
        assert_eq!(peers.peers, [Side::PyTorchCompiled, Side::Candle]);
        assert!(!peers.everything());
        assert!(
            parse("peers", &["--peers", "pytorch"])
                .unwrap()
                .everything()
        );
    }

    #[test]
    fn each_wrong_option_is_named() {
        for (task, arguments, part) in [
            ("peers", &["--rounds", "0"][..], "at least 1"),
            ("peers", &["--rounds"], "needs a value"),
            ("peers", &["--rows", "lstm"], "unknown row `lstm`"),
            ("peers", &["--peers", "jax"], "unknown peer `jax`"),
            (
                "scaling",
                &["--rows", "norm-163M"],
                "`scaling` has no option",
            ),
            ("report", &["--rounds", "1"], "no options"),
            ("speed", &[], "unknown task `speed`"),
        ] {
            let error = parse(task, arguments).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
