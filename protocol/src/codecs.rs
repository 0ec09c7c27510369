//! The compression codecs of record batches, in the framings that Kafka's own clients write, with bounded output.
//!
//! Only [`crate::rewrite`], [`crate::merge`], [`crate::times`] and the old message formats need them: a batch that goes back as it is stays compressed.

use std::io::{BufRead, BufReader, Read, Write};

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
            Self::Snappy => snappy_decompress(input, limit, out)?,
            Self::Gzip | Self::Lz4 | Self::Zstd => {
                let bounded = self.stream(input)?.take(limit as u64 + 1).read_to_end(out);
                bounded.map_err(|e| self.broken(&e.to_string()))?;
                if out.len() > limit {
                    return Err(CodecError::TooLarge(limit));
                }
            }
        }
        Ok(())
    }

    /// Reads what `input` unpacks to, piece by piece. Where a codec has blocks that can't be read in pieces, one has at most `limit` bytes.
    pub(crate) fn reader<'a>(
        self,
        input: &'a [u8],
        limit: usize,
    ) -> Result<Box<dyn BufRead + 'a>, CodecError> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Snappy => {
                Box::new(SnappyReader { blocks: Blocks::of(input), limit, block: Vec::new(), at: 0 })
            }
            _ => Box::new(BufReader::new(self.stream(input)?)),
        })
    }

    /// As [`Codec::reader`], for the codecs that have a stream.
    fn stream<'a>(self, input: &'a [u8]) -> Result<Box<dyn Read + 'a>, CodecError> {
        let broken = |e: std::io::Error| self.broken(&e.to_string());
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Lz4 => Box::new(lz4::Decoder::new(input).map_err(broken)?),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input).map_err(broken)?),
            Self::None | Self::Snappy => Box::new(input),
        })
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

/// The raw blocks of snappy-java's framing, or the one block that is not framed.
struct Blocks<'a> {
    rest: &'a [u8],
    is_framed: bool,
    is_done: bool,
}

impl<'a> Blocks<'a> {
    fn of(input: &'a [u8]) -> Self {
        let is_framed = input.starts_with(XERIAL_MAGIC);
        let rest = if is_framed { input.get(XERIAL_HEADER.len()..).unwrap_or_default() } else { input };
        Self { rest, is_framed, is_done: false }
    }

    fn next(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        if !self.is_framed {
            return Ok((!std::mem::replace(&mut self.is_done, true)).then_some(self.rest));
        }
        let Some((prefix, behind)) = self.rest.split_first_chunk::<4>() else {
            let is_cut = !self.rest.is_empty();
            return if is_cut { Err(Codec::Snappy.broken("cut block length")) } else { Ok(None) };
        };
        let block = behind.get(..u32::from_be_bytes(*prefix) as usize);
        let block = block.ok_or_else(|| Codec::Snappy.broken("a block reaches past the end"))?;
        self.rest = behind.get(block.len()..).unwrap_or_default();
        Ok(Some(block))
    }
}

/// One block after the other.
struct SnappyReader<'a> {
    blocks: Blocks<'a>,
    limit: usize,
    block: Vec<u8>,
    at: usize,
}

impl BufRead for SnappyReader<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        while self.at >= self.block.len() {
            let Some(block) = self.blocks.next().map_err(std::io::Error::other)? else { break };
            (self.at, self.block) = (0, Vec::new());
            snappy_block(block, self.limit, &mut self.block).map_err(std::io::Error::other)?;
        }
        Ok(self.block.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

fn snappy_decompress(input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mut blocks = Blocks::of(input);
    while let Some(block) = blocks.next()? {
        snappy_block(block, limit, out)?;
    }
    Ok(())
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
                let mut read = Vec::new();
                codec.reader(&packed, plain.len()).unwrap().read_to_end(&mut read).unwrap();
                prop_assert_eq!(&read, &plain);
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
