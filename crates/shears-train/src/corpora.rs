//! Loading and tokenizing the text of a run.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use shears_data::{
    Content, Corpus, DataError, Encoding, ReadAs, RoundTrip, Source, Tokenizer, TokenizerKind,
    Tokens,
};

use crate::TrainError;
use crate::plan::{Plan, PlanError};

/// The text of a run as tokens.
#[derive(Debug)]
pub struct Corpora {
    /// The source of the text, for messages.
    pub description: String,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Training tokens.
    pub train: Tokens,
    /// Validation tokens.
    pub validation: Tokens,
    /// Number of characters of the validation text after tokenizing and decoding.
    pub validation_characters: usize,
    /// What the tokenizer changes in the training text, if it loses characters.
    pub altered: Option<RoundTrip>,
    /// The whole training text, if it came from standard input.
    pub standard_input: Option<Vec<u8>>,
    /// SHA-256 of the text and of the validation file, as stored in the plan.
    pub sha256: (String, String),
    /// Approximate peak memory of loading in bytes, without the program itself.
    pub loading: u64,
    /// The part of it that stays allocated: the allocator does not return many small pieces to the
    /// system.
    pub kept: u64,
}

impl Corpora {
    /// Records in the plan of a new run the hashes of its text and tokenizer, and the folder that
    /// the paths of the text are relative to.
    pub fn identify(&self, plan: &mut Plan) {
        (plan.text_sha256, plan.val_sha256) = self.sha256.clone();
        plan.tokenizer_sha256 = self.tokenizer.fingerprint();
        plan.note_where_typed();
    }
}

/// A stage of loading a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loading {
    /// Reading files of this many bytes in total; `None` for standard input.
    Reading(Option<u64>),
    /// Training a tokenizer on a text of this many bytes.
    Learning(u64),
    /// Tokenizing a text of this many bytes.
    Encoding(u64),
}

/// Reads and tokenizes the text of a plan.
///
/// `kept_text` is the stored text of a run that read standard input; `tokenizer` is the tokenizer
/// of a resumed run; without it, one is created. `next` is called before each stage with its
/// approximate peak memory in bytes, and may refuse.
///
/// # Errors
///
/// If the text cannot be read or tokenized, if its hash is not that in the plan, and the errors of
/// `next`.
pub fn load_corpora(
    plan: &Plan,
    kept_text: Option<&Path>,
    tokenizer: Option<Tokenizer>,
    next: &mut dyn FnMut(Loading, u64) -> Result<(), TrainError>,
) -> Result<Corpora, TrainError> {
    let mut loading = 0;
    let mut next = |part: Loading, memory: u64| {
        loading = memory.max(loading);
        next(part, memory)
    };
    let any_bytes = match &tokenizer {
        Some(tokenizer) => tokenizer.takes_any_bytes(),
        None => plan.tokenizer == TokenizerKind::Byte,
    };
    let texts = read(plan, kept_text, any_bytes, &mut next)?;
    let sha256 = texts.sha256();
    // Before tokenizing: another text may have characters that the run's tokenizer lacks.
    check_unchanged(plan, &sha256, &texts.text.description)?;
    let (train_text, validation_text) = texts.parts();
    let [train, validation] = [&train_text, &validation_text].map(|it| it.text().unwrap_or(""));
    let bytes = (train_text.bytes().len() + validation_text.bytes().len()) as u64;
    let mut kept = 0;
    let is_new = tokenizer.is_none();
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer,
        None => {
            if let TokenizerKind::Bpe(_) = plan.tokenizer {
                let learning = bpe_training_bytes(train);
                kept = learning;
                next(Loading::Learning(bytes), bytes.saturating_add(learning))?;
            }
            make_tokenizer(&plan.tokenizer, train, validation)?
        }
    };
    kept += tokenizer.memory();
    // The run's folder gets a copy of a text that cannot be read again.
    let is_stdin = matches!(source_of(plan, kept_text), Source::Stdin);
    let encoding = match texts.are_reused(&tokenizer) && !is_stdin {
        true => 0,
        false => tokenizer.memory_of_tokens(&train_text, &validation_text),
    };
    let encoding = bytes.saturating_add(kept).saturating_add(encoding);
    next(Loading::Encoding(bytes), encoding)?;
    let altered = altered(&tokenizer, train)?;
    if let Some(altered) = altered.filter(|_| is_new && !plan.lossy) {
        refuse_lossy(&tokenizer, &altered)?;
    }
    let characters = validation_text.characters();
    let description = texts.text.description.clone();
    let ((train, validation), standard_input) = match is_stdin {
        true => {
            let tokens = (
                tokenizer.tokens(train_text)?,
                tokenizer.tokens(validation_text)?,
            );
            (tokens, Some(texts.text.content.into_bytes()))
        }
        false => (texts.into_tokens(&tokenizer)?, None),
    };
    Ok(Corpora {
        validation_characters: altered.map_or(characters, |it| it.decoded_of(characters)),
        train,
        validation,
        tokenizer,
        altered,
        sha256,
        description,
        standard_input,
        loading,
        kept,
    })
}

