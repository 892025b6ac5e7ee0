//! The text of a run as tokens, and what it takes to get there.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use shears_data::{Corpus, Encoding, ReadAs, RoundTrip, Source, Tokenizer, TokenizerKind, Tokens};

use crate::TrainError;
use crate::plan::{Plan, PlanError};

/// The text of a run as tokens.
#[derive(Debug)]
pub struct Corpora {
    /// Where the text came from.
    pub description: String,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// Training tokens.
    pub train: Tokens,
    /// Validation tokens.
    pub validation: Tokens,
    /// Characters of the validation text, as it comes back from tokens.
    pub validation_characters: usize,
    /// What the tokenizer makes of the training text, if it loses characters.
    pub altered: Option<RoundTrip>,
    /// The whole training text, when it came from standard input.
    pub standard_input: Option<Vec<u8>>,
    /// SHA-256 of the text and of the validation file, as the plan keeps them.
    pub sha256: (String, String),
    /// Bytes of memory that it took at most to get here, about, beside the program's own.
    pub loading: u64,
    /// Those of them that the program keeps: of many small pieces that are given back, the system
    /// gets none.
    pub kept: u64,
}

impl Corpora {
    /// Notes in the plan of a new run which text and which tokenizer it is for, and where the paths
    /// of the text were typed.
    pub fn identify(&self, plan: &mut Plan) {
        (plan.text_sha256, plan.val_sha256) = self.sha256.clone();
        plan.tokenizer_sha256 = self.tokenizer.fingerprint();
        plan.note_where_typed();
    }
}

/// What comes next on the way from a text to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loading {
    /// Files of so many bytes are read; of standard input nobody knows the size.
    Reading(Option<u64>),
    /// A tokenizer is trained on a text of so many bytes.
    Learning(u64),
    /// A text of so many bytes becomes tokens.
    Encoding(u64),
}

/// Reads and tokenizes the text that a plan names.
///
/// `kept_text` is the text of a run that read standard input; `tokenizer` is that of a run that is
/// resumed, and without it one is made. `next` is asked before each part, with the bytes of memory
/// that it will take at most, about; it may refuse.
///
/// # Errors
///
/// What cannot be read or tokenized, a text that is not the one whose hash the plan has, and what
/// `next` refuses.
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
    let (corpus, validation_file) = read(plan, kept_text, any_bytes, &mut next)?;
    let of_validation = validation_file.as_ref().map(Corpus::fingerprint);
    let sha256 = (corpus.fingerprint(), of_validation.unwrap_or_default());
    // Before it is tokenized: a new text may have characters that the run's tokenizer lacks.
    check_unchanged(plan, &sha256, &corpus.description)?;
    let (train_text, validation_text) = match &validation_file {
        Some(validation) => (corpus.content.as_ref(), validation.content.as_ref()),
        None => corpus.content.split(),
    };
    let [train, validation] = [&train_text, &validation_text].map(|it| it.text().unwrap_or(""));
    let bytes = (train_text.bytes().len() + validation_text.bytes().len()) as u64;
    let mut kept = 0;
    let is_new = tokenizer.is_none();
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer,
        None => {
            if let TokenizerKind::Bpe(_) = plan.tokenizer {
                let learning = memory_of_learning(train);
                kept = learning;
                next(Loading::Learning(bytes), bytes.saturating_add(learning))?;
            }
            make_tokenizer(&plan.tokenizer, train, validation)?
        }
    };
    kept += tokenizer.memory();
    let encoding = kept + tokenizer.memory_of_tokens(&train_text, &validation_text);
    next(Loading::Encoding(bytes), bytes.saturating_add(encoding))?;
    let altered = altered(&tokenizer, train)?;
    if let Some(altered) = altered.filter(|_| is_new && !plan.lossy) {
        refuse_lossy(&tokenizer, &altered)?;
    }
    let characters = validation_text.characters();
    let is_stdin = matches!(source_of(plan, kept_text), Source::Stdin);
    Ok(Corpora {
        validation_characters: altered.map_or(characters, |it| it.decoded_of(characters)),
        train: tokenizer.tokens(train_text)?,
        validation: tokenizer.tokens(validation_text)?,
        tokenizer,
        altered,
        sha256,
        description: corpus.description,
        standard_input: is_stdin.then(|| corpus.content.bytes().to_vec()),
        loading,
        kept,
    })
}

/// The text, and that for validation if it is a file of its own.
fn read(
    plan: &Plan,
    kept: Option<&Path>,
    any_bytes: bool,
    next: &mut dyn FnMut(Loading, u64) -> Result<(), TrainError>,
) -> Result<(Corpus, Option<Corpus>), TrainError> {
    let source = source_of(plan, kept);
    let of_validation = plan.val.as_ref();
    let of_validation = of_validation.map(|path| Source::Files(vec![plan.located(path)]));
    if !plan.text_sha256.is_empty() {
        let texts = [Some(&source), of_validation.as_ref()];
        texts.into_iter().flatten().try_for_each(check_files)?;
    }
    let size = size_of(&source, of_validation.as_ref())?;
    next(Loading::Reading(size), size.unwrap_or(0))?;
    // What a run has kept is UTF-8, whatever it was made of.
    let encoding = match kept.is_some() && plan.reads_standard_input() {
        true => Encoding::UTF_8,
        false => plan.encoding,
    };
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
    Ok((corpus, validation))
}

/// Refuses a text of a plan that somebody else may have written, if it is a FIFO or a device, which
/// nobody may ever write to.
fn check_files(source: &Source) -> Result<(), TrainError> {
    let Source::Files(paths) = source else {
        return Ok(());
    };
    for path in paths {
        if path.exists() && !path.is_file() && !path.is_dir() {
            return Err(TrainError::Folder {
                path: path.clone(),
                problem: "is the text of the run, and no longer a file; put it back".to_string(),
            });
        }
    }
    Ok(())
}

/// What a tokenizer makes of the text, if that is not the text.
fn altered(tokenizer: &Tokenizer, train: &str) -> Result<Option<RoundTrip>, TrainError> {
    let round_trip = RoundTrip::of(tokenizer, train)?;
    Ok(Some(round_trip).filter(|round_trip| round_trip.lost > 0))
}

/// The share of the characters that may be lost without anybody having agreed to it.
const LOST_MAX: f64 = 0.01;

fn refuse_lossy(tokenizer: &Tokenizer, altered: &RoundTrip) -> Result<(), TrainError> {
    if altered.share() <= LOST_MAX {
        return Ok(());
    }
    let most = altered.most_lost;
    let most = most.map_or(String::new(), |it| format!(", most of all {it:?}"));
    Err(PlanError::new(format!(
        "the tokenizer ({}) loses {:.0} % of the characters of the text{most}; take another, or \
         train on what it leaves with --lossy",
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

/// Bytes of both texts together, if that is known before they are read.
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

/// The symbols of the validation text belong to the vocabulary; learned merges do not look at it.
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

/// Bytes for each different word of the text from which byte-level BPE is learned, and for each
/// byte of these words: counts, symbols, and the places of all pairs of symbols. Fitted to peaks.
const BYTES_OF_A_WORD: u64 = 250;
const BYTES_OF_A_LETTER: u64 = 50;

/// What learning merges takes beside the text.
fn memory_of_learning(text: &str) -> u64 {
    let words: HashSet<&str> = text.split_whitespace().collect();
    let letters: u64 = words.iter().map(|word| word.len() as u64).sum();
    BYTES_OF_A_WORD * words.len() as u64 + BYTES_OF_A_LETTER * letters
}
