//! The `tokenizers` library behind a guard: trains BPE and runs any `tokenizer.json`.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;

use super::guard::guarded;
use super::{bounds, byte_level, format, guard, probe};

/// The library's memory per byte of the text that it encodes.
const BYTES_FOR_A_BYTE: u64 = 50;
/// The bytes of text passed to the library at a time.
const PIECE_BYTES: usize = 1 << 16;
/// Learning from a word takes the square of its length; longer runs of characters are cut for
/// training, which costs the statistics one pair per run.
const TRAINING_RUN_CHARS: usize = 1024;
/// A pair of tokens that occurs only once teaches nothing about the text.
const MIN_FREQUENCY: u64 = 2;

/// A tokenizer that only the library can run.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    inner: Arc<tokenizers::Tokenizer>,
    pub(crate) size: usize,
    /// Whether cutting a text before white space keeps its ids.
    cuttable: bool,
    /// Characters in its patterns.
    own_characters: Vec<char>,
    /// The result of probing it, if that was necessary.
    probed: Arc<OnceLock<Result<(), String>>>,
}

/// Trains byte-level BPE; the result is a `tokenizer.json`.
pub(crate) fn train_bpe(size: usize, text: &str) -> Result<String, String> {
    guarded(|| {
        let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
        // Every byte is a token, so that every text has ids.
        let mut trainer = TrainerWrapper::from(
            BpeTrainer::builder()
                .vocab_size(size)
                .min_frequency(MIN_FREQUENCY)
                .show_progress(false)
                .initial_alphabet(byte_level::symbols().into_iter().collect())
                .build(),
        );
        tokenizer.train(
            &mut trainer,
            Pieces {
                rest: text,
                run_chars_max: TRAINING_RUN_CHARS,
            },
        )?;
        let mut json = tokenizer.to_string(true)?;
        json.push('\n');
        Ok(json)
    })
}

impl Library {
    pub(crate) fn load(json: &str, value: &Value) -> Result<Self, String> {
        let inner = guarded(|| {
            // Unlike `from_bytes`, this is compiled once, in the library.
            let mut inner: tokenizers::Tokenizer = json.parse()?;
            // A maximum length would silently drop the rest of the text.
            inner.with_truncation(None)?;
            inner.with_padding(None);
            // Adds nothing around a text; otherwise post-processors do not change ids.
            inner.with_post_processor(None::<PostProcessorWrapper>);
            Ok(Arc::new(inner))
        });
        let inner = inner.map_err(|problem| guard::plain_message(&problem))?;
        let ids = inner.get_vocab(true);
        let size = ids.len();
        if ids.values().any(|id| *id as usize >= size) {
            return Err(format!("ids are not 0 to {} without gaps", size - 1));
        }
        for token in value["added_tokens"].as_array().into_iter().flatten() {
            let (content, id) = (token["content"].as_str(), token["id"].as_u64());
            if content
                .and_then(|content| ids.get(content))
                .map(|id| u64::from(*id))
                != id
            {
                return Err("ids of `added_tokens` do not follow those of `model.vocab`".to_owned());
            }
        }
        Ok(Self {
            inner,
            size,
            cuttable: format::is_plain_byte_level_bpe(value),
            own_characters: probe::own_characters(&bounds::patterns(value)),
            probed: Arc::default(),
        })
    }

    /// Whether it is byte-level BPE that changes nothing.
    pub(crate) fn is_plain(&self) -> bool {
        self.cuttable
    }

    /// The memory in bytes for encoding a text of this many, without the ids.
    pub(crate) fn memory_of_encoding(&self, bytes: u64) -> u64 {
        let piece = match self.cuttable {
            true => bytes.min(PIECE_BYTES as u64),
            false => bytes,
        };
        piece.saturating_mul(BYTES_FOR_A_BYTE)
    }

    pub(crate) fn encode(&self, text: &str, take: &mut dyn FnMut(u32)) -> Result<(), String> {
        if !self.cuttable && text.len() > probe::SHORT {
            let probed = || probe::check(&self.inner, &self.own_characters);
            self.probed.get_or_init(probed).clone()?;
        }
        let pieces: &mut dyn Iterator<Item = &str> = if self.cuttable {
            &mut Pieces {
                rest: text,
                run_chars_max: usize::MAX,
            }
        } else {
            &mut std::iter::once(text)
        };
        for piece in pieces {
            let encoding = guarded(|| self.inner.encode_fast(piece, false))?;
            for id in encoding.get_ids() {
                if *id as usize >= self.size {
                    return Err(format!("id {id} came out of a vocabulary of {}", self.size));
                }
                take(*id);
            }
        }
        Ok(())
    }

    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        guarded(|| self.inner.decode(ids, false))
            .unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.to_string())
    }

    /// The bytes of each token, by id.
    pub(crate) fn token_bytes(&self) -> Vec<Vec<u8>> {
        (0..self.size as u32)
            .map(|id| {
                self.inner
                    .id_to_token(id)
                    .map_or(vec![], |token| byte_level::bytes_of(&token))
            })
            .collect()
    }
}

/// Cuts a text into pieces with the same words as the whole: white space after something else
/// always starts a word, and no word looks beyond its own white space.
///
/// Runs longer than `run_chars_max`, of white space or of anything else, are cut as well.
struct Pieces<'a> {
    rest: &'a str,
    run_chars_max: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let mut after_word = false;
        let mut run_chars = 0;
        let place = self.rest.char_indices().find(|(offset, character)| {
            let in_word = !character.is_whitespace();
            let begins_word = after_word && !in_word;
            run_chars = if in_word == after_word {
                run_chars + 1
            } else {
                1
            };
            after_word = in_word;
            (begins_word && *offset >= PIECE_BYTES) || run_chars > self.run_chars_max
        });
        let (piece, rest) = self
            .rest
            .split_at(place.map_or(self.rest.len(), |(offset, _)| offset));
        self.rest = rest;
        Some(piece)
    }
}