/// A run's text before it is tokenized.
struct Texts {
    text: Corpus,
    /// The validation text, if it is a separate file.
    validation: Option<Corpus>,
}

impl Texts {
    /// SHA-256 of the text and of the validation file.
    fn sha256(&self) -> (String, String) {
        let of_validation = self.validation.as_ref().map(Corpus::fingerprint);
        (self.text.fingerprint(), of_validation.unwrap_or_default())
    }

    /// What to train on, and what to evaluate on.
    fn parts(&self) -> (Content<'_>, Content<'_>) {
        match &self.validation {
            Some(validation) => (self.text.content.as_ref(), validation.content.as_ref()),
            None => self.text.content.split(),
        }
    }

    /// Whether [`Texts::into_tokens`] takes no further memory.
    fn are_reused(&self, tokenizer: &Tokenizer) -> bool {
        let all = [Some(&self.text), self.validation.as_ref()];
        let mut all = all.into_iter().flatten();
        all.all(|corpus| tokenizer.reuses(&corpus.content))
    }

    /// The ids of both parts.
    fn into_tokens(self, tokenizer: &Tokenizer) -> Result<(Tokens, Tokens), DataError> {
        let text = self.text.content;
        match self.validation {
            Some(validation) => {
                let train = tokenizer.tokens(text)?;
                Ok((train, tokenizer.tokens(validation.content)?))
            }
            None => tokenizer.tokens_of_parts(text),
        }
    }
}

/// Reads the text, and the validation text if it is a separate file.
fn read(
    plan: &Plan,
    kept: Option<&Path>,
    any_bytes: bool,
    next: &mut dyn FnMut(Loading, u64) -> Result<(), TrainError>,
) -> Result<Texts, TrainError> {
    let source = source_of(plan, kept);
    let of_validation = plan.val.as_ref();
    let of_validation = of_validation.map(|path| Source::Files(vec![plan.located(path)]));
    if !plan.text_sha256.is_empty() {
        let texts = [Some(&source), of_validation.as_ref()];
        texts.into_iter().flatten().try_for_each(check_files)?;
    }
    // The stored text of a run is UTF-8, whatever the original encoding.
    let encoding = match kept.is_some() && plan.reads_standard_input() {
        true => Encoding::UTF_8,
        false => plan.encoding,
    };
    let size = size_of(&source, of_validation.as_ref())?;
    next(Loading::Reading(size), encoding.decoded(size.unwrap_or(0)))?;
    let mut load = |source: &Source, encoding, before: u64| {
        let mut room = |bytes| {
            let bytes = before.saturating_add(bytes);
            next(Loading::Reading(Some(bytes)), bytes)
        };
        let read_as = ReadAs {
            encoding,
            any_bytes,
        };
        Corpus::load_with(source, read_as, &mut room)
    };
    let corpus = load(&source, encoding, 0)?;
    let before = corpus.content.bytes().len() as u64;
    let validation = match &of_validation {
        Some(source) => Some(load(source, plan.encoding, before)?),
        None => None,
    };
    Ok(Texts {
        text: corpus,
        validation,
    })
}

