//! Token ids in compact form: two bytes each if the vocabulary allows it.

use std::ops::Range;
use std::sync::Arc;

/// The ids of a text, shared by all readers.
#[derive(Debug, Clone)]
pub struct Tokens {
    ids: Ids,
    len: usize,
}

/// All ids in one type, as small as the vocabulary allows.
#[derive(Debug, Clone)]
enum Ids {
    Short(Arc<Vec<u16>>),
    Long(Arc<Vec<u32>>),
}

impl Tokens {
    /// The bytes of an id, given the size of the vocabulary.
    #[must_use]
    pub fn bytes_each(vocabulary: usize) -> usize {
        if vocabulary <= 1 << 16 { 2 } else { 4 }
    }

    /// The number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory of the ids, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.ids {
            Ids::Short(ids) => 2 * ids.len(),
            Ids::Long(ids) => 4 * ids.len(),
        }
    }

    /// The first `len` ids, or all if there are fewer.
    #[must_use]
    pub fn first(&self, len: usize) -> Self {
        Self {
            ids: self.ids.clone(),
            len: self.len.min(len),
        }
    }

    /// The ids in this range.
    ///
    /// # Panics
    ///
    /// If the range goes beyond the end.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Vec<u32> {
        let mut into = Vec::with_capacity(range.len());
        self.append_to(&mut into, range);
        into
    }

    /// Appends the ids in this range to `into`.
    pub(crate) fn append_to(&self, into: &mut Vec<u32>, range: Range<usize>) {
        assert!(range.end <= self.len, "{range:?} of {} tokens", self.len);
        match &self.ids {
            Ids::Short(ids) => into.extend(ids[range].iter().map(|id| u32::from(*id))),
            Ids::Long(ids) => into.extend_from_slice(&ids[range]),
        }
    }
}

impl From<&[u32]> for Tokens {
    fn from(ids: &[u32]) -> Self {
        let vocabulary = ids.iter().max().map_or(0, |id| *id as usize + 1);
        let mut writer = Writer::new(vocabulary, ids.len());
        ids.iter().for_each(|id| writer.push(*id));
        writer.finish()
    }
}

/// Collects ids one by one.
pub(crate) enum Writer {
    Short(Vec<u16>),
    Long(Vec<u32>),
}

impl Writer {
    /// For ids of a vocabulary, about `expected` of them.
    pub(crate) fn new(vocabulary: usize, expected: usize) -> Self {
        match Tokens::bytes_each(vocabulary) {
            2 => Self::Short(Vec::with_capacity(expected)),
            _ => Self::Long(Vec::with_capacity(expected)),
        }
    }

    /// Adds an id below the vocabulary's size.
    pub(crate) fn push(&mut self, id: u32) {
        match self {
            Self::Short(ids) => ids.push(u16::try_from(id).expect("it is below the vocabulary")),
            Self::Long(ids) => ids.push(id),
        }
    }

    pub(crate) fn finish(self) -> Tokens {
        match self {
            Self::Short(mut ids) => {
                ids.shrink_to_fit();
                Tokens {
                    len: ids.len(),
                    ids: Ids::Short(Arc::new(ids)),
                }
            }
            Self::Long(mut ids) => {
                ids.shrink_to_fit();
                Tokens {
                    len: ids.len(),
                    ids: Ids::Long(Arc::new(ids)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_two_bytes_where_they_can() {
        let short = Tokens::from(&[0, 65_535, 3][..]);
        assert_eq!((short.len(), short.bytes()), (3, 6));
        assert_eq!(short.slice(1..3), [65_535, 3]);
        let long = Tokens::from(&[0, 65_536, 3][..]);
        assert_eq!((long.len(), long.bytes()), (3, 12));
        assert_eq!(long.slice(0..2), [0, 65_536]);
        let first = long.first(1);
        assert_eq!((first.len(), first.slice(0..1)), (1, vec![0]));
        assert_eq!(long.first(9).len(), 3);
        assert!(Tokens::from(&[][..]).is_empty());
    }

    #[test]
    #[should_panic(expected = "of 2 tokens")]
    fn truncated_tokens_are_not_read() {
        let _ = Tokens::from(&[1, 2, 3][..]).first(2).slice(1..3);
    }
}
