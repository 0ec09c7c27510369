//! What a request can meet with.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request};

use super::{Shared, World, admin, data};

/// A request under way.
pub struct Call<'a> {
    /// Id of the broker that was asked.
    pub node: i32,
    /// What is asked.
    pub api: ApiKey,
    /// In which version.
    pub version: i16,
    /// To be repeated in the answer.
    pub correlation_id: i32,
    /// Counts the requests of this API since the script was set, from 0.
    pub nth: usize,
    pub(super) body: Bytes,
    pub(super) shared: &'a Shared,
}

/// What is done about a request.
#[derive(Debug)]
pub enum Action {
    /// The honest answer.
    Honest,
    /// This answer, behind the right header.
    Body(Bytes),
    /// These bytes, of which the first four are the length.
    Frame(Vec<u8>),
    /// Nothing, for ever.
    Silence,
    /// The connection is closed.
    Close,
    /// After a pause.
    After(Duration, Box<Action>),
    /// A byte at a time, with a pause behind each.
    Drip(Duration, Box<Action>),
}

impl Call<'_> {
    /// The request, if it is one of these.
    pub fn request<R: Request>(&self) -> Option<R> {
        if self.api as i16 != R::KEY {
            return None;
        }
        R::decode(&mut self.body.clone(), self.version).ok()
    }

    /// Looks at or changes what is in memory.
    pub fn world<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.shared.world())
    }

    /// The honest answer, changed; other requests than those of `R` get theirs as it is.
    pub fn edit<R: Request>(&self, change: impl FnOnce(&mut R::Response)) -> Action {
        if self.api as i16 != R::KEY {
            return Action::Honest;
        }
        let edited = || -> Result<Bytes> {
            let mut response = R::Response::decode(&mut self.honest()?, self.version)?;
            change(&mut response);
            encode(&response, self.version)
        };
        edited().map_or_else(|error| self.failed(&error), Action::Body)
    }

    /// The honest answer's bytes, changed on their way, with or without its length put right.
    pub fn mangle(&self, right_length: bool, change: impl FnOnce(&mut Vec<u8>)) -> Action {
        match self.honest_frame() {
            Ok(mut frame) => {
                change(&mut frame);
                let length = frame.len().saturating_sub(4) as i32;
                if let (true, Some(prefix)) = (right_length, frame.first_chunk_mut()) {
                    *prefix = length.to_be_bytes();
                }
                Action::Frame(frame)
            }
            Err(error) => self.failed(&error),
        }
    }

    /// The honest answer as it goes over the wire.
    pub fn honest_frame(&self) -> Result<Vec<u8>> {
        self.frame(&self.honest()?)
    }

    fn failed(&self, error: &anyhow::Error) -> Action {
        eprintln!("scripted broker {}: {:?} v{}: {error:#}", self.node, self.api, self.version);
        Action::Close
    }

    /// The body of the honest answer.
    pub(super) fn honest(&self) -> Result<Bytes> {
        let context = || format!("{:?} v{}", self.api, self.version);
        if data::waits(self) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut world = self.shared.world();
        match self.api {
            ApiKey::Fetch | ApiKey::Produce | ApiKey::ListOffsets | ApiKey::OffsetForLeaderEpoch => {
                data::answer(self, &mut world).with_context(context)
            }
            _ => admin::answer(self, &mut world).with_context(context),
        }
    }

    pub(super) fn frame(&self, body: &[u8]) -> Result<Vec<u8>> {
        let mut frame = BytesMut::zeroed(4);
        let header = ResponseHeader::default().with_correlation_id(self.correlation_id);
        header.encode(&mut frame, self.api.response_header_version(self.version))?;
        frame.extend_from_slice(body);
        let mut frame = frame.to_vec();
        let length = i32::try_from(frame.len() - 4)?;
        *frame.first_chunk_mut().ok_or_else(|| anyhow!("no room for a length"))? = length.to_be_bytes();
        Ok(frame)
    }
}

pub(super) fn encode<M: Encodable>(message: &M, version: i16) -> Result<Bytes> {
    let mut body = BytesMut::new();
    message.encode(&mut body, version)?;
    Ok(body.freeze())
}
