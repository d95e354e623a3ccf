//! Byte strings that lie inline while they are short, copied and compared a word at a time.
//!
//! For lengths that the compiler doesn't know, `memcpy` and `memcmp` are calls that cost more than the few words they move.

/// At most `N` bytes inline (up to 32), more on the heap.
#[derive(Debug)]
pub(super) enum Short<const N: usize> {
    Inline(Inline<N>),
    Heap(Box<[u8]>),
}

/// Up to `N` bytes, `N` being at most 32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inline<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Inline<N> {
    /// `None` if there are more than `N`.
    #[inline]
    pub(super) fn new(from: &[u8]) -> Option<Self> {
        const { assert!(N <= 32) };
        let len = u8::try_from(from.len()).ok()?;
        let mut inline = Self { len, bytes: [0; N] };
        copy(inline.bytes.get_mut(..from.len())?, from);
        Some(inline)
    }

    /// Replaces the bytes; `false`, and nothing was done, if there are more than `N`.
    #[inline]
    pub(super) fn set(&mut self, from: &[u8]) -> bool {
        let (Ok(len), Some(to)) = (u8::try_from(from.len()), self.bytes.get_mut(..from.len())) else { return false };
        copy(to, from);
        self.len = len;
        true
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl<const N: usize> Short<N> {
    #[inline]
    pub(super) fn new(from: &[u8]) -> Self {
        Inline::new(from).map_or_else(|| Self::Heap(from.into()), Self::Inline)
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(inline) => inline.as_slice(),
            Self::Heap(bytes) => bytes,
        }
    }
}

/// Copies between slices of one length. 8 to 32 bytes go as words and a last word, which overlaps the one before.
///
/// Words of eight, not sixteen: what was just written as two words can't be forwarded to one larger load.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    if !(8..=32).contains(&from.len()) {
        return to.copy_from_slice(from);
    }
    for start in [0, 8, 16] {
        if let (Some(to), Some(from)) = (to.get_mut(start..start + 8), from.get(start..start + 8)) {
            to.copy_from_slice(from);
        }
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<8>(), from.last_chunk::<8>()) {
        *to = *from;
    }
}

/// Whether two byte strings are equal.
#[inline]
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.len() {
        8..=16 => a.first_chunk::<8>() == b.first_chunk::<8>() && a.last_chunk::<8>() == b.last_chunk::<8>(),
        17..=32 => a.first_chunk::<16>() == b.first_chunk::<16>() && a.last_chunk::<16>() == b.last_chunk::<16>(),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back_and_differs_by_any_byte() {
        let bytes: Vec<u8> = (1..=40).collect();
        for len in 0..=40 {
            let short = Short::<30>::new(&bytes[..len]);
            assert_eq!(matches!(short, Short::Inline(_)), len <= 30);
            assert_eq!(short.as_slice(), &bytes[..len]);
            assert!(same(short.as_slice(), &bytes[..len]));
            assert!(!same(short.as_slice(), &bytes[..(len + 1) % 40]));
            for at in 0..len {
                let mut other = bytes[..len].to_vec();
                other[at] ^= 1;
                assert!(!same(short.as_slice(), &other), "{len} {at}");
            }
        }
    }

    #[test]
    fn what_is_set_replaces_all_and_fits_or_leaves_all() {
        let bytes: Vec<u8> = (1..=40).collect();
        for len in 0..=23 {
            let Some(mut inline) = Inline::<23>::new(&[9; 23]) else { unreachable!("23 bytes fit") };
            assert!(inline.set(&bytes[..len]));
            assert_eq!(inline.as_slice(), &bytes[..len]);
            assert!(!inline.set(&bytes[..24]));
            assert_eq!(inline.as_slice(), &bytes[..len]);
        }
    }
}
