//! The compression codecs of record batches, in the framings that Kafka's own clients write, with bounded output.
//!
//! Only [`crate::rewrite`], [`crate::merge`] and [`crate::times`] need them: a batch that goes back as it is stays compressed.

use std::io::{Read, Write};

/// First bytes of snappy-java's stream framing, which the Java client writes: magic, version 1, lowest compatible version 1.
const XERIAL_HEADER: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_BLOCK: usize = 32 * 1024;

/// A codec, by its number in the batch attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// 0
    None,
    /// 1
    Gzip,
    /// 2
    Snappy,
    /// 3
    Lz4,
    /// 4
    Zstd,
}

/// A payload that cannot be unpacked or packed.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A number that Kafka has not assigned.
    #[error("unknown compression codec {0}")]
    Unknown(u8),
    /// More than the caller allows.
    #[error("the batch unpacks to more than {0} bytes")]
    TooLarge(usize),
    /// The codec's own complaint.
    #[error("{codec:?}: {what}")]
    Broken {
        /// Which codec.
        codec: Codec,
        /// Its complaint.
        what: String,
    },
}

impl Codec {
    /// From the batch attributes.
    pub fn from_number(number: u8) -> Result<Self, CodecError> {
        Ok(match number {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            other => return Err(CodecError::Unknown(other)),
        })
    }

    /// For the batch attributes.
    pub fn number(self) -> i16 {
        self as i16
    }

    /// Unpacks `input` to at most `limit` bytes.
    pub fn decompress(self, input: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
        let mut out = Vec::new();
        self.decompress_to(input, limit, &mut out)?;
        Ok(out)
    }

    /// As [`Codec::decompress`], to an `out` that is empty.
    fn decompress_to(self, input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match self {
            Self::None if input.len() > limit => return Err(CodecError::TooLarge(limit)),
            Self::None => out.extend_from_slice(input),
            Self::Gzip => self.read_all(flate2::read::MultiGzDecoder::new(input), limit, out)?,
            Self::Snappy => snappy_decompress(input, limit, out)?,
            Self::Lz4 => {
                let decoder = lz4::Decoder::new(input);
                self.read_all(decoder.map_err(|e| self.broken(&e.to_string()))?, limit, out)?;
            }
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(input);
                self.read_all(decoder.map_err(|e| self.broken(&e.to_string()))?, limit, out)?;
            }
        }
        Ok(())
    }

    /// Packs `input` as Kafka's Java client would.
    pub fn compress(self, input: &[u8]) -> Result<Vec<u8>, CodecError> {
        let broken = |e: std::io::Error| self.broken(&e.to_string());
        match self {
            Self::None => Ok(input.to_vec()),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(input).map_err(broken)?;
                encoder.finish().map_err(broken)
            }
            Self::Snappy => snappy_compress(input),
            Self::Lz4 => {
                // Java's reader takes independent blocks only.
                let mut encoder = lz4::EncoderBuilder::new()
                    .block_mode(lz4::BlockMode::Independent)
                    .block_size(lz4::BlockSize::Max64KB)
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .build(Vec::new())
                    .map_err(broken)?;
                encoder.write_all(input).map_err(broken)?;
                let (out, result) = encoder.finish();
                result.map_err(broken)?;
                Ok(out)
            }
            Self::Zstd => zstd::stream::encode_all(input, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(broken),
        }
    }

    fn broken(self, what: &str) -> CodecError {
        CodecError::Broken { codec: self, what: what.to_owned() }
    }

    fn read_all(self, reader: impl Read, limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut bounded = reader.take(limit as u64 + 1);
        bounded.read_to_end(out).map_err(|e| self.broken(&e.to_string()))?;
        if out.len() > limit { Err(CodecError::TooLarge(limit)) } else { Ok(()) }
    }
}

