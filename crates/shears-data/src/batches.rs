//! Batches of token ids, each a pure function of the step.
//!
//! Recurrent models train on [`StreamBatches`]: every row continues the same row of the previous
//! step, so that the hidden state can be carried over. Transformers train on [`RandomWindows`]. The
//! former are evaluated on [`EvaluationStreams`], the latter on [`ConsecutiveWindows`].

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::DataError;
use crate::tokens::Tokens;

/// The token ids of one step, row-major `[batch, window]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The model's input.
    pub inputs: Vec<u32>,
    /// Its targets: `targets[i]` is the token after `inputs[i]`.
    pub targets: Vec<u32>,
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub window: usize,
    /// Whether the rows start new streams, before which a recurrent model zeroes its hidden state.
    pub starts_stream: bool,
}

impl Batch {
    fn of_windows(
        tokens: &Tokens,
        starts: impl ExactSizeIterator<Item = usize>,
        window: usize,
        starts_stream: bool,
    ) -> Self {
        let batch = starts.len();
        let mut inputs = Vec::with_capacity(batch * window);
        let mut targets = Vec::with_capacity(batch * window);
        for start in starts {
            tokens.append_to(&mut inputs, start..start + window);
            tokens.append_to(&mut targets, start + 1..start + 1 + window);
        }
        Self {
            inputs,
            targets,
            batch,
            window,
            starts_stream,
        }
    }
}

/// Consecutive windows in parallel streams.
///
/// Of `n` tokens, `n - 1` can be predicted. Each of the `batch` rows owns `(n - 1) / batch`
/// consecutive ones, and an epoch walks through them window by window. An epoch omits what does not
/// fill a last window, fewer than `batch * window + batch` tokens at the ends of the streams. The
/// next epoch starts that much later, so that it reads to the very end, and the one after it at the
/// beginning again. Every window is whole, and [`StreamBatches::epochs_of_all`] epochs read every
/// token.
#[derive(Debug, Clone)]
pub struct StreamBatches {
    tokens: Tokens,
    batch: usize,
    window: usize,
    stream_length: usize,
    drops_ends: bool,
}

impl StreamBatches {
    /// Lays out the streams.
    ///
    /// # Errors
    ///
    /// If `batch` or `window` is 0, or if some stream would not hold a single window.
    pub fn new(tokens: Tokens, batch: usize, window: usize) -> Result<Self, DataError> {
        let needed = batch.saturating_mul(window).saturating_add(1);
        check_length(tokens.len(), needed, batch, window)?;
        let stream_length = (tokens.len() - 1) / batch;
        Ok(Self {
            tokens,
            batch,
            window,
            stream_length,
            drops_ends: false,
        })
    }

    /// Starts every epoch at the beginning, so that the ends of the streams are never read, as runs
    /// of the first versions do.
    #[must_use]
    pub fn dropping_ends(self) -> Self {
        Self {
            drops_ends: true,
            ..self
        }
    }

    /// The number of steps in an epoch.
    #[must_use]
    pub fn windows_per_epoch(&self) -> u64 {
        (self.stream_length / self.window) as u64
    }

    /// The number of tokens that an epoch omits.
    #[must_use]
    pub fn left_by_an_epoch(&self) -> usize {
        self.tokens.len() - 1 - self.batch * self.row_of_an_epoch()
    }

    /// The number of epochs after which every token has been read; `None` if that never happens.
    #[must_use]
    pub fn epochs_of_all(&self) -> Option<u64> {
        let all = self.most_delay().div_ceil(self.row_of_an_epoch()) as u64 + 1;
        (all == 1 || !self.drops_ends).then_some(all)
    }

    /// The tokens that a row reads in an epoch.
    fn row_of_an_epoch(&self) -> usize {
        self.stream_length / self.window * self.window
    }

    /// The most tokens by which an epoch can start later: the last row then ends with the text.
    fn most_delay(&self) -> usize {
        self.tokens.len() - 1 - (self.batch - 1) * self.stream_length - self.row_of_an_epoch()
    }

    /// The number of tokens by which an epoch starts later. The delays cycle in equal increments
    /// from zero to the maximum; an increment is at most what a row reads, so there are no gaps.
    fn delay(&self, epoch: u64) -> usize {
        match self.epochs_of_all() {
            None | Some(1) => 0,
            Some(epochs) => {
                let part = (epoch % epochs) as u128;
                (self.most_delay() as u128 * part / u128::from(epochs - 1)) as usize
            }
        }
    }

    /// The batch of a step. The last window of an epoch is followed by the first one of the next.
    #[must_use]
    pub fn batch_at(&self, step: u64) -> Batch {
        self.rows_at(step, self.batch)
    }

    /// The first `most` rows of a step's batch, or all if there are fewer.
    #[must_use]
    pub fn rows_at(&self, step: u64, most: usize) -> Batch {
        let windows = self.windows_per_epoch();
        let (epoch, window_of_epoch) = (step / windows, (step % windows) as usize);
        let offset = self.delay(epoch) + window_of_epoch * self.window;
        let rows = 0..self.batch.min(most);
        let starts = rows.map(|row| row * self.stream_length + offset);
        Batch::of_windows(&self.tokens, starts, self.window, window_of_epoch == 0)
    }
}

/// Windows at random positions; the batch of any step is computed directly.
#[derive(Debug, Clone)]
pub struct RandomWindows {
    tokens: Tokens,
    batch: usize,
    window: usize,
    seed: u64,
}

