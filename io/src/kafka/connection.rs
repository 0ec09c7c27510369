//! One connection to one broker: versions, correlation ids, requests in flight, and a state that is dead once a
//! request was cut in the middle.
//!
//! First station of a byte on its way into a vault. A connection has one owner: brokers handle one request of a connection at a time, so
//! more connections help where more concurrency is wanted, and record bytes can be read from the socket straight to where they stay (`fetch.rs`).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_protocol::frame::{self, Head};
use bodley_protocol::messages::ApiVersionsRequest;
use bodley_protocol::versions::BrokerVersions;
use bodley_protocol::{ErrorCode, StrBytes};
use bytes::Bytes;
use kafka_protocol::protocol::{Message, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::address::Address;
use super::auth::Session;
use super::error::KafkaError;
use super::security::{Sasl, Tls, TlsFacts};
use super::stream::{self, Stream};
use crate::backoff::Pauses;

/// Largest answer that is not a Fetch. Metadata of 100,000 partitions takes some 5 MB; see also `bodley_protocol::shape::MAX_DECODED`.
const MAX_FRAME: usize = 32 << 20;
/// Largest answer to ApiVersions, before we know whom we talk to.
const MAX_HELLO: usize = 64 << 10;

/// How we connect and who we say we are.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Shown in the broker's metrics, quotas and logs.
    pub client_id: String,
    /// Rack, for brokers that let consumers read from the nearest replica.
    pub rack: String,
    /// For a TCP connection and the first exchange on it.
    pub connect_timeout: Duration,
    /// For one answer, from the request on.
    pub request_timeout: Duration,
    /// Routing and passing errors are retried until there was no progress for so long.
    pub give_up_after: Duration,
    /// Between tries.
    pub retry_pauses: Pauses,
    /// Bootstrap servers are asked again when no broker of the cluster answers (KIP-899).
    pub rebootstrap: bool,
    /// Size of the socket's send and receive buffers, bytes; `None`: as the system has it.
    pub socket_buffers: (Option<u32>, Option<u32>),
    /// `None`: plain text.
    pub tls: Option<Tls>,
    /// `None`: no authentication beside TLS's.
    pub sasl: Option<Sasl>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            client_id: "bodley".into(),
            rack: String::new(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            give_up_after: Duration::from_secs(120),
            retry_pauses: Pauses::default(),
            rebootstrap: true,
            socket_buffers: (None, None),
            tls: None,
            sasl: None,
        }
    }
}

impl ClientOptions {
    /// What Kafka's own clients call this combination.
    pub fn security_protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        }
    }
}

/// A connection and what is awaited on it. Dropping a future of one of its methods half-way kills it.
#[derive(Debug)]
pub struct Connection {
    pub(super) broker: String,
    /// Without its port: what certificates and tokens are for.
    pub(super) host: String,
    pub(super) stream: Stream,
    options: Arc<ClientOptions>,
    versions: BrokerVersions,
    next_id: i32,
    /// Correlation ids, and when the sending began.
    in_flight: VecDeque<(i32, Instant)>,
    pub(super) dead: bool,
    /// The broker has answered a request that it answers only to those it lets in.
    welcome: bool,
    /// Fetch tells our rack.
    pub(super) tells_rack: bool,
    /// `None`: it does not end.
    pub(super) session: Option<Session>,
    /// An authentication has begun and is not done.
    pub(super) half_way: bool,
    /// Ends the wait for a Fetch answer when it turns true.
    pub(super) stop: Option<watch::Receiver<bool>>,
    /// Bytes read from the socket but not used yet; see `fetch.rs`.
    pub(super) staged: Vec<u8>,
}

impl Connection {
    /// Connects, asks for the broker's versions, and proves who we are.
    pub async fn open(address: &Address, options: &Arc<ClientOptions>) -> Result<Self, KafkaError> {
        let mut connection = Self::greet(address, options).await?;
        connection.log_in().await?;
        Ok(connection)
    }

