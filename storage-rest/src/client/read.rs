//! Bytes back from a store: a read that is cut or stalls goes on where it stood, of the very same object.

use bodley_io::store::StoreError;
use bodley_io::{Filled, PartBuf};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use reqwest::Response;

use super::{Beat, Call, Client, Dialect, Failure, closed, text};
use crate::web::HttpError;

/// Memory taken for an object before its bytes are there, in bytes.
const TRUSTED: u64 = 1 << 20;

/// Behind a range an answer may go on for so long, in bytes, before the connection is given up for it.
const MOST_EXCESS: usize = 64 << 10;

/// Where the bytes go.
enum Sink<'a> {
    Part(&'a mut PartBuf),
    /// Grows; the limit that makes sense.
    Memory(&'a mut BytesMut, u64),
}

/// A read on its way.
struct Reading<'a> {
    at: u64,
    /// `None`: to the end, which the first answer tells.
    len: Option<u64>,
    got: u64,
    /// Bytes behind what was asked for.
    excess: usize,
    /// Of the object that was begun with.
    version: Option<String>,
    sink: Sink<'a>,
}

impl<D: Dialect> Client<D> {
    /// Bytes `at..at + len`, by ranged requests made of `call`. `buf` has room for them.
    pub async fn read(
        &self,
        call: Call<'_>,
        at: u64,
        len: usize,
        mut buf: PartBuf,
    ) -> Result<Filled, StoreError> {
        let reading = Reading {
            at,
            len: Some(len as u64),
            got: 0,
            excess: 0,
            version: None,
            sink: Sink::Part(&mut buf),
        };
        if len > 0 {
            self.fill(call, reading).await?;
        }
        Ok(Filled::new(buf, 0, len))
    }

    /// A whole object of at most `limit` bytes.
    pub async fn get(&self, call: Call<'_>, limit: u64) -> Result<Bytes, StoreError> {
        let mut body = BytesMut::new();
        let reading = Reading {
            at: 0,
            len: None,
            got: 0,
            excess: 0,
            version: None,
            sink: Sink::Memory(&mut body, limit),
        };
        self.fill(call, reading).await?;
        Ok(body.freeze())
    }

    async fn fill(&self, call: Call<'_>, mut reading: Reading<'_>) -> Result<(), StoreError> {
        let mut tries = self.tries();
        loop {
            let call = reading.next(&call);
            let Some(turn) = self.0.gate.enter().await else { return Err(closed(&call)) };
            let before = reading.got;
            let failure = match self.pour(&call, &mut reading).await {
                Ok(()) => {
                    self.0.gate.went_well();
                    return Ok(());
                }
                Err(Cut::Final(error)) => return Err(error),
                Err(Cut::Passing(failure)) => failure,
            };
            drop(turn);
            if reading.got > before {
                tries.backoff.progress();
            }
            self.after(&call, failure, &mut tries).await?;
        }
    }

    /// One answer into the sink, until it is whole or cut.
    async fn pour(&self, call: &Call<'_>, reading: &mut Reading<'_>) -> Result<(), Cut> {
        let beat = Beat::new();
        let mut response = match self.attempt(call, &beat).await {
            Ok(response) => response,
            Err(failure) => return Err(Cut::Passing(failure)),
        };
        if !call.is_answer(response.status()) {
            return Err(self.no_bytes(call, response, &beat).await);
        }
        reading.begin(call, &response).map_err(Cut::Final)?;
        reading.version = self.0.dialect.version(response.headers());
        while let Some(chunk) = self
            .chunk(call, &mut response, &beat)
            .await
            .map_err(|error| Cut::Passing(Failure::Http(error)))?
        {
            reading.take(call, &chunk).map_err(Cut::Final)?;
            if reading.excess > MOST_EXCESS {
                // It goes on behind the range: enough is here.
                return Ok(());
            }
        }
        match reading.len.is_some_and(|len| reading.got >= len) {
            true => Ok(()),
            false => {
                let cut = HttpError::Broken("the answer ended too soon".to_owned());
                Err(Cut::Passing(Failure::Http(cut)))
            }
        }
    }

