//! The records that topics are filled with, and the batches made of them.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bodley_protocol::codecs;
use bodley_protocol::records::Builder;
use bodley_protocol::wire::Writer;
use clap::ValueEnum;
use serde::Serialize;

/// Different values; every record has one of them.
const VALUES: usize = 4096;
const SEED: u64 = 1;
/// Bytes of a piece of a value: what is random and what is not take turns.
const PIECE: usize = 20;
const FIXED: &[u8] = b"\"customer-address\":\"";
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// How large batches are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
pub enum Form {
    /// Records of 1,000 bytes, up to 256 KiB of them before compression.
    #[value(name = "256k")]
    #[serde(rename = "256k")]
    Large,
    /// Records of 1,000 bytes, up to 16 KiB of them before compression.
    #[value(name = "16k")]
    #[serde(rename = "16k")]
    Small,
    /// One record of 100 bytes.
    #[value(name = "one")]
    #[serde(rename = "one")]
    One,
}

impl Codec {
    /// The name in Kafka's settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    fn kafkas(self) -> codecs::Codec {
        match self {
            Self::None => codecs::Codec::None,
            Self::Lz4 => codecs::Codec::Lz4,
            Self::Zstd => codecs::Codec::Zstd,
        }
    }
}

impl Form {
    /// The name of the flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Large => "256k",
            Self::Small => "16k",
            Self::One => "one",
        }
    }

    /// Bytes of a value; there are no keys.
    pub fn value_bytes(self) -> usize {
        match self {
            Self::Large | Self::Small => 1000,
            Self::One => 100,
        }
    }

    /// Records of a batch, so that it stays within its size with all that is around a value.
    fn records(self) -> usize {
        const AROUND: usize = 16;
        let fit = |bytes: usize| (bytes - 61) / (self.value_bytes() + AROUND);
        match self {
            Self::Large => fit(256 << 10),
            Self::Small => fit(16 << 10),
            Self::One => 1,
        }
    }

    /// Different batches.
    fn batches(self) -> usize {
        match self {
            Self::Large => 32,
            Self::Small => 256,
            Self::One => 1024,
        }
    }
}

/// A batch, ready to be produced.
#[derive(Debug, Clone)]
pub struct Batch {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Records in it.
    pub records: i32,
}

/// The values: text of which half is the same everywhere, without line ends. The same each time.
pub fn values(form: Form) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut value = || {
        let mut value = Vec::with_capacity(form.value_bytes() + PIECE);
        while value.len() < form.value_bytes() {
            value.extend((0..PIECE).map(|_| random.choice(LETTERS).copied().unwrap_or_default()));
            value.extend_from_slice(FIXED);
        }
        value.truncate(form.value_bytes());
        value
    };
    (0..VALUES).map(|_| value()).collect()
}

/// Batches of records of now, with random ones of the [`values`].
pub fn batches(codec: Codec, form: Form) -> Result<Vec<Batch>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let values = values(form);
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut all = Vec::new();
    for _ in 0..form.batches() {
        let mut batch = Builder::new(codec.kafkas());
        for _ in 0..form.records() {
            let value = random.choice(&values).map(Vec::as_slice).unwrap_or_default();
            let mut body = Vec::new();
            body.put_varlong(-1); // null key
            body.put_varlong(value.len() as i64);
            body.extend_from_slice(value);
            body.put_varlong(0); // no headers
            batch.push(now, 0, &body);
        }
        let records = batch.count();
        all.push(Batch { bytes: batch.finish()?, records });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_protocol::batch;
    use bodley_protocol::records::Payload;

    #[test]
    fn batches_have_the_form_that_is_asked_for() {
        for (form, records, at_least, at_most) in [
            (Form::Large, 257, 250_000, 256 << 10),
            (Form::Small, 16, 15_000, 16 << 10),
            (Form::One, 1, 150, 200),
        ] {
            let plain = batches(Codec::None, form).unwrap();
            let one = plain.first().unwrap();
            assert_eq!(one.records, records);
            assert!((at_least..=at_most).contains(&one.bytes.len()), "{form:?}: {}", one.bytes.len());
            for codec in [Codec::Lz4, Codec::Zstd] {
                let packed = batches(codec, form).unwrap();
                let packed = packed.first().unwrap();
                assert!(
                    form == Form::One || packed.bytes.len() < one.bytes.len() * 7 / 10,
                    "{form:?} {codec:?}"
                );
                let header = batch::view_checked(&packed.bytes).unwrap().unwrap();
                let payload = Payload::unpack(&header, &packed.bytes).unwrap();
                let first = payload.records().next().unwrap().unwrap();
                let body = first.parse_body().unwrap();
                assert_eq!((body.key, body.value.map(<[u8]>::len)), (None, Some(form.value_bytes())));
            }
        }
    }

    #[test]
    fn values_are_lines() {
        assert!(values(Form::Small).iter().flatten().all(|b| (b' '..=b'~').contains(b)));
    }
}