impl RandomWindows {
    /// Prepares to draw.
    ///
    /// # Errors
    ///
    /// If `batch` or `window` is 0, or if the text is shorter than one window and its last target.
    pub fn new(tokens: Tokens, batch: usize, window: usize, seed: u64) -> Result<Self, DataError> {
        check_length(tokens.len(), window.saturating_add(1), batch, window)?;
        Ok(Self {
            tokens,
            batch,
            window,
            seed,
        })
    }

    /// The batch of a step: start positions are uniform in `0..=n - window - 1`, drawn from the
    /// ChaCha8 generator of the seed, from the stream numbered by the step.
    #[must_use]
    pub fn batch_at(&self, step: u64) -> Batch {
        self.rows_at(step, self.batch)
    }

    /// The first `most` rows of a step's batch, or all if there are fewer.
    #[must_use]
    pub fn rows_at(&self, step: u64, most: usize) -> Batch {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(step);
        let places = (self.tokens.len() - self.window) as u128;
        // The high half of a 128-bit product. Its bias, at most places / 2^64, is negligible, and
        // it consumes one word per row, independent of any library version.
        let rows = 0..self.batch.min(most);
        let starts = rows.map(|_| ((u128::from(random.next_u64()) * places) >> 64) as usize);
        Batch::of_windows(&self.tokens, starts, self.window, true)
    }
}

/// Consecutive windows, in which every position from 1 on is a target exactly once.
///
/// First come the full windows in batches of up to `batch` rows, then the shorter rest by itself.
/// No row continues another.
#[derive(Debug, Clone)]
pub struct ConsecutiveWindows<'a> {
    tokens: &'a Tokens,
    batch: usize,
    window: usize,
    place: usize,
}

/// Cuts a text into windows for evaluation; see [`ConsecutiveWindows`].
///
/// # Errors
///
/// If `batch` or `window` is 0, or if there are fewer than two tokens.
pub fn evaluation_batches(
    tokens: &Tokens,
    batch: usize,
    window: usize,
) -> Result<ConsecutiveWindows<'_>, DataError> {
    check_length(tokens.len(), 2, batch, window)?;
    Ok(ConsecutiveWindows {
        tokens,
        batch,
        window,
        place: 0,
    })
}

impl Iterator for ConsecutiveWindows<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let left = self.tokens.len() - 1 - self.place;
        if left == 0 {
            return None;
        }
        let window = self.window.min(left);
        let rows = self.batch.min(left / window);
        let start = self.place;
        self.place += rows * window;
        let starts = (0..rows).map(|row| start + row * window);
        Some(Batch::of_windows(self.tokens, starts, window, true))
    }
}

/// A text cut for evaluation into a head, followed by parts of equal length that are read in
/// parallel. Every position from 1 on is a target exactly once, in the head or in a part.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationStreams<'a> {
    tokens: &'a Tokens,
    head: usize,
    parts: usize,
    part: usize,
}

/// Reading fewer parts than this in parallel saves nothing.
const FEWEST_PARTS: usize = 4;

impl<'a> EvaluationStreams<'a> {
    /// Cuts a text into at most `parts` parts of at least `shortest` tokens. The head is the
    /// remainder, at least one token; a short text is all head.
    ///
    /// # Errors
    ///
    /// If there are fewer than two tokens.
    pub fn new(tokens: &'a Tokens, parts: usize, shortest: usize) -> Result<Self, DataError> {
        check_length(tokens.len(), 2, 1, 1)?;
        let targets = tokens.len() - 1;
        let parts = match parts.min((targets - 1) / shortest.max(1)) {
            ..FEWEST_PARTS => 0,
            parts => parts,
        };
        let part = (targets - 1).checked_div(parts).unwrap_or(0);
        Ok(EvaluationStreams {
            tokens,
            head: targets - parts * part,
            parts,
            part,
        })
    }

    /// The number of parts; 0 if the whole text is head.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// One row that reads the head, at most `window` (at least 1) tokens per batch.
    pub fn head_batches(&self, window: usize) -> impl Iterator<Item = Batch> + use<'a> {
        self.batches(1, (0, self.head), window)
    }

    /// One row per part, in order: the first continues the head, each other one the row before it.
    pub fn part_batches(&self, window: usize) -> impl Iterator<Item = Batch> + use<'a> {
        self.batches(self.parts, (self.head, self.part), window)
    }

    /// Batches of `rows` rows, the first of which reads `length` tokens from `start` on; each row
    /// starts one part after the row before.
    fn batches(
        &self,
        rows: usize,
        (start, length): (usize, usize),
        window: usize,
    ) -> impl Iterator<Item = Batch> + use<'a> {
        let (tokens, part) = (self.tokens, self.part);
        let window = window.max(1);
        (0..length).step_by(window).map(move |read| {
            let window = window.min(length - read);
            let starts = (0..rows).map(|row| start + read + row * part);
            Batch::of_windows(tokens, starts, window, start + read == 0)
        })
    }
}

fn check_length(
    tokens: usize,
    needed: usize,
    batch: usize,
    window: usize,
) -> Result<(), DataError> {
    if batch == 0 {
        return Err(DataError::ZeroSize { name: "batch" });
    }
    if window == 0 {
        return Err(DataError::ZeroSize { name: "window" });
    }
    if tokens < needed {
        return Err(DataError::TooShort {
            tokens,
            needed,
            batch,
            window,
        });
    }
    Ok(())
}
