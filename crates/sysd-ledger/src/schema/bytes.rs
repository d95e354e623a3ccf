//! Numbers, ids and texts as bytes.

use sysd_core::{DecodeError, StateMachine, Timestamp};

use crate::model::{Currency, Date, Side};

/// What is wrong with bytes.
pub(crate) type What = &'static str;

/// Reads all of the bytes of a machine that writes that format, and no more.
pub(crate) fn read<M: StateMachine, T>(
    format: u16,
    bytes: &[u8],
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, What>,
) -> Result<T, DecodeError> {
    let error = |what| DecodeError { machine: M::NAME, format, what };
    if format != M::FORMAT {
        return Err(error("the format is unknown; was it written by a newer version?"));
    }
    let mut reader = Reader::new(bytes);
    let decoded = decode(&mut reader).map_err(error)?;
    if reader.is_empty() { Ok(decoded) } else { Err(error("bytes behind the end")) }
}

#[inline]
pub(crate) fn put_number(number: u128, out: &mut Vec<u8>) {
    match u64::try_from(number) {
        Ok(small) => put_small(small, out),
        Err(_) => put_great(number, out),
    }
}

#[inline]
pub(crate) fn put_small(number: u64, out: &mut Vec<u8>) {
    match u8::try_from(number) {
        Ok(byte) if byte <= 0x7F => out.push(byte),
        _ => put_longer(number, out),
    }
}

fn put_longer(mut number: u64, out: &mut Vec<u8>) {
    let (mut bytes, mut len) = ([0_u8; 10], 0);
    while number > 0x7F && len < 9 {
        #[allow(clippy::cast_possible_truncation, reason = "the lowest seven bits")]
        let low = number as u8 | 0x80;
        bytes[len] = low;
        number >>= 7;
        len += 1;
    }
    #[allow(clippy::cast_possible_truncation, reason = "seven bits at most are left")]
    let last = number as u8;
    bytes[len] = last;
    out.extend_from_slice(&bytes[..=len]);
}

#[cold]
fn put_great(mut number: u128, out: &mut Vec<u8>) {
    loop {
        #[allow(clippy::cast_possible_truncation, reason = "the lowest seven bits")]
        let low = number as u8 & 0x7F;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// A signed amount: zigzag, then as a number.
#[cfg(feature = "reconcile")]
pub(crate) fn put_amount(amount: i128, out: &mut Vec<u8>) {
    put_number((amount << 1 ^ amount >> 127).cast_unsigned(), out);
}

/// A number, or nothing as zero and all numbers one greater.
pub(crate) fn put_optional(number: Option<u128>, out: &mut Vec<u8>) {
    // What is stored here is at most i128::MAX.
    put_number(number.map_or(0, |number| number.saturating_add(1)), out);
}

pub(crate) fn put_id(id: u128, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_be_bytes());
}

pub(crate) fn put_currency(currency: Currency, out: &mut Vec<u8>) {
    out.extend_from_slice(&currency.to_bits().to_be_bytes());
}

pub(crate) fn put_side(side: Side, out: &mut Vec<u8>) {
    out.push(u8::from(side == Side::Credit));
}

pub(crate) fn put_day(day: Date, out: &mut Vec<u8>) {
    out.extend_from_slice(&day.0.to_be_bytes());
}

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u128, out);
    out.extend_from_slice(bytes);
}

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte, if there is one; it stays.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// A number of 8 bytes, big-endian.
    pub(crate) fn fixed(&mut self) -> Result<u64, What> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, What> {
        let (byte, rest) = self.rest.split_first().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], What> {
        let (array, rest) = self.rest.split_first_chunk().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*array)
    }

    /// The next so many bytes.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], What> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub(crate) fn wide(&mut self) -> Result<u128, What> {
        match self.rest.split_first() {
            Some((byte, rest)) if *byte <= 0x7F => {
                self.rest = rest;
                Ok(u128::from(*byte))
            }
            _ => self.longer(),
        }
    }

    fn longer(&mut self) -> Result<u128, What> {
        let (mut number, mut shift) = (0_u128, 0);
        loop {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7F);
            if shift > 126 || shift == 126 && part > 3 {
                return Err("a number is too great");
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                // Each number is written in one way only.
                return if byte == 0 && shift > 0 { Err("a number is longer than it needs to be") } else { Ok(number) };
            }
            shift += 7;
        }
    }

    pub(crate) fn number<N: TryFrom<u128>>(&mut self) -> Result<N, What> {
        N::try_from(self.wide()?).map_err(|_| "a number is too great")
    }

    pub(crate) fn optional(&mut self) -> Result<Option<u128>, What> {
        Ok(self.wide()?.checked_sub(1))
    }

    pub(crate) fn id(&mut self) -> Result<u128, What> {
        self.array().map(u128::from_be_bytes)
    }

    pub(crate) fn currency(&mut self) -> Result<Currency, What> {
        Currency::from_bits(u64::from_be_bytes(self.array()?)).ok_or("a currency that can't be")
    }

    pub(crate) fn flag(&mut self) -> Result<bool, What> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a flag that is neither set nor not"),
        }
    }

    pub(crate) fn side(&mut self) -> Result<Side, What> {
        match self.byte()? {
            0 => Ok(Side::Debit),
            1 => Ok(Side::Credit),
            _ => Err("a side that is neither"),
        }
    }

    pub(crate) fn day(&mut self) -> Result<Date, What> {
        self.array().map(i32::from_be_bytes).map(Date)
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, What> {
        time(self.wide()?)
    }

    /// As [`put_optional`] writes it.
    pub(crate) fn optional_time(&mut self) -> Result<Option<Timestamp>, What> {
        self.optional()?.map(time).transpose()
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], What> {
        let len = self.number::<usize>()?;
        self.take(len)
    }

    /// As [`put_amount`] writes it.
    #[cfg(feature = "reconcile")]
    pub(crate) fn amount(&mut self) -> Result<i128, What> {
        let wide = self.wide()?;
        Ok((wide >> 1).cast_signed() ^ -(wide & 1).cast_signed())
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, What> {
        str::from_utf8(self.bytes()?).map_err(|_| "a text is not UTF-8")
    }

    /// How many things follow, each of at least so many bytes: nothing is set aside for more than could be there.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Result<usize, What> {
        let count = self.number::<usize>()?;
        if count > self.rest.len() / bytes_min.max(1) { Err("it ends too early") } else { Ok(count) }
    }
}

fn time(micros: u128) -> Result<Timestamp, What> {
    let micros = u64::try_from(micros).ok().and_then(|micros| Timestamp::from_micros(micros).ok());
    micros.ok_or("a time beyond all times")
}
