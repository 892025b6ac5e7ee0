//! Text that is streamed while the model generates it.

use shears_data::{StreamDecoder, Tokenizer};

use crate::decode::Generator;
use crate::error::GenerateError;
use crate::sampling::Sampler;
use crate::stop::{Release, StopMatcher};

/// Where a text ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most tokens to generate.
    pub tokens: usize,
    /// Texts that end the output; it is cut before the one that starts first.
    pub stop: Vec<String>,
    /// The token that ends a text, if the model has one; it is not part of the text.
    pub end: Option<u32>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The requested number of tokens was generated.
    Tokens,
    /// A stop text was generated, and cut off.
    Stop,
    /// The model generated the token that ends a text.
    End,
    /// The model failed; the stream yielded the error.
    Error,
}

/// Continues a prompt: the model reads it at once, and generates while the stream is iterated.
///
/// `generator` is at the start of a text or after what it has already read. Without a `prompt`, the
/// model reads the token `start` first, for example a newline, which is not part of the text.
/// Tokens that the tokenizer does not have are never generated.
///
/// # Errors
///
/// [`GenerateError::EmptyStop`] for an empty stop text; [`GenerateError::UnknownToken`] for a token
/// that the tokenizer does not have;
/// those of [`Generator::read`].
pub fn generate_text<'a>(
    mut generator: Generator<'a>,
    sampler: Sampler,
    tokenizer: &'a Tokenizer,
    prompt: &[u32],
    start: u32,
    limits: Limits,
) -> Result<TextStream<'a>, GenerateError> {
    let matcher = StopMatcher::new(limits.stop)?;
    // The start token is not part of the text.
    let decoder = StreamDecoder::after(tokenizer, prompt);
    generator.limit_to(tokenizer.vocab_size());
    let start = [start];
    let prompt = if prompt.is_empty() { &start } else { prompt };
    check_known(prompt, tokenizer)?;
    generator.read(prompt)?;
    Ok(TextStream {
        generator,
        sampler,
        decoder,
        matcher,
        tokens_max: limits.tokens,
        end: limits.end,
        tokens: 0,
        ending: None,
    })
}

/// Yields a text piece by piece, while the model generates it.
///
/// The pieces are never empty and consist of whole characters; a character that the token limit
/// splits is dropped. Text that may still become a stop text is held back until that is decided, so
/// that the pieces together are exactly the text before the stop text.
pub struct TextStream<'a> {
    generator: Generator<'a>,
    sampler: Sampler,
    decoder: StreamDecoder<'a>,
    matcher: StopMatcher,
    tokens_max: usize,
    end: Option<u32>,
    tokens: usize,
    ending: Option<Ending>,
}

impl TextStream<'_> {
    /// How many tokens the model has generated, including those of the stop text.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Why the text ended; `None` while it continues.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Generates one token, or ends the text, and returns the text that this decides.
    fn step(&mut self) -> Result<String, GenerateError> {
        if self.tokens >= self.tokens_max {
            return Ok(self.finish(Ending::Tokens));
        }
        let token = self.generator.next(&mut self.sampler)?;
        if self.end == Some(token) {
            return Ok(self.finish(Ending::End));
        }
        self.tokens += 1;
        let whole = self.decoder.push(token).unwrap_or_default();
        let Release { text, stopped } = self.matcher.push(&whole);
        if stopped {
            self.ending = Some(Ending::Stop);
        }
        Ok(text)
    }

    /// Ends the text, and returns what was held back.
    fn finish(&mut self, ending: Ending) -> String {
        // The last token may have left a character unfinished. A replacement character for it would
        // be one that the model did not generate.
        let rest = self.decoder.finish().unwrap_or_default();
        let rest = rest.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let mut release = self.matcher.push(rest);
        if !release.stopped {
            let Release { text, stopped } = self.matcher.finish();
            release.text.push_str(&text);
            release.stopped = stopped;
        }
        self.ending = Some(if release.stopped {
            Ending::Stop
        } else {
            ending
        });
        release.text
    }
}

impl Iterator for TextStream<'_> {
    type Item = Result<String, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ending.is_none() {
            match self.step() {
                Ok(text) if text.is_empty() => {}
                Ok(text) => return Some(Ok(text)),
                Err(error) => {
                    self.ending = Some(Ending::Error);
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Checks that the tokenizer has all tokens.
fn check_known(tokens: &[u32], tokenizer: &Tokenizer) -> Result<(), GenerateError> {
    let vocabulary = tokenizer.vocab_size();
    match tokens.iter().find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(GenerateError::UnknownToken { token, vocabulary }),
        None => Ok(()),
    }
}
