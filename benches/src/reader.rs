//! The plain loop under every baseline of ours: threads that read partitions by Fetch, a request at a time on each connection, and hand the
//! bytes on. Nothing is checked; only batch headers are looked at, to know what to ask for next. TLS is rustls as it comes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use bodley_protocol::fetch::{self, Asked, Isolation, Limits, PartitionHead, ResponseParser, Step};
use bodley_protocol::frame::{self, Head};
use bodley_protocol::messages::metadata_request::MetadataRequestTopic;
use bodley_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use bodley_protocol::{NO_TOPIC_ID, StrBytes, batch};
use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::{Deserialize, Serialize};

/// Last version that names topics.
const FETCH_VERSION: i16 = 12;
const METADATA_VERSION: i16 = 12;
/// The limits, partitions a request and connections a broker that `bodley backup` has.
pub const PARTITION_BYTES: i32 = 4 << 20;
const RESPONSE_BYTES: i32 = 16 << 20;
const PARTITIONS_PER_FETCH: usize = 400;
const CONNECTIONS: usize = 4;
/// Bytes of headers read at once, so that few of the record bytes behind them come along.
const STAGE: usize = 256;
const MAX_FRAME: usize = 128 << 20;

/// Which topic to read, and where.
#[derive(Debug, Args)]
pub struct Source {
    /// A broker.
    #[arg(long)]
    address: String,
    /// Trusted certificates; none: plain text.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The topic.
    #[arg(long)]
    topic: String,
    /// Records in all; another number is an error.
    #[arg(long)]
    records: i64,
}

/// What a run of ours did, as one line of JSON on standard output.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Bytes of whole batches.
    pub bytes: u64,
    /// Offsets that they cover.
    pub records: i64,
    /// Fetch or Produce requests.
    pub requests: u64,
}

/// Takes record bytes.
pub trait Sink: Send {
    /// A place of exactly `len` bytes.
    fn room(&mut self, len: usize) -> Result<&mut [u8]>;
    /// The first `len` bytes of that place are whole batches; the rest is a cut one, which will be asked for again.
    fn keep(&mut self, len: usize) -> Result<()>;
    /// There is no more.
    fn finish(self) -> Result<()>;
}

trait Transport: Read + Write + Send {}
impl<T: Read + Write + Send> Transport for T {}

impl Source {
    /// Reads all of it, over a few connections to each broker with a sink each, and prints the tally.
    pub fn read<S: Sink>(&self, sink: impl Fn(usize) -> Result<S>) -> Result<()> {
        let mut lanes = Vec::new();
        for (address, partitions) in self.leaders()? {
            for n in 0..CONNECTIONS.min(partitions.len()) {
                let own: Vec<i32> = partitions.iter().copied().skip(n).step_by(CONNECTIONS).collect();
                lanes.push((address.clone(), own, sink(lanes.len())?));
            }
        }
        let tally = thread::scope(|scope| {
            let mut threads = Vec::new();
            for (address, partitions, sink) in lanes {
                threads.push(scope.spawn(move || {
                    let stream = connect(&address, self.ca.as_deref())?;
                    Lane::new(stream, &self.topic, &partitions, sink).run()
                }));
            }
            let mut sum = Tally::default();
            for thread in threads {
                let own = thread.join().map_err(|_| anyhow::anyhow!("a reader broke down"))??;
                sum.bytes += own.bytes;
                sum.records += own.records;
                sum.requests += own.requests;
            }
            anyhow::Ok(sum)
        })?;
        ensure!(
            tally.records == self.records,
            "{} records were met, {} were expected",
            tally.records,
            self.records
        );
        println!("{}", serde_json::to_string(&tally)?);
        Ok(())
    }

    /// The partitions that each broker leads.
    fn leaders(&self) -> Result<BTreeMap<String, Vec<i32>>> {
        let metadata = self.metadata()?;
        let topic = metadata.topics.first().context("the cluster does not know the topic")?;
        let mut leaders: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in &topic.partitions {
            let broker = metadata.brokers.iter().find(|b| b.node_id == partition.leader_id);
            let broker =
                broker.with_context(|| format!("partition {} has no leader", partition.partition_index))?;
            let address = format!("{}:{}", broker.host.as_str(), broker.port);
            leaders.entry(address).or_default().push(partition.partition_index);
        }
        leaders.values_mut().for_each(|partitions| partitions.sort_unstable());
        Ok(leaders)
    }

    fn metadata(&self) -> Result<MetadataResponse> {
        let mut stream = connect(&self.address, self.ca.as_deref())?;
        let name = TopicName(StrBytes::from_string(self.topic.clone()));
        let topics = vec![MetadataRequestTopic::default().with_name(Some(name))];
        let request = MetadataRequest::default().with_topics(Some(topics));
        stream.write_all(&frame::encode(head(METADATA_VERSION), &request)?)?;
        stream.flush()?;
        let mut answer = vec![0; frame_length(&mut stream)?];
        stream.read_exact(&mut answer)?;
        Ok(frame::decode::<MetadataRequest>(METADATA_VERSION, answer.into())?)
    }
}

fn head(version: i16) -> Head<'static> {
    Head { version, correlation_id: 0, client_id: "drain" }
}

fn frame_length(stream: &mut impl Read) -> Result<usize> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length))?;
    ensure!(length <= MAX_FRAME, "a frame of {length} bytes");
    Ok(length)
}

