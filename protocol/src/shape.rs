//! The shapes of answers that the kafka-protocol crate decodes, and a walk that checks an answer against its shape first.
//!
//! That crate takes lengths as they come: it reserves room for as many elements as an array says to have, so four hostile bytes
//! would end the process. The walk allocates nothing. What it lets through has only lengths that its bytes bear out, ends with its
//! last field, and takes no more memory than [`MAX_DECODED`] once it is decoded.
//!
//! Source: the message definitions of Apache Kafka 4.1 (clients/src/main/resources/common/message); KIP-482 for tagged fields.

use crate::wire::{Length, Reader, WireError};

/// Memory that a decoded answer may take, about. Metadata of 100,000 partitions takes a quarter of it.
pub const MAX_DECODED: usize = 96 << 20;
/// A broker's struct has a few tagged fields at most.
const MAX_TAGS: u32 = 64;

/// Why an answer is not handed to the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A field that is cut or cannot be.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Bytes behind the last field: it is not of the version that was asked for.
    #[error("{0} bytes left over")]
    LeftOver(usize),
    /// Decoded it would take too much memory.
    #[error("more elements than any cluster has")]
    TooLarge,
    /// No shape is known.
    #[error("unknown API")]
    Unknown,
}

/// Checks an answer from its correlation id on.
pub fn check(api_key: i16, version: i16, frame: &[u8]) -> Result<(), ShapeError> {
    let shape = of(api_key).ok_or(ShapeError::Unknown)?;
    let flexible = version >= shape.flexible;
    let mut walk = Walk { reader: Reader::new(frame), version, flexible, memory: 0 };
    walk.kind(&FOUR)?; // the correlation id
    if flexible {
        walk.tags(&[])?;
    }
    walk.fields(shape.fields)?;
    match walk.reader.remaining() {
        0 => Ok(()),
        left => Err(ShapeError::LeftOver(left)),
    }
}

/// Whether answers of an API can be checked; the decoder asks when it is compiled.
pub(crate) const fn is_known(api_key: i16) -> bool {
    of(api_key).is_some()
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    /// What the decoder would have allocated so far, about.
    memory: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.is_in(version)) {
            self.kind(&field.kind)?;
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn kind(&mut self, kind: &'static Kind) -> Result<(), ShapeError> {
        match kind {
            Kind::Fixed(size) => {
                self.spend(8)?;
                self.reader.take(*size)?;
            }
            Kind::Text => self.bytes(Length::of_string(self.flexible))?,
            Kind::Blob => self.bytes(Length::of(self.flexible))?,
            Kind::Struct(fields) => self.fields(fields)?,
            Kind::Array(of) => self.array(of)?,
        }
        Ok(())
    }

    fn bytes(&mut self, form: Length) -> Result<(), ShapeError> {
        self.spend(32)?; // a view of the frame
        let length = self.reader.length(form)?.unwrap_or(0);
        self.reader.take(length)?;
        Ok(())
    }

    fn array(&mut self, of: &'static Kind) -> Result<(), ShapeError> {
        self.spend(24)?;
        let count = self.reader.length(Length::of(self.flexible))?.unwrap_or(0);
        if count == 0 {
            return Ok(());
        }
        if count > self.reader.remaining() / self.least(of).max(1) {
            return Err(WireError::Malformed("array length").into());
        }
        self.spend(16)?; // of the allocator
        if let Kind::Fixed(size) = of {
            self.spend(size * count)?;
            self.reader.take(size * count)?;
            return Ok(());
        }
        for _ in 0..count {
            self.kind(of)?;
        }
        Ok(())
    }

    /// Fewest bytes that a value takes on the wire.
    fn least(&self, kind: &Kind) -> usize {
        match kind {
            Kind::Fixed(size) => *size,
            Kind::Text => {
                if self.flexible {
                    1
                } else {
                    2
                }
            }
            Kind::Blob | Kind::Array(_) => {
                if self.flexible {
                    1
                } else {
                    4
                }
            }
            Kind::Struct(fields) => {
                let here = fields.iter().filter(|field| field.tag.is_none() && field.is_in(self.version));
                here.map(|field| self.least(&field.kind)).sum::<usize>() + usize::from(self.flexible)
            }
        }
    }

    /// Tagged fields. The decoder reads those that it knows without a look at their size: it must be the right one.
    fn tags(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        self.spend(24)?;
        let count = self.reader.uvarint()?;
        if count > MAX_TAGS {
            return Err(WireError::Malformed("number of tagged fields").into());
        }
        if count > 0 {
            self.spend(512)?; // a node of the map that keeps them
        }
        for _ in 0..count {
            self.spend(64)?;
            let tag = self.reader.uvarint()?;
            let size = self.reader.uvarint()? as usize;
            let value = self.reader.take(size)?;
            let known = fields.iter().find(|field| field.tag == Some(tag) && field.is_in(self.version));
            let Some(known) = known else { continue };
            let behind = std::mem::replace(&mut self.reader, Reader::new(value));
            self.kind(&known.kind)?;
            if std::mem::replace(&mut self.reader, behind).remaining() > 0 {
                return Err(WireError::Malformed("size of a tagged field").into());
            }
        }
        Ok(())
    }

    fn spend(&mut self, memory: usize) -> Result<(), ShapeError> {
        self.memory += memory;
        if self.memory > MAX_DECODED { Err(ShapeError::TooLarge) } else { Ok(()) }
    }
}