    /// Proves who we are, if that is asked for. Gives the time until the session is to be renewed, if it ends.
    pub async fn log_in(&mut self) -> Result<Option<Duration>, KafkaError> {
        let after = self.options.request_timeout;
        match tokio::time::timeout(after, self.authenticate()).await {
            Ok(authenticated) => authenticated?,
            Err(_) => {
                self.dead = true;
                let what = "come to an end with SASL".into();
                return Err(KafkaError::Timeout { broker: self.broker.clone(), what, after });
            }
        }
        Ok(self.session.map(|session| session.renew_at.saturating_duration_since(Instant::now())))
    }

    /// What TLS came to; `None` in plain text.
    pub fn tls(&self) -> Option<TlsFacts> {
        self.stream.facts()
    }

    /// Connects and asks for the broker's versions, no more: [`Connection::log_in`] is to follow.
    pub async fn greet(address: &Address, options: &Arc<ClientOptions>) -> Result<Self, KafkaError> {
        let after = options.connect_timeout;
        let mut connection = Self {
            broker: address.to_string(),
            host: address.host.clone(),
            stream: stream::connect(address, options).await?,
            options: Arc::clone(options),
            versions: BrokerVersions::default(),
            next_id: 0,
            in_flight: VecDeque::new(),
            dead: false,
            welcome: false,
            tells_rack: false,
            session: None,
            half_way: false,
            stop: None,
            staged: Vec::new(),
        };
        connection.versions = match tokio::time::timeout(after, connection.hello()).await {
            Ok(versions) => versions?,
            Err(_) => {
                return Err(connection
                    .not_kafka(format!("no answer to the first request within {} s", after.as_secs())));
            }
        };
        Ok(connection)
    }

    /// The broker's address, for messages.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// The broker's versions.
    pub fn versions(&self) -> &BrokerVersions {
        &self.versions
    }

    /// From now on a Fetch ends with [`KafkaError::Stopped`] when `stop` turns true, but only while it waits for the broker.
    pub fn stop_when(&mut self, stop: watch::Receiver<bool>) {
        self.stop = Some(stop);
    }

    /// Cut in the middle of an exchange: of no more use.
    pub fn is_dead(&self) -> bool {
        self.dead || self.half_way
    }

    /// Requests sent and not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When the sending of the request began whose answer comes next.
    pub(super) fn oldest_sent(&self) -> Option<Instant> {
        self.in_flight.front().map(|(_, sent)| *sent)
    }

    /// Sends `request` in the highest common version and waits for its answer. Nothing else may be in flight.
    pub async fn call<R: Request + Message>(&mut self, request: &R) -> Result<R::Response, KafkaError> {
        let version = self.version::<R>(i16::MAX)?;
        self.call_version(version, request).await
    }

    /// The highest common version of `R`, at most `cap`.
    pub fn version<R: Request + Message>(&self, cap: i16) -> Result<i16, KafkaError> {
        let version = self.versions.of::<R>(cap);
        version.map_err(|source| KafkaError::Version { broker: self.broker.clone(), source })
    }

