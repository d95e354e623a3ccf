//! Numbers and texts as bytes. Numbers are LEB128; amounts are zigzag before that; texts have their length before them.

/// What is wrong with bytes.
pub(super) type What = &'static str;

pub(super) fn put_number(mut number: u128, out: &mut Vec<u8>) {
    loop {
        let low = (number & 0x7F).to_le_bytes()[0];
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

pub(super) fn put_amount(amount: i128, out: &mut Vec<u8>) {
    put_number((amount << 1 ^ amount >> 127).cast_unsigned(), out);
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u128, out);
    out.extend_from_slice(text.as_bytes());
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn byte(&mut self) -> Result<u8, What> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], What> {
        let (array, rest) = self.0.split_first_chunk().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn wide(&mut self) -> Result<u128, What> {
        let (mut number, mut shift) = (0_u128, 0);
        loop {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7F);
            if shift > 126 || shift == 126 && part > 3 {
                return Err("a number is too great");
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err("a number is longer than it needs to be") } else { Ok(number) };
            }
            shift += 7;
        }
    }

    pub(super) fn number<N: TryFrom<u128>>(&mut self) -> Result<N, What> {
        N::try_from(self.wide()?).map_err(|_| "a number is too great")
    }

    pub(super) fn amount(&mut self) -> Result<i128, What> {
        let wide = self.wide()?;
        Ok((wide >> 1).cast_signed() ^ -(wide & 1).cast_signed())
    }

    pub(super) fn text(&mut self) -> Result<&str, What> {
        let len = self.number::<usize>()?;
        let (text, rest) = self.0.split_at_checked(len).ok_or("it ends too early")?;
        self.0 = rest;
        str::from_utf8(text).map_err(|_| "a text is not UTF-8")
    }

    /// How many things follow, each of at least so many bytes: nothing is set aside for more than could be there.
    pub(super) fn count(&mut self, bytes_min: usize) -> Result<usize, What> {
        let count = self.number::<usize>()?;
        if count > self.0.len() / bytes_min.max(1) { Err("it ends too early") } else { Ok(count) }
    }

    pub(super) fn flag(&mut self) -> Result<bool, What> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("neither yes nor no"),
        }
    }
}
