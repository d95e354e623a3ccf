//! The encoder that every key is built with: tuples to bytes, in the same order.
//!
//! Comparing two encodings byte by byte gives the order of the tuples, element by element. A tuple's encoding is a prefix
//! of that of every longer tuple that begins with it, so a range over a prefix is a range over what shares those elements.
//! The scheme carries no types: decode with the types that it was encoded with.
//!
//! | element | bytes |
//! |---|---|
//! | `u8` … `u128` | big-endian |
//! | `i64` | big-endian with the sign bit flipped |
//! | `&[u8]`, `&str` | the bytes, `00` as `00 FF`, ended by `00 01` |
//! | [`Reverse`] of any | the bytes of the element, each inverted: newest first |
//!
//! ```
//! use std::cmp::Reverse;
//! use sysd_core::tuple;
//!
//! let older = tuple::encode(&("alice", Reverse(41_u64)));
//! let newer = tuple::encode(&("alice", Reverse(42_u64)));
//! assert!(newer < older);
//! assert!(newer.starts_with(&tuple::encode(&("alice",))));
//! let (name, Reverse(at)): (String, Reverse<u64>) = tuple::decode(&newer)?;
//! assert_eq!((name.as_str(), at), ("alice", 42));
//! # Ok::<(), tuple::TupleError>(())
//! ```

use std::cmp::Reverse;

use smallvec::SmallVec;

/// Encoded key bytes; up to 40 lie inline.
pub type KeyBytes = SmallVec<[u8; 40]>;

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xFF;
const END: u8 = 0x01;

/// Bytes that are not the encoding of the tuple asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key's bytes do not encode {expected}, at byte {at}")]
pub struct TupleError {
    /// What should have stood there.
    pub expected: &'static str,
    /// Where it went wrong, bytes from the start.
    pub at: usize,
}

/// Something that can stand in a key.
pub trait Element {
    /// Appends the encoding.
    fn encode_to(&self, out: &mut KeyBytes);
}

/// Something that can be read back from a key.
pub trait DecodeElement: Sized {
    /// Reads one element.
    ///
    /// # Errors
    /// [`TupleError`] if the bytes don't encode one.
    fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError>;
}

/// A tuple of elements.
pub trait Tuple {
    /// Appends the encoding of every element.
    fn encode_to(&self, out: &mut KeyBytes);
}

/// A tuple of elements that can be read back.
pub trait DecodeTuple: Sized {
    /// Reads every element.
    ///
    /// # Errors
    /// [`TupleError`] if the bytes don't encode them.
    fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError>;
}

/// What is left to decode.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    inverted: bool,
}

impl Input<'_> {
    fn next(&mut self, expected: &'static str) -> Result<u8, TupleError> {
        let byte = *self.bytes.get(self.at).ok_or(TupleError { expected, at: self.at })?;
        self.at += 1;
        Ok(if self.inverted { !byte } else { byte })
    }
}

/// Encodes a tuple.
pub fn encode(tuple: &impl Tuple) -> KeyBytes {
    let mut out = KeyBytes::new();
    tuple.encode_to(&mut out);
    out
}

/// Decodes a tuple, all of it.
///
/// # Errors
/// [`TupleError`] if the bytes are not exactly an encoding of such a tuple.
pub fn decode<T: DecodeTuple>(bytes: &[u8]) -> Result<T, TupleError> {
    let mut input = Input { bytes, at: 0, inverted: false };
    let tuple = T::decode_from(&mut input)?;
    if input.at != bytes.len() {
        return Err(TupleError { expected: "the end", at: input.at });
    }
    Ok(tuple)
}

/// The least byte string greater than all that begin with `prefix`: the excluded end of a prefix range.
/// `None` if there is none (the prefix is empty or all `FF`): the range is open.
pub fn prefix_end(prefix: &[u8]) -> Option<KeyBytes> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut end = KeyBytes::from_slice(&prefix[..=last]);
    end[last] += 1;
    Some(end)
}

macro_rules! unsigned {
    ($($int:ty),*) => {$(
        impl Element for $int {
            fn encode_to(&self, out: &mut KeyBytes) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }

        impl DecodeElement for $int {
            fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError> {
                let mut bytes = [0; size_of::<$int>()];
                for byte in &mut bytes {
                    *byte = input.next(stringify!($int))?;
                }
                Ok(<$int>::from_be_bytes(bytes))
            }
        }
    )*};
}

unsigned!(u8, u16, u32, u64, u128);

impl Element for i64 {
    fn encode_to(&self, out: &mut KeyBytes) {
        (self.cast_unsigned() ^ (1 << 63)).encode_to(out);
    }
}

impl DecodeElement for i64 {
    fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError> {
        Ok((u64::decode_from(input)? ^ (1 << 63)).cast_signed())
    }
}

