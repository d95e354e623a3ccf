//! Memos and metadata, so that nothing in them can be taken for anything else.
//!
//! What people read is written as it is as far as that is harmless. What would be lost by that is written again, exactly, under names
//! that begin with `sysd-`: in percent-encoding, in pieces that no program's longest line cuts off.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::{Details, DetailsError};

/// The most characters of a text that is written as it is, and of a piece.
const PIECE_MAX: usize = 400;
const KEY_MAX: usize = 64;
/// What the programs themselves take a meaning from.
const RESERVED: &[&str] = &["date", "date2", "payee", "value", "uuid", "type", "filename", "lineno"];

/// A memo on one line: what could end it, or begin something else, is replaced.
pub(super) fn readable(memo: &str) -> String {
    let mut out = String::new();
    let chars = memo.chars().take(PIECE_MAX).map(|char| match char {
        ';' => ',',
        '|' => '/',
        '\u{feff}' => ' ',
        char if char.is_whitespace() || char.is_control() => ' ',
        char => char,
    });
    for char in chars {
        if char != ' ' || !(out.is_empty() || out.ends_with(' ')) {
            out.push(char);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn is_plain_key(key: &str) -> bool {
    key.len() >= 2
        && key.len() <= KEY_MAX
        && key.starts_with(|first: char| first.is_ascii_lowercase())
        && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-')
        && !key.starts_with("sysd-")
        && !RESERVED.contains(&key)
}

fn is_plain_value(value: &str) -> bool {
    !value.is_empty()
        && value.chars().nth(PIECE_MAX).is_none()
        && value.trim() == value
        && !value.contains("  ")
        && value.chars().all(|char| char.is_alphanumeric() || " -_./+#@".contains(char))
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_./".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit =
            || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        out.push(digit()? * 16 + digit()?);
    }
    String::from_utf8(out).ok()
}

fn pieces(name: &str, encoded: &str, tags: &mut Vec<(String, String)>) {
    // It is all ASCII, so any cut is between characters; an empty text has a piece too.
    let mut rest = encoded;
    for at in 0.. {
        let (piece, more) = rest.split_at(rest.len().min(PIECE_MAX));
        // A value is never empty.
        tags.push((format!("{name}-{at}"), if piece.is_empty() { "%".to_owned() } else { piece.to_owned() }));
        rest = more;
        if rest.is_empty() {
            break;
        }
    }
}

/// The tags that say what a transaction's details are, beside its [`readable`] memo.
pub(super) fn tags(details: &Details) -> Vec<(String, String)> {
    let mut tags = Vec::new();
    if readable(details.memo()) != details.memo() {
        let mut encoded = String::new();
        encode(details.memo(), &mut encoded);
        pieces("sysd-memo", &encoded, &mut tags);
    }
    let mut seen = std::collections::HashSet::new();
    for (at, (key, value)) in details.metadata().iter().enumerate() {
        if is_plain_key(key) && is_plain_value(value) && seen.insert(key) {
            tags.push((key.clone(), value.clone()));
            continue;
        }
        let mut encoded = String::new();
        encode(key, &mut encoded);
        encoded.push('=');
        encode(value, &mut encoded);
        pieces(&format!("sysd-meta-{at}"), &encoded, &mut tags);
    }
    tags
}

/// What [`tags`] said, put together again.
#[derive(Debug, Default)]
pub(super) struct Written {
    memo: BTreeMap<u32, String>,
    metadata: BTreeMap<u32, BTreeMap<u32, String>>,
    plain: Vec<(String, String)>,
}

impl Written {
    /// Takes a tag; `false` if it is none of ours.
    pub(super) fn take(&mut self, key: &str, value: &str) -> bool {
        let piece_of = |value: &str| if value == "%" { String::new() } else { value.to_owned() };
        if let Some(at) = key.strip_prefix("sysd-memo-") {
            return at.parse().is_ok_and(|at| self.memo.insert(at, piece_of(value)).is_none());
        }
        if let Some((at, piece)) = key.strip_prefix("sysd-meta-").and_then(|rest| rest.split_once('-')) {
            let Some((at, piece)) = at.parse().ok().zip(piece.parse().ok()) else { return false };
            return self.metadata.entry(at).or_default().insert(piece, piece_of(value)).is_none();
        }
        if key.starts_with("sysd-") {
            return false;
        }
        self.plain.push((key.to_owned(), value.to_owned()));
        true
    }

    /// The details, if there are any; `None` where they are no encoding of anything.
    pub(super) fn details(self, readable: &str) -> Option<Result<Option<Details>, DetailsError>> {
        let join = |pieces: BTreeMap<u32, String>| pieces.into_values().collect::<String>();
        let memo = if self.memo.is_empty() { readable.to_owned() } else { decode(&join(self.memo))? };
        let mut metadata = self.plain;
        for (at, pieces) in self.metadata {
            let joined = join(pieces);
            let (key, value) = joined.split_once('=')?;
            let at = metadata.len().min(at as usize);
            metadata.insert(at, (decode(key)?, decode(value)?));
        }
        if memo.is_empty() && metadata.is_empty() {
            return Some(Ok(None));
        }
        Some(Details::new(memo, metadata).map(Some))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_stays_in_its_line(
            memo in ".*|[;|\"\\\\\n\r\t %:=\\[\\]{}A-z\u{2028}]{0,900}",
            metadata in prop::collection::vec(("[a-z]{0,3}|.*|date|sysd-id", "[a-z 1-9]{0,9}|.*|[;\n%]{0,300}"), 0..6),
        ) {
            let details = Details::new(memo.clone(), metadata.clone()).unwrap();
            let readable = readable(&memo);
            let breaks_out = readable.contains([';', '|', '\n', '\r', '\t', '\u{2028}', '\u{85}']) || readable.contains("  ");
            prop_assert!(!breaks_out);
            let mut written = Written::default();
            for (key, value) in tags(&details) {
                let fits = key.len() <= KEY_MAX && value.chars().count() <= PIECE_MAX && !value.is_empty();
                let breaks_out =
                    key.contains([':', ' ', ';']) || value.contains([';', ':', ',', '"', '\\', '[', '\n', '\r', '\t']);
                prop_assert!(fits && !breaks_out);
                prop_assert!(written.take(&key, &value));
            }
            let found = written.details(&readable).unwrap().unwrap().unwrap_or_default();
            prop_assert_eq!(found, details);
        }

        #[test]
        fn any_tag_is_taken_or_refused(tags in prop::collection::vec(("(sysd-(memo|meta)-)?[0-9a-z-]{0,6}", "[%0-9a-zA-Z=]{0,9}"), 0..5)) {
            let mut written = Written::default();
            for (key, value) in &tags {
                written.take(key, value);
            }
            let _ = written.details("");
        }
    }
}