    async fn no_bytes(&self, call: &Call<'_>, response: Response, beat: &Beat) -> Cut {
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            let headers = response.headers();
            let wanted = range_of(call).map_or(0, |(_, end)| end);
            let object = call.object.to_owned();
            return Cut::Final(StoreError::Short { object, size: total(headers).unwrap_or(0), wanted });
        }
        Cut::Passing(self.refused_by(call, response, beat).await)
    }
}

/// Why a read did not come to its end.
enum Cut {
    Final(StoreError),
    /// The table decides.
    Passing(Failure),
}

impl Reading<'_> {
    /// The request for what is missing.
    fn next<'c>(&self, call: &Call<'c>) -> Call<'c> {
        let from = self.at + self.got;
        let call = call.clone();
        let call = match &self.version {
            Some(version) => call.header("if-match", version),
            None => call,
        };
        match self.len {
            Some(len) => call.header("range", format!("bytes={from}-{}", self.at + len - 1)),
            None if from > 0 => call.header("range", format!("bytes={from}-")),
            None => call,
        }
    }

    /// Looks at the headers of an answer: is it what was asked for.
    fn begin(&mut self, call: &Call<'_>, response: &Response) -> Result<(), StoreError> {
        let (headers, from) = (response.headers(), self.at + self.got);
        let wrong = |what: &str| StoreError::Remote {
            operation: call.verb,
            object: call.object.to_owned(),
            what: format!("the store's answer makes no sense: {what}"),
            passing: false,
        };
        let size = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let start = content_range(headers).map(|(start, _)| start);
                if start != Some(from) {
                    return Err(wrong("it is of another range"));
                }
                total(headers)
            }
            // The whole object, although a range was asked for or because none was.
            _ if from == 0 => response.content_length(),
            _ => return Err(wrong("it does not keep to ranges")),
        };
        let object = || call.object.to_owned();
        match (&mut self.sink, self.len) {
            (_, Some(len)) => match size {
                Some(size) if size < self.at + len => {
                    Err(StoreError::Short { object: object(), size, wanted: self.at + len })
                }
                _ => Ok(()),
            },
            (Sink::Memory(body, limit), None) => {
                let size = size.ok_or_else(|| wrong("it does not say its length"))?;
                if size > *limit {
                    return Err(StoreError::TooLarge { object: object(), size, limit: *limit });
                }
                body.reserve(size.min(TRUSTED) as usize);
                self.len = Some(size);
                Ok(())
            }
            (Sink::Part(_), None) => Err(wrong("nobody asked for it")),
        }
    }

    fn take(&mut self, call: &Call<'_>, chunk: &[u8]) -> Result<(), StoreError> {
        let left = self.len.unwrap_or_default().saturating_sub(self.got);
        // An answer that runs on past the range is cut, not trusted.
        self.excess += chunk.len().saturating_sub(left as usize);
        let chunk = chunk.get(..chunk.len().min(left as usize)).unwrap_or_default();
        match &mut self.sink {
            Sink::Memory(body, _) => body.extend_from_slice(chunk),
            Sink::Part(buf) => {
                let at = self.got as usize;
                match buf.get_mut(at..at + chunk.len()) {
                    Some(room) => room.copy_from_slice(chunk),
                    None => {
                        return Err(StoreError::Remote {
                            operation: call.verb,
                            object: call.object.to_owned(),
                            what: "the buffer is too short for it".to_owned(),
                            passing: false,
                        });
                    }
                }
            }
        }
        self.got += chunk.len() as u64;
        Ok(())
    }
}

/// First byte and total length of `bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = text(headers, "content-range")?.strip_prefix("bytes")?.trim().split_once('/')?;
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    Some((start.unwrap_or(u64::MAX), total.trim().parse().ok()))
}

fn total(headers: &HeaderMap) -> Option<u64> {
    content_range(headers)?.1
}

/// The range that a call asks for, its end exclusive.
fn range_of(call: &Call<'_>) -> Option<(u64, u64)> {
    let (from, to) = text(&call.headers, "range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, to.parse::<u64>().ok()?.saturating_add(1)))
}
