//! CRC-32C (Kafka's, over each batch) and CRC-64/NVME (the vault's, over chunks and segments), and their algebra:
//! the checksum of two parts joined, and of a batch whose header was patched, without reading the payload again.
//!
//! The algebra is that of reflected CRCs as in zlib's `crc32_combine`: appending n bytes to a message multiplies its
//! remainder by x^(8n) modulo the polynomial. One multiplication costs about 64 shifts, a combine some ten of them.

/// CRC-32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32 (IEEE) of `bytes`: that of the message formats before record batches.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// CRC-64/NVME of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::crc64_nvme(bytes)
}

/// A CRC-64/NVME that grows piece by piece, while each piece is warm in the cache.
pub struct Crc64(crc_fast::Digest);

impl Crc64 {
    /// Of no bytes yet.
    pub fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all bytes so far.
    pub fn finish(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Self {
        Self::new()
    }
}

/// CRC-32C of `a ‖ b` from those of `a` and `b`; `b_len` in bytes.
pub fn crc32c_combine(a: u32, b: u32, b_len: u64) -> u32 {
    crc32c_shift(a, b_len) ^ b
}

/// What a difference in a message's checksum becomes when `len` more bytes follow it.
pub fn crc32c_shift(crc: u32, len: u64) -> u32 {
    // A 32-bit reflected polynomial is the same field element in the upper half of 64 bits.
    (CRC32C.shift(u64::from(crc) << 32, len) >> 32) as u32
}

/// CRC-64/NVME of `a ‖ b` from those of `a` and `b`; `b_len` in bytes.
pub fn crc64_combine(a: u64, b: u64, b_len: u64) -> u64 {
    CRC64.shift(a, b_len) ^ b
}

const CRC32C: Field = Field::new(0x82f6_3b78 << 32, 32);
const CRC64: Field = Field::new(0x9a6c_9329_ac4b_c9b5, 64);

/// Polynomials modulo a reflected CRC polynomial of degree 32 (in the upper half) or 64; bit 63 is x^0.
struct Field {
    poly: u64,
    /// The coefficient of the highest power, degree - 1.
    top: u64,
    /// x^(8 · 2^k) for k in 0..64.
    powers: [u64; 64],
}

impl Field {
    const ONE: u64 = 1 << 63;

    const fn new(poly: u64, degree: u32) -> Self {
        let top = 1 << (64 - degree);
        let mut power = Self::ONE >> 8;
        let mut powers = [0; 64];
        let mut k = 0;
        while k < 64 {
            // In range: k < 64, the array's length.
            #[allow(clippy::indexing_slicing)]
            {
                powers[k] = power;
            }
            power = multiply(power, power, poly, top);
            k += 1;
        }
        Self { poly, top, powers }
    }

    fn shift(&self, crc: u64, len: u64) -> u64 {
        self.powers
            .iter()
            .enumerate()
            .filter(|(k, _)| len >> k & 1 == 1)
            .fold(crc, |crc, (_, power)| multiply(crc, *power, self.poly, self.top))
    }
}

const fn multiply(mut a: u64, mut b: u64, poly: u64, top: u64) -> u64 {
    let mut product = 0;
    while a != 0 {
        if a >> 63 == 1 {
            product ^= b;
        }
        a <<= 1;
        b = if b & top == 0 { b >> 1 } else { (b ^ top) >> 1 ^ poly };
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn check_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
    }

    proptest! {
        #[test]
        fn combine_equals_the_whole(a in proptest::collection::vec(any::<u8>(), 0..300),
                                    b in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let whole = [a.clone(), b.clone()].concat();
            let len = b.len() as u64;
            prop_assert_eq!(crc32c_combine(crc32c(&a), crc32c(&b), len), crc32c(&whole));
            prop_assert_eq!(crc64_combine(crc64(&a), crc64(&b), len), crc64(&whole));
            let mut growing = Crc64::new();
            growing.update(&a);
            growing.update(&b);
            prop_assert_eq!(growing.finish(), crc64(&whole));
        }
    }
}