    /// As [`Connection::call`], in a given version.
    pub async fn call_version<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        self.renew_if_due().await?;
        match self.exchange(version, request).await {
            Ok(answer) => {
                self.welcome = true;
                Ok(answer)
            }
            Err(KafkaError::Closed { .. }) if !self.welcome && self.options.sasl.is_none() => {
                let hint = "it ends the connection at the first real request, as listeners do that want SASL: set security.protocol and sasl.mechanism";
                Err(self.not_kafka(hint.into()))
            }
            Err(error) => Err(error),
        }
    }

    /// One request and its answer, whatever the state of the session.
    pub(super) async fn exchange<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, KafkaError> {
        let head = self.next_head(version);
        let (id, after) = (head.0, self.options.request_timeout);
        let bytes =
            frame::encode(head.1.as_head(), request).map_err(|e| KafkaError::frame(&self.broker, e))?;
        let exchange = async {
            self.send(id, &[&bytes]).await?;
            self.receive(MAX_FRAME).await
        };
        let answer = match tokio::time::timeout(after, exchange).await {
            Ok(answer) => answer?,
            Err(_) => {
                let what = format!("answer {}", frame::api_name::<R>());
                return Err(KafkaError::Timeout { broker: self.broker.clone(), what, after });
            }
        };
        frame::decode::<R>(version, answer).map_err(|e| KafkaError::frame(&self.broker, e))
    }

    /// A correlation id and the header for the next request.
    pub(super) fn next_head(&mut self, version: i16) -> (i32, OwnedHead) {
        let correlation_id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        (correlation_id, OwnedHead { version, correlation_id, client_id: self.options.client_id.clone() })
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.options
    }

    pub(super) fn shared_options(&self) -> Arc<ClientOptions> {
        Arc::clone(&self.options)
    }

    /// Writes a frame that stands in pieces.
    pub(super) async fn send(&mut self, correlation_id: i32, pieces: &[&[u8]]) -> Result<(), KafkaError> {
        self.begin()?;
        let sent = Instant::now();
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let written =
                self.stream.write_vectored(rest).await.map_err(|e| KafkaError::io(&self.broker, e))?;
            if written == 0 {
                return Err(KafkaError::io(&self.broker, io::ErrorKind::WriteZero.into()));
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        // TLS may still hold some of it.
        self.stream.flush().await.map_err(|e| KafkaError::io(&self.broker, e))?;
        self.in_flight.push_back((correlation_id, sent));
        self.dead = false;
        Ok(())
    }

    /// Marks the connection dead until an operation has come to its end.
    pub(super) fn begin(&mut self) -> Result<(), KafkaError> {
        if self.dead {
            return Err(KafkaError::Closed { broker: self.broker.clone(), source: None });
        }
        self.dead = true;
        Ok(())
    }

    /// The next answer, from its correlation id on, which has been checked.
    pub(super) async fn receive(&mut self, limit: usize) -> Result<Bytes, KafkaError> {
        self.begin()?;
        let length = self.read_length().await?;
        if length < 4 || length > limit {
            return Err(self.malformed(format!("a frame of {length} bytes")));
        }
        self.receive_body(length).await
    }

    async fn receive_body(&mut self, length: usize) -> Result<Bytes, KafkaError> {
        let mut body = Vec::new();
        // Grows as bytes come: a length alone allocates nothing.
        let mut reader = (&mut self.stream).take(length as u64);
        reader.read_to_end(&mut body).await.map_err(|e| KafkaError::io(&self.broker, e))?;
        if body.len() < length {
            return Err(KafkaError::Closed { broker: self.broker.clone(), source: None });
        }
        let id = body.first_chunk().map(|b| i32::from_be_bytes(*b));
        self.expect(id.unwrap_or(-1))?;
        self.dead = false;
        Ok(body.into())
    }

    pub(super) async fn read_length(&mut self) -> Result<usize, KafkaError> {
        let length = self.stream.read_i32().await.map_err(|e| KafkaError::io(&self.broker, e))?;
        usize::try_from(length).map_err(|_| self.malformed(format!("a frame of {length} bytes")))
    }

    /// Answers come in the order of the requests.
    pub(super) fn expect(&mut self, correlation_id: i32) -> Result<(), KafkaError> {
        match self.in_flight.pop_front().map(|(id, _)| id) {
            Some(id) if id == correlation_id => Ok(()),
            expected => {
                Err(self.malformed(format!("correlation id {correlation_id}, expected {expected:?}")))
            }
        }
    }

    pub(super) fn malformed(&self, what: String) -> KafkaError {
        KafkaError::Malformed { broker: self.broker.clone(), what }
    }

    /// ApiVersions, and along the way the question whether this is Kafka at all.
    async fn hello(&mut self) -> Result<BrokerVersions, KafkaError> {
        let mut version = 3;
        loop {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("bodley"))
                .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
            let (id, head) = self.next_head(version);
            let bytes =
                frame::encode(head.as_head(), &request).map_err(|e| KafkaError::frame(&self.broker, e))?;
            self.send(id, &[&bytes]).await?;
            let answer = self.first_answer().await?;
            let body = answer.get(4..).unwrap_or_default();
            // Too new a version is answered in version 0.
            let code = body.first_chunk().map(|b| ErrorCode(i16::from_be_bytes(*b)));
            if code == Some(ErrorCode::UNSUPPORTED_VERSION) && version > 0 {
                version = 0;
                continue;
            }
            let (code, versions) = BrokerVersions::parse(version, body)
                .map_err(|e| self.not_kafka(format!("its first answer makes no sense: {e}")))?;
            KafkaError::check("ApiVersions", || self.broker.clone(), code.0)?;
            return Ok(versions);
        }
    }

    async fn first_answer(&mut self) -> Result<Bytes, KafkaError> {
        self.begin()?;
        let closed = match self.options.tls {
            None => {
                "it closes the connection at the first request, as TLS listeners do: then security.protocol is SSL or SASL_SSL"
            }
            Some(_) => "it closes the connection at the first request",
        };
        let prefix = match self.stream.read_u32().await.map_err(|e| KafkaError::io(&self.broker, e)) {
            Ok(prefix) => prefix,
            Err(error @ KafkaError::Tls { .. }) => return Err(error),
            Err(_) => return Err(self.not_kafka(closed.into())),
        };
        match prefix {
            HTTP => Err(self.not_kafka("it answers in HTTP".into())),
            prefix if prefix >> 16 == TLS_ALERT => {
                Err(self.not_kafka("it answers in TLS: then security.protocol is SSL or SASL_SSL".into()))
            }
            prefix if prefix < 6 || prefix as usize > MAX_HELLO => {
                Err(self.not_kafka(format!("its first answer has {prefix} bytes")))
            }
            prefix => self.receive_body(prefix as usize).await,
        }
    }

    fn not_kafka(&self, hint: String) -> KafkaError {
        KafkaError::Mismatch { broker: self.broker.clone(), protocol: self.options.security_protocol(), hint }
    }
}