/// Unpacks many small payloads one after another: what is costly to make is kept from one to the next.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// Unpacks `input` to at most `limit` bytes, which replace what is in `out`. `out` keeps its room, with zstd for `limit` bytes.
    pub fn unpack(
        &mut self,
        codec: Codec,
        input: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        out.clear();
        if codec != Codec::Zstd {
            return codec.decompress_to(input, limit, out);
        }
        let broken = |e: std::io::Error| codec.broken(&e.to_string());
        // A stream's decoder makes a window of some MiB, whatever the payload's length. In one step there is none.
        let decoder = match &mut self.zstd {
            Some(decoder) => decoder,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(broken)?),
        };
        out.reserve_exact(limit);
        decoder.decompress_to_buffer(input, out).map_err(broken)?;
        // The vector may have had more room than was asked for.
        if out.len() > limit { Err(CodecError::TooLarge(limit)) } else { Ok(()) }
    }
}

fn snappy_decompress(input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    if !input.starts_with(XERIAL_MAGIC) {
        return snappy_block(input, limit, out);
    }
    let mut rest = input.get(XERIAL_HEADER.len()..).unwrap_or_default();
    while let Some((prefix, behind)) = rest.split_first_chunk::<4>() {
        let block = behind.get(..u32::from_be_bytes(*prefix) as usize);
        let block = block.ok_or_else(|| Codec::Snappy.broken("a block reaches past the end"))?;
        snappy_block(block, limit, out)?;
        rest = behind.get(block.len()..).unwrap_or_default();
    }
    if rest.is_empty() { Ok(()) } else { Err(Codec::Snappy.broken("cut block length")) }
}

fn snappy_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let broken = |e: snap::Error| Codec::Snappy.broken(&e.to_string());
    let plain = snap::raw::decompress_len(block).map_err(broken)?;
    if out.len().saturating_add(plain) > limit {
        return Err(CodecError::TooLarge(limit));
    }
    // Snappy packs at most some 21 bytes into one: a longer claim is a lie that must not be allocated.
    if plain > block.len().saturating_mul(64) {
        return Err(Codec::Snappy.broken("a block claims more than it can hold"));
    }
    out.extend(snap::raw::Decoder::new().decompress_vec(block).map_err(broken)?);
    Ok(())
}

fn snappy_compress(input: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut out = XERIAL_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK) {
        let packed = encoder.compress_vec(block).map_err(|e| Codec::Snappy.broken(&e.to_string()))?;
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    proptest! {
        #[test]
        fn round_trip_within_the_limit(seed in proptest::collection::vec(any::<u8>(), 0..600), repeat in 1usize..200) {
            let plain = seed.repeat(repeat);
            let (mut unpacker, mut unpacked) = (Unpacker::default(), vec![1; 70]);
            for codec in ALL {
                let packed = codec.compress(&plain).unwrap();
                prop_assert_eq!(&codec.decompress(&packed, plain.len()).unwrap(), &plain);
                if !plain.is_empty() {
                    prop_assert!(matches!(codec.decompress(&packed, plain.len() - 1), Err(CodecError::TooLarge(_))));
                    prop_assert!(unpacker.unpack(codec, &packed, plain.len() - 1, &mut Vec::new()).is_err());
                }
                unpacker.unpack(codec, &packed, plain.len(), &mut unpacked).unwrap();
                prop_assert_eq!(&unpacked, &plain);
                prop_assert_eq!(Codec::from_number(codec.number() as u8).unwrap(), codec);
            }
        }

        #[test]
        fn noise_is_an_error_or_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut unpacker, mut unpacked) = (Unpacker::default(), Vec::new());
            for codec in ALL {
                if let Ok(out) = codec.decompress(&bytes, 1 << 16) {
                    prop_assert!(out.len() <= 1 << 16);
                }
                if unpacker.unpack(codec, &bytes, 1 << 16, &mut unpacked).is_ok() {
                    prop_assert!(unpacked.len() <= 1 << 16);
                }
            }
        }
    }

    #[test]
    fn raw_snappy_is_read_too() {
        let packed = snap::raw::Encoder::new().compress_vec(b"librdkafka writes raw blocks").unwrap();
        assert_eq!(Codec::Snappy.decompress(&packed, 100).unwrap(), b"librdkafka writes raw blocks");
    }
}
