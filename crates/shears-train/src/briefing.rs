//! What the first of several ranks has read and all of them need, as bytes: so that no other needs
//! the text, the tokenizer or the run's folder on its own machine.

use serde::{Deserialize, Serialize};
use shears_data::{Tokenizer, Tokens};

use crate::TrainError;
use crate::checkpoint::Checkpoint;
use crate::corpora::Corpora;
use crate::plan::Plan;

/// A run that is about to be trained, as every rank has to know it.
#[derive(Debug)]
pub struct Briefing {
    /// The plan, resolved.
    pub plan: Plan,
    /// Texts and tokenizer; of the first rank's loading, nothing else is known to the others.
    pub corpora: Corpora,
    /// Where the run is gone on from.
    pub checkpoint: Option<Checkpoint>,
}

/// What is not large.
#[derive(Serialize, Deserialize)]
struct Head {
    plan: String,
    description: String,
    tokenizer: String,
    validation_characters: usize,
}

impl Briefing {
    /// As bytes, which [`Briefing::from_bytes`] reads.
    ///
    /// # Errors
    ///
    /// If the plan cannot be written, which is a fault of this program.
    pub fn to_bytes(
        plan: &Plan,
        corpora: &Corpora,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Vec<u8>, TrainError> {
        let fault = |error: String| TrainError::Ranks {
            problem: format!("cannot tell the other ranks what to train: {error}"),
        };
        let head = Head {
            plan: toml::to_string(plan).map_err(|error| fault(error.to_string()))?,
            description: corpora.description.clone(),
            tokenizer: corpora.tokenizer.json().to_string(),
            validation_characters: corpora.validation_characters,
        };
        let head = serde_json::to_vec(&head).map_err(|error| fault(error.to_string()))?;
        let mut bytes = Vec::new();
        append(&mut bytes, &head);
        for tokens in [&corpora.train, &corpora.validation] {
            let ids = tokens.slice(0..tokens.len());
            let ids: Vec<u8> = ids.into_iter().flat_map(u32::to_le_bytes).collect();
            append(&mut bytes, &ids);
        }
        if let Some(checkpoint) = checkpoint {
            let parts = checkpoint.to_parts();
            for part in parts.map_err(|error| fault(error.to_string()))? {
                append(&mut bytes, &part);
            }
        }
        Ok(bytes)
    }

    /// Reads what [`Briefing::to_bytes`] has written.
    ///
    /// # Errors
    ///
    /// If these are other bytes, such as those of another version of this program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Briefing, TrainError> {
        let unreadable = |what: &str| TrainError::Ranks {
            problem: format!("cannot read what rank 0 tells to train: {what}"),
        };
        let mut rest = bytes;
        let mut next = || part(&mut rest);
        let head = next().ok_or_else(|| unreadable("it is cut short"))?;
        let head: Head = serde_json::from_slice(head).map_err(|e| unreadable(&e.to_string()))?;
        let mut tokens = || -> Option<Tokens> {
            let (ids, _) = next()?.as_chunks();
            let ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
            Some(ids[..].into())
        };
        let (train, validation) = (tokens(), tokens());
        let (Some(train), Some(validation)) = (train, validation) else {
            return Err(unreadable("it is cut short"));
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
                // Who reads tells of it.
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
