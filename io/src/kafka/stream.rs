//! The bytes' own way: TCP, and TLS where it is asked for.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::address::Address;
use super::connection::ClientOptions;
use super::error::KafkaError;
use super::health::Guest;
use super::security::{Tls, TlsFacts, facts};

/// Ciphertext read at once. rustls itself asks for 4 KiB at a time; a record has 16.
const TLS_READ: usize = 128 << 10;

/// A connection to a broker.
#[derive(Debug)]
pub(super) struct Stream {
    way: Way,
    /// Counts it among the broker's connections.
    pub(super) guest: Option<Guest>,
}

#[derive(Debug)]
enum Way {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

impl Stream {
    /// What TLS came to.
    pub(super) fn facts(&self) -> Option<TlsFacts> {
        match &self.way {
            Way::Plain(_) => None,
            Way::Tls(stream) => Some(facts(stream.get_ref().1)),
        }
    }
}

/// Connects, within `options.connect_timeout` for TCP and as long again for TLS.
pub(super) async fn connect(address: &Address, options: &ClientOptions) -> Result<Stream, KafkaError> {
    let tcp = connect_tcp(address, options).await?;
    let way = match &options.tls {
        None => Way::Plain(tcp),
        Some(tls) => Way::Tls(Box::new(handshake(address, tls, tcp, options.connect_timeout).await?)),
    };
    Ok(Stream { way, guest: None })
}

/// All addresses of a host, in the order of the resolver.
pub async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let all: Vec<SocketAddr> = lookup_host((address.host.as_str(), address.port)).await?.collect();
    if all.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(all) }
}

async fn connect_tcp(address: &Address, options: &ClientOptions) -> Result<TcpStream, KafkaError> {
    let (broker, after) = (address.to_string(), options.connect_timeout);
    let deadline = Instant::now() + after;
    let too_late =
        || KafkaError::Timeout { broker: broker.clone(), what: "accept a connection".into(), after };
    let all = match timeout(after, resolve(address)).await {
        Ok(Ok(all)) => all,
        Ok(Err(source)) => return Err(KafkaError::Connect { broker, source }),
        Err(_) => {
            return Err(KafkaError::Timeout { broker, what: "get resolved to an address".into(), after });
        }
    };
    let mut last = too_late();
    for (at, one) in all.iter().enumerate() {
        // Whoever is silent leaves time for the others.
        let share = deadline.saturating_duration_since(Instant::now()) / (all.len() - at) as u32;
        last = match timeout(share, connect_one(*one, options)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) => KafkaError::Connect { broker: broker.clone(), source },
            Err(_) => too_late(),
        };
    }
    Err(last)
}

async fn connect_one(address: SocketAddr, options: &ClientOptions) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let (send, receive) = options.socket_buffers;
    if let Some(size) = send {
        socket.set_send_buffer_size(size)?;
    }
    if let Some(size) = receive {
        socket.set_recv_buffer_size(size)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn handshake(
    address: &Address,
    tls: &Tls,
    tcp: TcpStream,
    after: Duration,
) -> Result<TlsStream<BufReader<TcpStream>>, KafkaError> {
    let broker = address.to_string();
    let name = tls.server_name(&address.host).ok_or_else(|| KafkaError::Tls {
        broker: broker.clone(),
        what: "its host is no name that a certificate could have".into(),
        passing: false,
    })?;
    let connector = tokio_rustls::TlsConnector::from(tls.config());
    let stream = BufReader::with_capacity(TLS_READ, tcp);
    match timeout(after, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(KafkaError::handshake(&broker, source)),
        Err(_) => {
            let hint = format!("no answer to the TLS handshake within {} s", after.as_secs());
            Err(KafkaError::Mismatch { broker, protocol: "TLS", hint })
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Way::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Way::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Way::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, pieces),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Way::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Way::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
