//! The baseline: reads partitions by Fetch, one connection each, and throws the bytes away. Nothing is checked, nothing is kept; only batch
//! headers are looked at, to know what to ask for next. TLS is tokio-rustls as it comes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bodley_protocol::batch;
use bodley_protocol::fetch::{self, Isolation, Limits, Partition, ResponseParser, Step};
use bodley_protocol::frame::Head;
use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Last version that names topics.
const VERSION: i16 = 12;
const BYTES: i32 = 16 << 20;

/// What to read.
#[derive(Debug, Args)]
pub struct Drain {
    /// A broker.
    #[arg(long)]
    address: String,
    /// Trusted certificates; none: plain text.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The topic.
    #[arg(long)]
    topic: String,
    /// Its partitions.
    #[arg(long)]
    partitions: i32,
    /// Records in all; the reader ends when it has met them.
    #[arg(long)]
    records: i64,
}

impl Drain {
    /// Reads all of it.
    pub fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut readers = tokio::task::JoinSet::new();
            for partition in 0..self.partitions {
                let (topic, address) = (self.topic.clone(), self.address.clone());
                let config = self.ca.as_ref().map(config).transpose()?;
                readers.spawn(async move {
                    let stream = TcpStream::connect(&address).await?;
                    stream.set_nodelay(true)?;
                    match config {
                        None => read(stream, &topic, partition).await,
                        Some(config) => {
                            let host = address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
                            let connector = tokio_rustls::TlsConnector::from(config);
                            read(
                                connector.connect(ServerName::try_from(host)?, stream).await?,
                                &topic,
                                partition,
                            )
                            .await
                        }
                    }
                });
            }
            let mut records = 0;
            while let Some(read) = readers.join_next().await {
                records += read??;
            }
            if records != self.records {
                bail!("{records} records were met, {} were expected", self.records);
            }
            Ok(())
        })
    }
}

fn config(ca: &PathBuf) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Reads a partition to its end; the number of its records.
async fn read(mut stream: impl AsyncRead + AsyncWrite + Unpin, topic: &str, partition: i32) -> Result<i64> {
    let mut offset = 0;
    let mut frame = Vec::new();
    loop {
        let head = Head { version: VERSION, correlation_id: 0, client_id: "drain" };
        let limits =
            Limits { isolation: Isolation::Uncommitted, max_wait_ms: 100, min_bytes: 1, max_bytes: BYTES };
        let wanted = Partition {
            topic,
            topic_id: [0; 16],
            partition,
            offset,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            max_bytes: BYTES,
        };
        stream.write_all(&fetch::encode(head, limits, "", &[wanted])).await?;
        stream.flush().await?;
        let length = usize::try_from(stream.read_i32().await?)?;
        frame.resize(length, 0);
        stream.read_exact(&mut frame).await?;
        let Some(next) = behind(&frame)? else { return Ok(offset) };
        offset = next;
    }
}

/// The offset behind the last whole batch; `None`: there is none.
fn behind(frame: &[u8]) -> Result<Option<i64>> {
    let mut parser = ResponseParser::new(VERSION, frame.len());
    let (mut at, mut next) = (0, None);
    loop {
        let (used, step) = parser.step(frame.get(at..).unwrap_or_default())?;
        at += used;
        match step {
            Step::More => bail!("the answer is cut"),
            Step::Records(head) => {
                let mut records = frame.get(at..at + head.records_len).context("the answer is cut")?;
                at += head.records_len;
                while let Some(header) = batch::view(records)? {
                    next = Some(header.last_offset() + 1);
                    records = records.get(header.size..).unwrap_or_default();
                }
            }
            Step::PartitionEnd(_) => {}
            Step::End { .. } => return Ok(next),
        }
    }
}
