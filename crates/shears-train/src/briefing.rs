//! What rank 0 sends to the other ranks before training, so that they need no text, tokenizer or
//! run folder on their own machines.

use serde::{Deserialize, Serialize};
use shears_data::{Tokenizer, Tokens};

use crate::TrainError;
use crate::checkpoint::Checkpoint;
use crate::corpora::Corpora;
use crate::plan::Plan;

/// Everything that a rank needs to know about a run.
#[derive(Debug)]
pub struct Briefing {
    /// The plan, resolved.
    pub plan: Plan,
    /// Tokens and tokenizer; other fields about loading are not sent.
    pub corpora: Corpora,
    /// The checkpoint to resume from.
    pub checkpoint: Option<Checkpoint>,
}

/// The small parts of a briefing.
#[derive(Serialize, Deserialize)]
struct Header {
    plan: String,
    description: String,
    tokenizer: String,
    validation_characters: usize,
}

impl Briefing {
    /// Serialises a briefing, for [`Briefing::from_bytes`].
    ///
    /// # Errors
    ///
    /// If serialisation fails, which would be a bug.
    pub fn to_bytes(
        plan: &Plan,
        corpora: &Corpora,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Vec<u8>, TrainError> {
        let fault = |error: String| TrainError::Ranks {
            problem: format!("cannot send the run to the other ranks: {error}"),
        };
        let head = Header {
            plan: toml::to_string(plan).map_err(|error| fault(error.to_string()))?,
            description: corpora.description.clone(),
            tokenizer: corpora.tokenizer.json().to_string(),
            validation_characters: corpora.validation_characters,
        };
        let head = serde_json::to_vec(&head).map_err(|error| fault(error.to_string()))?;
        let mut bytes = Vec::new();
        append(&mut bytes, &head);
        for tokens in [&corpora.train, &corpora.validation] {
            bytes.extend((1 + tokens.bytes() as u64).to_le_bytes());
            tokens.append_bytes_to(&mut bytes);
        }
        if let Some(checkpoint) = checkpoint {
            let appended = checkpoint.append_parts(&mut bytes);
            appended.map_err(|error| fault(error.to_string()))?;
        }
        Ok(bytes)
    }

    /// Deserialises the result of [`Briefing::to_bytes`].
    ///
    /// # Errors
    ///
    /// If the bytes are invalid, for example from another version of this program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Briefing, TrainError> {
        let unreadable = |what: &str| TrainError::Ranks {
            problem: format!("cannot read the run sent by rank 0: {what}"),
        };
        let mut rest = bytes;
        let mut next = || part(&mut rest);
        let head = next().ok_or_else(|| unreadable("it is truncated"))?;
        let head: Header = serde_json::from_slice(head).map_err(|e| unreadable(&e.to_string()))?;
        let mut tokens = || Tokens::from_bytes(next()?);
        let (train, validation) = (tokens(), tokens());
        let (Some(train), Some(validation)) = (train, validation) else {
            return Err(unreadable("it is truncated"));
        };
        let mut parts = Vec::new();
        while let Some(part) = part(&mut rest) {
            parts.push(part);
        }
        let checkpoint = match parts.is_empty() {
            true => None,
            false => Some(Checkpoint::from_parts(&parts).map_err(|e| unreadable(&e))?),
        };
        let plan = toml::from_str(&head.plan).map_err(|e| unreadable(e.message()))?;
        Ok(Briefing {
            plan,
            corpora: Corpora {
                description: head.description,
                tokenizer: Tokenizer::from_json(head.tokenizer, "tokenizer.json".to_string())?,
                train,
                validation,
                validation_characters: head.validation_characters,
                standard_input: None,
                sha256: (String::new(), String::new()),
                // Rank 0 reports it.
                altered: None,
                loading: bytes.len() as u64,
                kept: 0,
            },
            checkpoint,
        })
    }
}

fn append(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend((part.len() as u64).to_le_bytes());
    bytes.extend(part);
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (part, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(part)
}