/// The answers of one API.
struct Shape {
    /// First version with compact lengths and tagged fields.
    flexible: i16,
    fields: &'static [Field],
}

struct Field {
    /// First version that has it.
    from: i16,
    /// Last version that has it.
    to: i16,
    /// Its number among the tagged fields, if it is one.
    tag: Option<u32>,
    kind: Kind,
}

impl Field {
    fn is_in(&self, version: i16) -> bool {
        (self.from..=self.to).contains(&version)
    }
}

enum Kind {
    /// A number, a truth value, a UUID: so many bytes.
    Fixed(usize),
    Text,
    Blob,
    Array(&'static Kind),
    Struct(&'static [Field]),
}

const ONE: Kind = Kind::Fixed(1);
const TWO: Kind = Kind::Fixed(2);
const FOUR: Kind = Kind::Fixed(4);
const EIGHT: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const TEXT: Kind = Kind::Text;
const INTS: Kind = Kind::Array(&FOUR);

const fn all(kind: Kind) -> Field {
    between(0, i16::MAX, kind)
}

const fn since(from: i16, kind: Kind) -> Field {
    between(from, i16::MAX, kind)
}

const fn until(to: i16, kind: Kind) -> Field {
    between(0, to, kind)
}

const fn between(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, tag: None, kind }
}

const fn tagged(tag: u32, from: i16, kind: Kind) -> Field {
    Field { from, to: i16::MAX, tag: Some(tag), kind }
}

const fn of(api_key: i16) -> Option<&'static Shape> {
    Some(match api_key {
        0 => &PRODUCE,
        2 => &LIST_OFFSETS,
        3 => &METADATA,
        8 => &OFFSET_COMMIT,
        9 => &OFFSET_FETCH,
        10 => &FIND_COORDINATOR,
        15 => &DESCRIBE_GROUPS,
        16 => &LIST_GROUPS,
        17 => &SASL_HANDSHAKE,
        19 => &CREATE_TOPICS,
        22 => &INIT_PRODUCER_ID,
        23 => &OFFSET_FOR_LEADER_EPOCH,
        24 => &ADD_PARTITIONS_TO_TXN,
        26 => &END_TXN,
        27 => &WRITE_TXN_MARKERS,
        32 => &DESCRIBE_CONFIGS,
        36 => &SASL_AUTHENTICATE,
        44 => &INCREMENTAL_ALTER_CONFIGS,
        47 => &OFFSET_DELETE,
        55 => &DESCRIBE_QUORUM,
        61 => &DESCRIBE_PRODUCERS,
        65 => &DESCRIBE_TRANSACTIONS,
        66 => &LIST_TRANSACTIONS,
        _ => return None,
    })
}

static PRODUCE: Shape = Shape {
    flexible: 9,
    fields: &[
        all(Kind::Array(&Kind::Struct(&[
            until(12, TEXT),
            since(13, UUID),
            all(Kind::Array(&Kind::Struct(&[
                all(FOUR),
                all(TWO),
                all(EIGHT),
                all(EIGHT),
                since(5, EIGHT),
                since(8, Kind::Array(&Kind::Struct(&[all(FOUR), all(TEXT)]))),
                since(8, TEXT),
                tagged(0, 10, Kind::Struct(&[all(FOUR), all(FOUR)])),
            ]))),
        ]))),
        all(FOUR),
        tagged(0, 10, Kind::Array(&Kind::Struct(&[all(FOUR), all(TEXT), all(FOUR), all(TEXT)]))),
    ],
};

