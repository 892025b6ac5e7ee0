//! The content of a source: a text, or any bytes.

use std::borrow::Cow;

use crate::split::train_part;

/// A text, or bytes that are not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// UTF-8. Line breaks and NUL are unchanged; only byte order marks are removed.
    Text(Cow<'a, str>),
    /// Bytes that are not UTF-8, which only the tokenizer `byte` accepts.
    Bytes(Cow<'a, [u8]>),
}

impl Content<'_> {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes(_) => None,
        }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The number of characters; for bytes, the number of bytes.
    #[must_use]
    pub fn characters(&self) -> usize {
        match self {
            Self::Text(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// A borrowed view.
    #[must_use]
    pub fn as_ref(&self) -> Content<'_> {
        match self {
            Self::Text(text) => Content::Text(Cow::Borrowed(text)),
            Self::Bytes(bytes) => Content::Bytes(Cow::Borrowed(bytes)),
        }
    }

    /// The training and the validation part, as by [`split()`](crate::split()).
    #[must_use]
    pub fn split(&self) -> (Content<'_>, Content<'_>) {
        match self {
            Self::Text(text) => {
                let (train, validation) = crate::split(text);
                (train.into(), validation.into())
            }
            Self::Bytes(bytes) => {
                let (train, validation) = bytes.split_at(train_part(bytes.len()));
                (
                    Content::Bytes(train.into()),
                    Content::Bytes(validation.into()),
                )
            }
        }
    }

    /// All bytes, without a copy if they are owned.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_owned().into_bytes(),
            Self::Bytes(bytes) => bytes.into_owned(),
        }
    }

    /// Appends another file, with a newline in between if there is none.
    pub(crate) fn append(&mut self, next: Content<'_>) {
        if self.bytes().is_empty() {
            // Avoids copying a text of one file.
            *self = match next {
                Content::Text(text) => Self::Text(text.into_owned().into()),
                Content::Bytes(bytes) => Self::Bytes(bytes.into_owned().into()),
            };
            return;
        }
        let between = !self.bytes().ends_with(b"\n") && !next.bytes().is_empty();
        let between = if between { "\n" } else { "" };
        match (&mut *self, next) {
            (Self::Text(text), Content::Text(next)) => {
                let text = text.to_mut();
                text.push_str(between);
                text.push_str(&next);
            }
            (_, next) => {
                let empty = Self::Bytes(Cow::Borrowed(&[]));
                let mut bytes = std::mem::replace(self, empty).into_bytes();
                bytes.extend_from_slice(between.as_bytes());
                bytes.extend_from_slice(next.bytes());
                *self = Self::Bytes(bytes.into());
            }
        }
    }
}

impl<'a> From<&'a str> for Content<'a> {
    fn from(text: &'a str) -> Self {
        Content::Text(text.into())
    }
}

impl<'a> From<&'a String> for Content<'a> {
    fn from(text: &'a String) -> Self {
        text.as_str().into()
    }
}
