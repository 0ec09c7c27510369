//! The servers before the nodes: TLS outside, the node's plain listener inside. Answers keep the order of requests, whoever gives them.

use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;

use super::Iam;
use super::session::{Session, Verdict};
use crate::pki::{Leaf, Pki};
use crate::ports;

const MAX_FRAME: usize = 300 << 20;

/// The stand-in's servers of one cluster. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Fronts(Option<Runtime>);

/// What a client gets next.
enum Next {
    FromBroker,
    Own(Bytes),
    Last(Bytes),
}

impl Fronts {
    /// One for each pair of the port to listen on and the node's own.
    pub(crate) fn start(iam: &Iam, ports: impl Iterator<Item = (u16, u16)>) -> Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let acceptor = TlsAcceptor::from(Arc::new(tls()?));
        for (port, target) in ports {
            let listener = ports::listen(port)?;
            listener.set_nonblocking(true)?;
            let _inside = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            runtime.spawn(accept(listener, target, acceptor.clone(), iam.clone()));
        }
        Ok(Self(Some(runtime)))
    }
}

impl Drop for Fronts {
    fn drop(&mut self) {
        // A test may be within a runtime of its own, where nothing may wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn tls() -> Result<ServerConfig> {
    let pki = Pki::ensure()?;
    let chain = CertificateDer::pem_file_iter(pki.cert(Leaf::Server))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.key(Leaf::Server))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_no_client_auth().with_single_cert(chain, key)?)
}

async fn accept(listener: TcpListener, target: u16, acceptor: TlsAcceptor, iam: Iam) {
    while let Ok((client, _)) = listener.accept().await {
        let (acceptor, session) = (acceptor.clone(), Session::new(iam.clone()));
        tokio::spawn(async move {
            // Whatever goes wrong with a connection ends it, as a broker would.
            let _ = serve(client, target, acceptor, session).await;
        });
    }
}

async fn serve(client: TcpStream, target: u16, acceptor: TlsAcceptor, session: Session) -> Result<()> {
    client.set_nodelay(true)?;
    let (from_client, to_client) = tokio::io::split(acceptor.accept(client).await?);
    let broker = TcpStream::connect(ports::loopback(target)).await?;
    broker.set_nodelay(true)?;
    let (from_broker, to_broker) = broker.into_split();
    let (queue, queued) = unbounded_channel();
    tokio::select! {
        ended = requests(from_client, to_broker, session, queue) => ended,
        ended = answers(from_broker, to_client, queued) => ended,
    }
}

async fn requests(
    mut client: impl AsyncRead + Unpin,
    mut broker: impl AsyncWrite + Unpin,
    mut session: Session,
    queue: UnboundedSender<Next>,
) -> Result<()> {
    loop {
        let frame = read_frame(&mut client).await?;
        let verdict = session.judge(&frame)?;
        match &verdict {
            Verdict::Pass => queue.send(Next::FromBroker)?,
            Verdict::Answer(answer) => queue.send(Next::Own(answer.clone()))?,
            Verdict::Refuse(answer) => queue.send(Next::Last(answer.clone()))?,
            Verdict::PassUnanswered => {}
            Verdict::Close => bail!("closed"),
        }
        match verdict {
            Verdict::Pass | Verdict::PassUnanswered => write_frame(&mut broker, &frame).await?,
            Verdict::Refuse(_) => std::future::pending().await, // the other side ends it after the answer
            _ => {}
        }
    }
}

async fn answers(
    mut broker: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    mut queued: UnboundedReceiver<Next>,
) -> Result<()> {
    while let Some(next) = queued.recv().await {
        match next {
            Next::FromBroker => {
                let frame = read_frame(&mut broker).await?;
                write_frame(&mut client, &frame).await?;
            }
            Next::Own(frame) => write_frame(&mut client, &frame).await?,
            Next::Last(frame) => {
                write_frame(&mut client, &frame).await?;
                client.shutdown().await?;
                break;
            }
        }
    }
    Ok(())
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Bytes> {
    let length = usize::try_from(from.read_i32().await?)?;
    if length > MAX_FRAME {
        bail!("a frame of {length} bytes");
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await?;
    Ok(frame.into())
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<()> {
    to.write_i32(i32::try_from(frame.len())?).await?;
    to.write_all(frame).await?;
    Ok(to.flush().await?)
}