static LIST_OFFSETS: Shape = Shape {
    flexible: 6,
    fields: &[
        since(2, FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TEXT),
            all(Kind::Array(&Kind::Struct(&[all(FOUR), all(TWO), all(EIGHT), all(EIGHT), since(4, FOUR)]))),
        ]))),
    ],
};

static METADATA: Shape = Shape {
    flexible: 9,
    fields: &[
        since(3, FOUR),
        all(Kind::Array(&Kind::Struct(&[all(FOUR), all(TEXT), all(FOUR), since(1, TEXT)]))),
        since(2, TEXT),
        since(1, FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TWO),
            all(TEXT),
            since(10, UUID),
            since(1, ONE),
            all(Kind::Array(&Kind::Struct(&[
                all(TWO),
                all(FOUR),
                all(FOUR),
                since(7, FOUR),
                all(INTS),
                all(INTS),
                since(5, INTS),
            ]))),
            since(8, FOUR),
        ]))),
        between(8, 10, FOUR),
        since(13, TWO),
    ],
};

static OFFSET_COMMIT: Shape = Shape {
    flexible: 8,
    fields: &[
        since(3, FOUR),
        all(Kind::Array(&Kind::Struct(&[
            until(9, TEXT),
            since(10, UUID),
            all(Kind::Array(&Kind::Struct(&[all(FOUR), all(TWO)]))),
        ]))),
    ],
};

const COMMITTED: Kind = Kind::Struct(&[all(FOUR), all(EIGHT), since(5, FOUR), all(TEXT), all(TWO)]);

static OFFSET_FETCH: Shape = Shape {
    flexible: 6,
    fields: &[
        since(3, FOUR),
        until(7, Kind::Array(&Kind::Struct(&[all(TEXT), all(Kind::Array(&COMMITTED))]))),
        between(2, 7, TWO),
        since(
            8,
            Kind::Array(&Kind::Struct(&[
                all(TEXT),
                all(Kind::Array(&Kind::Struct(&[
                    until(9, TEXT),
                    since(10, UUID),
                    all(Kind::Array(&COMMITTED)),
                ]))),
                all(TWO),
            ])),
        ),
    ],
};

static FIND_COORDINATOR: Shape = Shape {
    flexible: 3,
    fields: &[
        since(1, FOUR),
        until(3, TWO),
        between(1, 3, TEXT),
        until(3, FOUR),
        until(3, TEXT),
        until(3, FOUR),
        since(
            4,
            Kind::Array(&Kind::Struct(&[all(TEXT), all(FOUR), all(TEXT), all(FOUR), all(TWO), all(TEXT)])),
        ),
    ],
};

static DESCRIBE_GROUPS: Shape = Shape {
    flexible: 5,
    fields: &[
        since(1, FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TWO),
            since(6, TEXT),
            all(TEXT),
            all(TEXT),
            all(TEXT),
            all(TEXT),
            all(Kind::Array(&Kind::Struct(&[
                all(TEXT),
                since(4, TEXT),
                all(TEXT),
                all(TEXT),
                all(Kind::Blob),
                all(Kind::Blob),
            ]))),
            since(3, FOUR),
        ]))),
    ],
};

static LIST_GROUPS: Shape = Shape {
    flexible: 3,
    fields: &[
        since(1, FOUR),
        all(TWO),
        all(Kind::Array(&Kind::Struct(&[all(TEXT), all(TEXT), since(4, TEXT), since(5, TEXT)]))),
    ],
};

static SASL_HANDSHAKE: Shape = Shape { flexible: i16::MAX, fields: &[all(TWO), all(Kind::Array(&TEXT))] };

static CREATE_TOPICS: Shape = Shape {
    flexible: 5,
    fields: &[
        all(FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TEXT),
            since(7, UUID),
            all(TWO),
            all(TEXT),
            since(5, FOUR),
            since(5, TWO),
            since(5, Kind::Array(&Kind::Struct(&[all(TEXT), all(TEXT), all(ONE), all(ONE), all(ONE)]))),
            tagged(0, 5, TWO),
        ]))),
    ],
};

static INIT_PRODUCER_ID: Shape = Shape {
    flexible: 2,
    fields: &[all(FOUR), all(TWO), all(EIGHT), all(TWO), since(6, EIGHT), since(6, TWO)],
};

static OFFSET_FOR_LEADER_EPOCH: Shape = Shape {
    flexible: 4,
    fields: &[
        all(FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TEXT),
            all(Kind::Array(&Kind::Struct(&[all(TWO), all(FOUR), all(FOUR), all(EIGHT)]))),
        ]))),
    ],
};