impl Element for [u8] {
    fn encode_to(&self, out: &mut KeyBytes) {
        out.reserve(self.len() + 2);
        let mut rest = self;
        while let Some(zero) = memchr::memchr(ESCAPE, rest) {
            out.extend_from_slice(&rest[..=zero]);
            out.push(ESCAPED_ZERO);
            rest = &rest[zero + 1..];
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(&[ESCAPE, END]);
    }
}

impl DecodeElement for Vec<u8> {
    fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError> {
        let mut out = Self::new();
        loop {
            match input.next("bytes")? {
                ESCAPE => match input.next("bytes")? {
                    END => return Ok(out),
                    ESCAPED_ZERO => out.push(0),
                    _ => {
                        return Err(TupleError { expected: "an escape", at: input.at - 1 });
                    }
                },
                byte => out.push(byte),
            }
        }
    }
}

impl Element for Vec<u8> {
    fn encode_to(&self, out: &mut KeyBytes) {
        self.as_slice().encode_to(out);
    }
}

impl Element for str {
    fn encode_to(&self, out: &mut KeyBytes) {
        self.as_bytes().encode_to(out);
    }
}

impl Element for String {
    fn encode_to(&self, out: &mut KeyBytes) {
        self.as_bytes().encode_to(out);
    }
}

impl DecodeElement for String {
    fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError> {
        let at = input.at;
        Self::from_utf8(Vec::decode_from(input)?).map_err(|_| TupleError { expected: "UTF-8", at })
    }
}

impl<E: Element + ?Sized> Element for &E {
    fn encode_to(&self, out: &mut KeyBytes) {
        (**self).encode_to(out);
    }
}

impl<E: Element> Element for Reverse<E> {
    fn encode_to(&self, out: &mut KeyBytes) {
        let start = out.len();
        self.0.encode_to(out);
        for byte in &mut out[start..] {
            *byte = !*byte;
        }
    }
}

impl<E: DecodeElement> DecodeElement for Reverse<E> {
    fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError> {
        input.inverted = !input.inverted;
        let element = E::decode_from(input);
        input.inverted = !input.inverted;
        element.map(Reverse)
    }
}

macro_rules! tuples {
    ($(($($name:ident $at:tt),+))*) => {$(
        impl<$($name: Element),+> Tuple for ($($name,)+) {
            fn encode_to(&self, out: &mut KeyBytes) {
                $(self.$at.encode_to(out);)+
            }
        }

        impl<$($name: DecodeElement),+> DecodeTuple for ($($name,)+) {
            fn decode_from(input: &mut Input<'_>) -> Result<Self, TupleError> {
                Ok(($($name::decode_from(input)?,)+))
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    type Parts = (Vec<u8>, u64, Reverse<Vec<u8>>, i64);

    fn awkward_bytes() -> impl Strategy<Value = Vec<u8>> {
        // The bytes that the escape is made of, more often than chance would give.
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()], 0..6)
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let int = prop_oneof![Just(0), Just(u64::MAX), 0..4u64, any::<u64>()];
        (awkward_bytes(), int, awkward_bytes().prop_map(Reverse), any::<i64>())
    }

    proptest! {
        #[test]
        fn bytes_order_as_tuples_do(a in parts(), b in parts()) {
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
        }

        #[test]
        fn decodes_what_it_encoded(a in parts()) {
            prop_assert_eq!(decode::<Parts>(&encode(&a)).unwrap(), a);
        }

        #[test]
        fn a_shorter_tuple_is_a_prefix(a in parts()) {
            prop_assert!(encode(&a).starts_with(&encode(&(a.0.as_slice(), a.1))));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in awkward_bytes()) {
            if let Ok(tuple) = decode::<(Vec<u8>, Reverse<String>)>(&bytes) {
                prop_assert_eq!(encode(&tuple).to_vec(), bytes);
            }
        }

        #[test]
        fn prefix_end_bounds_exactly(prefix in awkward_bytes(), other in awkward_bytes()) {
            let inside = other.as_slice() >= prefix.as_slice()
                && prefix_end(&prefix).is_none_or(|end| other.as_slice() < end.as_slice());
            prop_assert_eq!(inside, other.starts_with(&prefix));
        }
    }

    #[test]
    fn without_escapes_order_would_break() {
        // What a naive encoder does: the element's bytes and a terminator.
        let naive = |a: &[u8], b: u64| [a, &[0], &b.to_be_bytes()].concat();
        let (a, b) = ((b"a".as_slice(), u64::MAX), (b"a\x00".as_slice(), 0u64));
        assert!(a < b);
        assert!(naive(a.0, a.1) > naive(b.0, b.1));
        assert!(encode(&a) < encode(&b));
    }
}