fn connect(address: &str, ca: Option<&Path>) -> Result<Box<dyn Transport>> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let Some(ca) = ca else { return Ok(Box::new(stream)) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let host = address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
    let session = ClientConnection::new(config, ServerName::try_from(host)?)?;
    Ok(Box::new(StreamOwned::new(session, stream)))
}

/// A connection and its partitions.
struct Lane<'a, S> {
    stream: Box<dyn Transport>,
    topic: &'a str,
    /// Partition and next offset; who is not at its end yet.
    open: Vec<(i32, i64)>,
    sink: S,
    /// Bytes of headers, and perhaps of records behind them, that were read and not used.
    stage: Vec<u8>,
    tally: Tally,
}

impl<'a, S: Sink> Lane<'a, S> {
    fn new(stream: Box<dyn Transport>, topic: &'a str, partitions: &[i32], sink: S) -> Self {
        let open = partitions.iter().map(|&partition| (partition, 0)).collect();
        Self { stream, topic, open, sink, stage: Vec::new(), tally: Tally::default() }
    }

    fn run(mut self) -> Result<Tally> {
        while !self.open.is_empty() {
            self.request()?;
            self.answer()?;
            // Who was asked first goes to the back, so that each is served.
            let asked = PARTITIONS_PER_FETCH.min(self.open.len());
            let served = usize::try_from(RESPONSE_BYTES / PARTITION_BYTES)?;
            self.open.rotate_left(served.min(asked));
        }
        self.sink.finish()?;
        Ok(self.tally)
    }

    fn request(&mut self) -> Result<()> {
        let partition = |&(partition, offset): &(i32, i64)| fetch::Partition {
            topic: self.topic,
            topic_id: NO_TOPIC_ID,
            partition,
            offset,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            max_bytes: PARTITION_BYTES,
        };
        let wanted: Vec<_> = self.open.iter().take(PARTITIONS_PER_FETCH).map(partition).collect();
        let isolation = Isolation::Uncommitted;
        let limits = Limits { isolation, max_wait_ms: 500, min_bytes: 1, max_bytes: RESPONSE_BYTES };
        self.stream.write_all(&fetch::encode(head(FETCH_VERSION), limits, "", &Asked::all(&wanted)))?;
        self.stream.flush()?;
        self.tally.requests += 1;
        Ok(())
    }

    fn answer(&mut self) -> Result<()> {
        let length = frame_length(&mut self.stream)?;
        let mut parser = ResponseParser::new(FETCH_VERSION, length);
        let mut left = length;
        self.stage.clear();
        loop {
            let (used, step) = parser.step(&self.stage)?;
            self.stage.drain(..used);
            match step {
                Step::More => left -= self.stage_more(left)?,
                Step::Records(head) => left -= self.records(&head)?,
                Step::PartitionEnd(_) => {}
                Step::End { error, .. } => {
                    ensure!(error.0 == 0, "the broker refuses Fetch: error {}", error.0);
                    return Ok(());
                }
            }
        }
    }

    /// Reads some more of the headers; how many bytes.
    fn stage_more(&mut self, left: usize) -> Result<usize> {
        ensure!(left > 0, "the answer is cut");
        let more = left.min(STAGE);
        let had = self.stage.len();
        self.stage.resize(had + more, 0);
        self.stream.read_exact(self.stage.get_mut(had..).unwrap_or_default())?;
        Ok(more)
    }

    /// Reads the record bytes of one partition; how many came from the stream.
    fn records(&mut self, head: &PartitionHead) -> Result<usize> {
        ensure!(head.error == 0, "partition {}: error {}", head.partition, head.error);
        let place = self.sink.room(head.records_len)?;
        let staged = self.stage.len().min(place.len());
        let (first, rest) = place.split_at_mut(staged);
        first.copy_from_slice(self.stage.get(..staged).unwrap_or_default());
        self.stage.drain(..staged);
        self.stream.read_exact(rest)?;
        let fresh = rest.len();

        let at = self.open.iter().position(|(partition, _)| *partition == head.partition);
        let at = at.with_context(|| format!("partition {} was not asked for", head.partition))?;
        let Some((_, offset)) = self.open.get_mut(at) else { bail!("no such partition") };
        let (next, whole) = walk(place, *offset)?;
        self.tally.bytes += whole as u64;
        self.tally.records += next - *offset;
        *offset = next;
        if next >= head.high_watermark {
            self.open.remove(at);
        }
        self.sink.keep(whole)?;
        Ok(fresh)
    }
}

/// The offset behind the last whole batch, and the bytes of whole batches.
fn walk(records: &[u8], mut next: i64) -> Result<(i64, usize)> {
    let mut whole = 0;
    while let Some(header) = batch::view(records.get(whole..).unwrap_or_default())? {
        next = header.last_offset() + 1;
        whole += header.size;
    }
    Ok((next, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_protocol::codecs::Codec;
    use bodley_protocol::records::Builder;

    #[test]
    fn a_cut_batch_is_left() {
        let mut builder = Builder::new(Codec::None);
        builder.push(1, 0, &[1, 1, 0]);
        builder.push(1, 0, &[1, 1, 0]);
        let batch = builder.finish().unwrap();
        let cut = [batch.clone(), batch.get(..70).unwrap().to_vec()].concat();
        assert_eq!(walk(&cut, 0).unwrap(), (2, batch.len()));
        assert_eq!(walk(&batch[..20], 7).unwrap(), (7, 0));
    }
}