/// The first bytes of an HTTP answer, where Kafka has a length.
const HTTP: u32 = u32::from_be_bytes(*b"HTTP");
/// The first two bytes of a TLS alert record: type 21, version 3.x.
const TLS_ALERT: u32 = 0x1503;

/// A request header that owns its client id, so that the connection stays free to be borrowed.
pub(super) struct OwnedHead {
    version: i16,
    correlation_id: i32,
    client_id: String,
}

impl OwnedHead {
    pub(super) fn as_head(&self) -> Head<'_> {
        Head { version: self.version, correlation_id: self.correlation_id, client_id: &self.client_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that answers the first bytes with `answer`; `None` closes, an empty answer stays silent.
    async fn server(answer: Option<&'static [u8]>) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 16];
            stream.read_exact(&mut some).await.unwrap();
            if let Some(answer) = answer {
                stream.write_all(answer).await.unwrap();
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        address
    }

    async fn open(answer: Option<&'static [u8]>) -> String {
        // An empty answer is waited for in vain.
        let patience = Duration::from_millis(if answer == Some(b"") { 300 } else { 4000 });
        let options = ClientOptions { connect_timeout: patience, ..ClientOptions::default() };
        let address = server(answer).await;
        Connection::open(&address, &Arc::new(options)).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn whatever_is_not_kafka_is_named() {
        assert!(open(Some(b"HTTP/1.1 400 Bad Request\r\n")).await.ends_with("it answers in HTTP"));
        assert!(open(Some(&[0x15, 3, 3, 0, 2, 2, 10])).await.contains("it answers in TLS"));
        assert!(open(None).await.contains("closes the connection at the first request"));
        assert!(open(Some(b"")).await.contains("no answer to the first request"));
        assert!(
            open(Some(&[0x7f, 0xff, 0xff, 0xff])).await.contains("its first answer has 2147483647 bytes")
        );
        assert!(
            open(Some(&[0xff, 0xff, 0xff, 0xff])).await.contains("its first answer has 4294967295 bytes")
        );
        assert!(
            open(Some(&[0, 0, 0, 6, 0, 0, 0, 9, 0, 0])).await.contains("correlation id 9, expected Some(0)")
        );
    }

    #[tokio::test]
    async fn nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        drop(listener);
        let error = Connection::open(&address, &Arc::default()).await.unwrap_err();
        assert!(matches!(error, KafkaError::Connect { .. }), "{error}");
    }
}