const TRANSACTION_TOPICS: Kind =
    Kind::Array(&Kind::Struct(&[all(TEXT), all(Kind::Array(&Kind::Struct(&[all(FOUR), all(TWO)])))]));

static ADD_PARTITIONS_TO_TXN: Shape = Shape {
    flexible: 3,
    fields: &[
        all(FOUR),
        since(4, TWO),
        since(4, Kind::Array(&Kind::Struct(&[all(TEXT), all(TRANSACTION_TOPICS)]))),
        until(3, TRANSACTION_TOPICS),
    ],
};

static END_TXN: Shape = Shape { flexible: 3, fields: &[all(FOUR), all(TWO), since(5, EIGHT), since(5, TWO)] };

static WRITE_TXN_MARKERS: Shape =
    Shape { flexible: 1, fields: &[all(Kind::Array(&Kind::Struct(&[all(EIGHT), all(TRANSACTION_TOPICS)])))] };

static DESCRIBE_CONFIGS: Shape = Shape {
    flexible: 4,
    fields: &[
        all(FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TWO),
            all(TEXT),
            all(ONE),
            all(TEXT),
            all(Kind::Array(&Kind::Struct(&[
                all(TEXT),
                all(TEXT),
                all(ONE),
                all(ONE),
                all(ONE),
                all(Kind::Array(&Kind::Struct(&[all(TEXT), all(TEXT), all(ONE)]))),
                since(3, ONE),
                since(3, TEXT),
            ]))),
        ]))),
    ],
};

static SASL_AUTHENTICATE: Shape =
    Shape { flexible: 2, fields: &[all(TWO), all(TEXT), all(Kind::Blob), since(1, EIGHT)] };

static INCREMENTAL_ALTER_CONFIGS: Shape = Shape {
    flexible: 1,
    fields: &[all(FOUR), all(Kind::Array(&Kind::Struct(&[all(TWO), all(TEXT), all(ONE), all(TEXT)])))],
};

static OFFSET_DELETE: Shape = Shape {
    flexible: i16::MAX,
    fields: &[
        all(TWO),
        all(FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TEXT),
            all(Kind::Array(&Kind::Struct(&[all(FOUR), all(TWO)]))),
        ]))),
    ],
};

const QUORUM_REPLICAS: Kind =
    Kind::Array(&Kind::Struct(&[all(FOUR), since(2, UUID), all(EIGHT), since(1, EIGHT), since(1, EIGHT)]));

static DESCRIBE_QUORUM: Shape = Shape {
    flexible: 0,
    fields: &[
        all(TWO),
        since(2, TEXT),
        all(Kind::Array(&Kind::Struct(&[
            all(TEXT),
            all(Kind::Array(&Kind::Struct(&[
                all(FOUR),
                all(TWO),
                since(2, TEXT),
                all(FOUR),
                all(FOUR),
                all(EIGHT),
                all(QUORUM_REPLICAS),
                all(QUORUM_REPLICAS),
            ]))),
        ]))),
        since(
            2,
            Kind::Array(&Kind::Struct(&[
                all(FOUR),
                all(Kind::Array(&Kind::Struct(&[all(TEXT), all(TEXT), all(TWO)]))),
            ])),
        ),
    ],
};

static DESCRIBE_PRODUCERS: Shape = Shape {
    flexible: 0,
    fields: &[
        all(FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TEXT),
            all(Kind::Array(&Kind::Struct(&[
                all(FOUR),
                all(TWO),
                all(TEXT),
                all(Kind::Array(&Kind::Struct(&[
                    all(EIGHT),
                    all(FOUR),
                    all(FOUR),
                    all(EIGHT),
                    all(FOUR),
                    all(EIGHT),
                ]))),
            ]))),
        ]))),
    ],
};

static DESCRIBE_TRANSACTIONS: Shape = Shape {
    flexible: 0,
    fields: &[
        all(FOUR),
        all(Kind::Array(&Kind::Struct(&[
            all(TWO),
            all(TEXT),
            all(TEXT),
            all(FOUR),
            all(EIGHT),
            all(EIGHT),
            all(TWO),
            all(Kind::Array(&Kind::Struct(&[all(TEXT), all(INTS)]))),
        ]))),
    ],
};

static LIST_TRANSACTIONS: Shape = Shape {
    flexible: 0,
    fields: &[
        all(FOUR),
        all(TWO),
        all(Kind::Array(&TEXT)),
        all(Kind::Array(&Kind::Struct(&[all(TEXT), all(EIGHT), all(TEXT)]))),
    ],
};
