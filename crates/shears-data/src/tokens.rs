//! Token ids in compact form: one or two bytes each if the vocabulary allows it.

use std::ops::Range;
use std::sync::Arc;

/// The ids of a text, shared by all readers.
#[derive(Debug, Clone)]
pub struct Tokens {
    ids: Ids,
    start: usize,
    len: usize,
}

/// All ids in one type, as small as the vocabulary allows.
#[derive(Debug, Clone)]
enum Ids {
    Bytes(Arc<Vec<u8>>),
    Short(Arc<Vec<u16>>),
    Long(Arc<Vec<u32>>),
}

impl Tokens {
    /// The bytes of an id, given the size of the vocabulary.
    #[must_use]
    pub fn bytes_each(vocabulary: usize) -> usize {
        match vocabulary {
            0..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 4,
        }
    }

    /// Ids below 256, without a copy.
    pub(crate) fn of_bytes(ids: Vec<u8>) -> Self {
        Self {
            start: 0,
            len: ids.len(),
            ids: Ids::Bytes(Arc::new(ids)),
        }
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
        self.len * self.width()
    }

    /// The bytes of an id.
    fn width(&self) -> usize {
        match &self.ids {
            Ids::Bytes(_) => 1,
            Ids::Short(_) => 2,
            Ids::Long(_) => 4,
        }
    }

    /// The first `len` ids, or all if there are fewer.
    #[must_use]
    pub fn first(&self, len: usize) -> Self {
        self.split_at(self.len.min(len)).0
    }

    /// The first `place` ids, and the others.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[must_use]
    pub fn split_at(&self, place: usize) -> (Self, Self) {
        assert!(place <= self.len, "{place} of {} tokens", self.len);
        let part = |start, len| Self {
            ids: self.ids.clone(),
            start,
            len,
        };
        let rest = self.len - place;
        (part(self.start, place), part(self.start + place, rest))
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
        let range = self.start + range.start..self.start + range.end;
        match &self.ids {
            Ids::Bytes(ids) => into.extend(ids[range].iter().map(|id| u32::from(*id))),
            Ids::Short(ids) => into.extend(ids[range].iter().map(|id| u32::from(*id))),
            Ids::Long(ids) => into.extend_from_slice(&ids[range]),
        }
    }

    /// Appends the width of an id and all ids to `into`, for [`Tokens::from_bytes`].
    pub fn append_bytes_to(&self, into: &mut Vec<u8>) {
        let range = self.start..self.start + self.len;
        into.reserve_exact(1 + self.bytes());
        into.push(self.width() as u8);
        match &self.ids {
            Ids::Bytes(ids) => into.extend_from_slice(&ids[range]),
            Ids::Short(ids) => into.extend(ids[range].iter().flat_map(|id| id.to_le_bytes())),
            Ids::Long(ids) => into.extend(ids[range].iter().flat_map(|id| id.to_le_bytes())),
        }
    }

    /// The ids that [`Tokens::append_bytes_to`] has written; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (1, ids) => Some(Self::of_bytes(ids.to_vec())),
            (2, ids) => {
                let (ids, []) = ids.as_chunks() else {
                    return None;
                };
                let ids = ids.iter().map(|id| u16::from_le_bytes(*id)).collect();
                Some(Writer::Short(ids).finish())
            }
            (4, ids) => {
                let (ids, []) = ids.as_chunks() else {
                    return None;
                };
                let ids = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
                Some(Writer::Long(ids).finish())
            }
            _ => None,
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
    Bytes(Vec<u8>),
    Short(Vec<u16>),
    Long(Vec<u32>),
}

impl Writer {
    /// For ids of a vocabulary, about `expected` of them.
    pub(crate) fn new(vocabulary: usize, expected: usize) -> Self {
        match Tokens::bytes_each(vocabulary) {
            1 => Self::Bytes(Vec::with_capacity(expected)),
            2 => Self::Short(Vec::with_capacity(expected)),
            _ => Self::Long(Vec::with_capacity(expected)),
        }
    }

    /// Adds an id below the vocabulary's size.
    pub(crate) fn push(&mut self, id: u32) {
        const BELOW: &str = "it is below the vocabulary";
        match self {
            Self::Bytes(ids) => ids.push(u8::try_from(id).expect(BELOW)),
            Self::Short(ids) => ids.push(u16::try_from(id).expect(BELOW)),
            Self::Long(ids) => ids.push(id),
        }
    }

    pub(crate) fn finish(self) -> Tokens {
        let (ids, len) = match self {
            Self::Bytes(mut ids) => {
                ids.shrink_to_fit();
                return Tokens::of_bytes(ids);
            }
            Self::Short(mut ids) => {
                ids.shrink_to_fit();
                let len = ids.len();
                (Ids::Short(Arc::new(ids)), len)
            }
            Self::Long(mut ids) => {
                ids.shrink_to_fit();
                let len = ids.len();
                (Ids::Long(Arc::new(ids)), len)
            }
        };
        Tokens { ids, start: 0, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_as_few_bytes_as_they_can() {
        let bytes = Tokens::from(&[0, 255, 3][..]);
        assert_eq!((bytes.len(), bytes.bytes()), (3, 3));
        assert_eq!(bytes.slice(1..3), [255, 3]);
        let short = Tokens::from(&[0, 65_535, 256][..]);
        assert_eq!((short.len(), short.bytes()), (3, 6));
        assert_eq!(short.slice(1..3), [65_535, 256]);
        let long = Tokens::from(&[0, 65_536, 3][..]);
        assert_eq!((long.len(), long.bytes()), (3, 12));
        assert_eq!(long.slice(0..2), [0, 65_536]);
        let first = long.first(1);
        assert_eq!((first.len(), first.slice(0..1)), (1, vec![0]));
        assert_eq!(long.first(9).len(), 3);
        assert!(Tokens::from(&[][..]).is_empty());
    }

    #[test]
    fn parts_and_what_was_sent_are_the_same_ids() {
        for largest in [200, 60_000, 70_000] {
            let tokens = Tokens::from(&[1, largest, 2, 3, 4][..]);
            let (left, right) = tokens.split_at(2);
            let (middle, last) = right.split_at(2);
            assert_eq!(left.slice(0..2), [1, largest]);
            assert_eq!(
                (middle.slice(0..2), last.slice(0..1)),
                (vec![2, 3], vec![4])
            );
            assert_eq!(middle.first(1).slice(0..1), [2]);
            assert_eq!(left.bytes() + right.bytes(), tokens.bytes());
            for part in [&tokens, &left, &middle, &last.first(0)] {
                let mut sent = Vec::new();
                part.append_bytes_to(&mut sent);
                let got = Tokens::from_bytes(&sent).unwrap();
                assert_eq!(got.slice(0..got.len()), part.slice(0..part.len()));
                assert_eq!(got.bytes(), part.bytes());
            }
        }
        assert!(Tokens::from_bytes(&[]).is_none());
        assert!(Tokens::from_bytes(&[2, 1]).is_none());
        assert!(Tokens::from_bytes(&[3, 1, 1, 1]).is_none());
    }

    #[test]
    #[should_panic(expected = "of 2 tokens")]
    fn truncated_tokens_are_not_read() {
        let _ = Tokens::from(&[1, 2, 3][..]).first(2).slice(1..3);
    }
}