/// Refuses a FIFO or device as the text of a stored plan, because reading it could block forever.
fn check_files(source: &Source) -> Result<(), TrainError> {
    let Source::Files(paths) = source else {
        return Ok(());
    };
    for path in paths {
        if path.exists() && !path.is_file() && !path.is_dir() {
            return Err(TrainError::Folder {
                path: path.clone(),
                problem: "was the text of the run, but is no longer a regular file; restore it"
                    .to_string(),
            });
        }
    }
    Ok(())
}

/// What the tokenizer changes in the text, if anything.
fn altered(tokenizer: &Tokenizer, train: &str) -> Result<Option<RoundTrip>, TrainError> {
    let round_trip = RoundTrip::of(tokenizer, train)?;
    Ok(Some(round_trip).filter(|round_trip| round_trip.lost > 0))
}

/// The largest share of characters that may be lost without `--lossy`.
const MAX_LOST_SHARE: f64 = 0.01;

fn refuse_lossy(tokenizer: &Tokenizer, altered: &RoundTrip) -> Result<(), TrainError> {
    if altered.share() <= MAX_LOST_SHARE {
        return Ok(());
    }
    let most = altered.most_lost;
    let most = most.map_or(String::new(), |it| format!(", most of all {it:?}"));
    Err(PlanError::new(format!(
        "the tokenizer ({}) loses {:.0} % of the characters of the text{most}; choose another, \
         or accept the loss with --lossy",
        tokenizer.describe(),
        (100.0 * altered.share()).max(1.0)
    ))
    .into())
}

fn source_of(plan: &Plan, kept: Option<&Path>) -> Source {
    let is_stdin = plan.reads_standard_input();
    match (plan.text.as_slice(), kept.filter(|_| is_stdin)) {
        (_, Some(kept)) => Source::Files(vec![kept.to_path_buf()]),
        ([], None) => Source::Embedded,
        (_, None) if is_stdin => Source::Stdin,
        (files, None) => Source::Files(files.iter().map(|path| plan.located(path)).collect()),
    }
}

/// The total size of both texts in bytes, if known in advance.
fn size_of(source: &Source, validation: Option<&Source>) -> Result<Option<u64>, TrainError> {
    let of_validation = validation.map_or(Ok(Some(0)), Source::size)?;
    let sizes = source.size()?.zip(of_validation);
    Ok(sizes.map(|(text, validation)| text.saturating_add(validation)))
}

fn check_unchanged(
    plan: &Plan,
    sha256: &(String, String),
    description: &str,
) -> Result<(), TrainError> {
    if plan.text_sha256.is_empty() {
        return Ok(());
    }
    let validation = plan.val.as_ref().map(|path| plan.located(path));
    let validation = validation.map_or(String::new(), |path| path.display().to_string());
    let texts = [
        ("text", description, &sha256.0, &plan.text_sha256),
        ("validation text", &validation, &sha256.1, &plan.val_sha256),
    ];
    match texts.into_iter().find(|(_, _, now, then)| now != then) {
        Some((text, name, ..)) => Err(TrainError::Changed {
            text,
            name: name.to_string(),
        }),
        None => Ok(()),
    }
}

/// Builds a tokenizer. A character vocabulary includes the validation text; BPE merges are learned
/// from the training text only.
fn make_tokenizer(
    kind: &TokenizerKind,
    train_text: &str,
    validation_text: &str,
) -> Result<Tokenizer, TrainError> {
    if *kind != TokenizerKind::Char {
        return Ok(Tokenizer::build(kind, train_text)?);
    }
    let mut characters = BTreeSet::new();
    characters.extend(train_text.chars().chain(validation_text.chars()));
    Ok(Tokenizer::build(kind, &String::from_iter(characters))?)
}

/// Memory for training byte-level BPE, per distinct word of the text and per byte of these words:
/// counts, symbols, and positions of all pairs. Fitted to measured peaks.
const BYTES_PER_WORD: u64 = 250;
const BYTES_PER_LETTER: u64 = 50;

/// The memory in bytes for training merges, without the text.
fn bpe_training_bytes(text: &str) -> u64 {
    let words: HashSet<&str> = text.split_whitespace().collect();
    let letters: u64 = words.iter().map(|word| word.len() as u64).sum();
    BYTES_PER_WORD * words.len() as u64 + BYTES_PER_LETTER * letters
}
