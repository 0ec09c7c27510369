//! Kafka's primitive types, read with bounds and written without surprises.
//!
//! Source: the protocol guide (kafka.apache.org/protocol), KIP-482 for compact types and tagged fields.

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes are needed: ask again with them, or treat it as a cut message.
    #[error("the message ends too early")]
    Short,
    /// No continuation can make it valid.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// A cursor over bytes from outside. Nothing is allocated, every read is checked.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// INT8.
    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// INT16, big-endian.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// INT32, big-endian.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// INT64, big-endian.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// UUID: 16 bytes.
    pub fn uuid(&mut self) -> Result<[u8; 16], WireError> {
        self.array()
    }

    /// UNSIGNED_VARINT of at most 32 bits. In five bytes, as other readers stop there.
    pub fn uvarint(&mut self) -> Result<u32, WireError> {
        let wide = self.unsigned(32)?;
        u32::try_from(wide).map_err(|_| WireError::Malformed("varint"))
    }

    fn uvarlong(&mut self) -> Result<u64, WireError> {
        self.unsigned(64)
    }

    fn unsigned(&mut self, bits: u32) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..bits).step_by(7) {
            let [byte] = self.array()?;
            if shift == 63 && byte > 1 {
                return Err(WireError::Malformed("varint"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("varint"))
    }

    /// VARINT: zigzag, 32 bits.
    pub fn varint(&mut self) -> Result<i32, WireError> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// VARLONG: zigzag, 64 bits.
    pub fn varlong(&mut self) -> Result<i64, WireError> {
        let raw = self.uvarlong()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// The length of an array, string or byte field: compact (KIP-482) or classic; `None` is null.
    pub fn length(&mut self, kind: Length) -> Result<Option<usize>, WireError> {
        let length = match kind {
            Length::Compact => i64::from(self.uvarint()?) - 1,
            Length::Classic32 => i64::from(self.i32()?),
            Length::Classic16 => i64::from(self.i16()?),
        };
        match length {
            -1 => Ok(None),
            n if n < 0 => Err(WireError::Malformed("length")),
            n => Ok(Some(n as usize)),
        }
    }

    /// A varint length as in records, then that many bytes; -1 is null.
    pub fn varint_bytes(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        match self.varint()? {
            -1 => Ok(None),
            n if n < 0 => Err(WireError::Malformed("length")),
            n => self.take(n as usize).map(Some),
        }
    }
}

/// How a length stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Unsigned varint of length + 1.
    Compact,
    /// INT32, -1 for null.
    Classic32,
    /// INT16, -1 for null.
    Classic16,
}

impl Length {
    /// The form of array and byte lengths.
    pub fn of(flexible: bool) -> Self {
        if flexible { Self::Compact } else { Self::Classic32 }
    }

    /// The form of string lengths.
    pub fn of_string(flexible: bool) -> Self {
        if flexible { Self::Compact } else { Self::Classic16 }
    }
}

/// Appends primitives to a buffer.
pub trait Writer {
    /// INT8.
    fn put_i8(&mut self, value: i8);
    /// INT16, big-endian.
    fn put_i16(&mut self, value: i16);
    /// INT32, big-endian.
    fn put_i32(&mut self, value: i32);
    /// INT64, big-endian.
    fn put_i64(&mut self, value: i64);
    /// UNSIGNED_VARINT.
    fn put_uvarint(&mut self, value: u64);
    /// A length in the form `kind`; `None` is null.
    fn put_length(&mut self, kind: Length, length: Option<usize>);
    /// A non-null string.
    fn put_string(&mut self, kind: Length, value: &str);

    /// VARINT or VARLONG: zigzag.
    fn put_varlong(&mut self, value: i64) {
        self.put_uvarint(((value << 1) ^ (value >> 63)) as u64);
    }
}

impl Writer for Vec<u8> {
    fn put_i8(&mut self, value: i8) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_i16(&mut self, value: i16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_i32(&mut self, value: i32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_length(&mut self, kind: Length, length: Option<usize>) {
        let signed = length.map_or(-1, |n| n as i64);
        match kind {
            Length::Compact => self.put_uvarint((signed + 1) as u64),
            Length::Classic32 => self.put_i32(signed as i32),
            Length::Classic16 => self.put_i16(signed as i16),
        }
    }

    fn put_string(&mut self, kind: Length, value: &str) {
        self.put_length(kind, Some(value.len()));
        self.extend_from_slice(value.as_bytes());
    }
}

/// Bytes that `value` takes as VARINT or VARLONG.
pub fn varlong_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varlong_round_trip(value: i64) {
            let mut bytes = Vec::new();
            bytes.put_varlong(value);
            prop_assert_eq!(bytes.len(), varlong_len(value));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varlong(), Ok(value));
            prop_assert_eq!(reader.remaining(), 0);
            let cut = bytes.split_last().map(|(_, head)| head).unwrap_or_default();
            prop_assert_eq!(Reader::new(cut).varlong(), Err(WireError::Short));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.varint_bytes();
            let _ = reader.length(Length::Compact);
            let _ = reader.varlong();
        }
    }

    #[test]
    fn lengths() {
        let mut bytes = Vec::new();
        for kind in [Length::Compact, Length::Classic16, Length::Classic32] {
            bytes.put_length(kind, None);
            bytes.put_length(kind, Some(300));
        }
        let mut reader = Reader::new(&bytes);
        for kind in [Length::Compact, Length::Classic16, Length::Classic32] {
            assert_eq!(reader.length(kind), Ok(None));
            assert_eq!(reader.length(kind), Ok(Some(300)));
        }
        assert_eq!(Reader::new(&[0xff, 0xfe]).length(Length::Classic16), Err(WireError::Malformed("length")));
    }
}
