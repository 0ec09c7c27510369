//! A small HTTP/1.1 server on loopback for stores that live in this process, with scripted faults before them.
//!
//! ```text
//! http.rs          the server          http/message.rs  requests and answers
//! http/faults.rs   the script          http/log.rs      what was asked
//! http/body.rs     bodies              http/clock.rs    a clock that may be wrong
//! ```
//!
//! A store is a [`Handler`]. Each request goes this way: [`Handler::operation`] names it; the script's rules ([`Faults`]) look at it; its body is
//! read; [`Handler::answer`] does it; the answer is sent and the [`Log`] has it.
//!
//! The server also takes absolute URLs, so that a client with `HTTP_PROXY` set to [`Server::url`] reaches it under any host name. Over TLS its
//! certificate is that of a [`Leaf`]: clients that are not told to trust [`Pki::ca`] see what they would see of a self-signed one.

mod body;
mod clock;
mod faults;
mod log;
mod message;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

pub use clock::{Clock, http_date};
pub use faults::{Action, Faults, REPEATED_LISTING, Rule, RuleId, SHORT_LISTING};
pub use log::{Log, Record};
pub use message::{Answer, Head, Request, decode};

use body::{Cut, Mishap, Outgoing};
use log::{Entry, UnderWay};

use crate::pki::{Leaf, Pki};
use crate::ports;

const WORKERS: usize = 4;
/// Pause after a failed accept, e.g. for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// A store behind a [`Server`]. Calls come from several threads at once and may take their time, but not wait for one another's requests.
pub trait Handler: Send + Sync + 'static {
    /// What the request is called, by its head alone: in rules and in the log.
    fn operation(&self, head: &Head) -> &'static str;

    /// Does it.
    fn answer(&self, request: &Request) -> Answer;
}

#[derive(Clone)]
struct Shared {
    handler: Arc<dyn Handler>,
    faults: Faults,
    log: Log,
    clock: Clock,
}

/// A running server. It ends when dropped: connections are cut.
pub struct Server {
    port: u16,
    leaf: Option<Leaf>,
    faults: Faults,
    log: Log,
    clock: Clock,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one over plain http. `clock` is what answers are dated by; the handler may judge by a clone of it.
    pub fn start(handler: Arc<dyn Handler>, clock: &Clock) -> Result<Self> {
        Self::with(handler, clock, None)
    }

    /// Starts one over https, with this certificate.
    pub fn start_tls(handler: Arc<dyn Handler>, clock: &Clock, leaf: Leaf) -> Result<Self> {
        Self::with(handler, clock, Some(leaf))
    }

    fn with(handler: Arc<dyn Handler>, clock: &Clock, leaf: Option<Leaf>) -> Result<Self> {
        // Held until the end, so any port will do.
        let listener = TcpListener::bind(ports::loopback(0)).context("listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let acceptor = leaf.map(acceptor).transpose()?;
        let runtime = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
        let (faults, log) = (Faults::default(), Log::default());
        let shared = Shared { handler, faults: faults.clone(), log: log.clone(), clock: clock.clone() };
        let (stop, stopped) = oneshot::channel();
        // A runtime may not be dropped where another one runs, as tests have it: it gets a thread of its own.
        let thread = std::thread::spawn(move || run(runtime, listener, acceptor, shared, stopped));
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Self { port, leaf, faults, log, clock: clock.clone(), stop, thread })
    }

    /// `http://127.0.0.1:PORT` or `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        let scheme = if self.leaf.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The script.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What was asked.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn acceptor(leaf: Leaf) -> Result<TlsAcceptor> {
    let pki = Pki::ensure()?;
    let chain = CertificateDer::pem_file_iter(pki.cert(leaf))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.key(leaf))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key)?)))
}

fn run(
    runtime: Runtime,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    shared: Shared,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        tokio::select! {
            _ = stopped => {}
            ended = accept(listener, acceptor, shared) => {
                if let Err(error) = ended {
                    eprintln!("test server: {error}");
                }
            }
        }
    });
    runtime.shutdown_background();
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Shared) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        // Answers are written in one go; waiting for more would only add to their time.
        let _ = stream.set_nodelay(true);
        let (shared, acceptor) = (shared.clone(), acceptor.clone());
        shared.log.connected();
        tokio::spawn(async move {
            match acceptor {
                None => connection(stream, peer, false, shared).await,
                Some(acceptor) => {
                    // A client that does not trust the certificate ends it here.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        connection(stream, peer, true, shared).await;
                    }
                }
            }
        });
    }
}

async fn connection<S>(stream: S, peer: SocketAddr, tls: bool, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (parts, body) = request.into_parts();
        serve(shared.clone(), Head::new(parts, tls, peer), body)
    });
    // Its error is a client that went away, or a cut that was asked for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn serve(shared: Shared, head: Head, body: Incoming) -> Result<hyper::Response<Outgoing>, Cut> {
    let operation = shared.handler.operation(&head);
    let action = shared.faults.meet(operation, &head);
    let (mut entry, under_way) = shared.log.begin(operation, &head);
    entry.note(|record| record.fault = action.is_some());
    if let Some(Action::AnswerEarly(answer)) = action {
        sleep(shared.faults.current_delay()).await;
        let answer = answer.header("connection", "close");
        return shared.respond(answer, Mishap::None, (entry, under_way));
    }
    let body = body::read(body).await?;
    entry.note(|record| record.bytes_in = body.len() as u64);
    let mut request = Request { head, body, twist: None };
    if let Some(Action::Twist(name)) = action {
        request.twist = Some(name);
    }
    let (answer, mishap) = shared.meet(request, action).await?;
    sleep(shared.faults.current_delay()).await;
    shared.respond(answer, mishap, (entry, under_way))
}

impl Shared {
    /// Lets the handler do what the action leaves to it.
    async fn meet(&self, request: Request, action: Option<Action>) -> Result<(Answer, Mishap), Cut> {
        let honest = || self.handler.answer(&request);
        let answer = match action {
            None | Some(Action::Twist(_)) => honest(),
            Some(Action::Answer(answer) | Action::AnswerEarly(answer)) => answer,
            Some(Action::Cut) => return Err(Cut),
            Some(Action::DoThenAnswer(answer)) => {
                honest();
                answer
            }
            Some(Action::DoThenCut) => {
                honest();
                return Err(Cut);
            }
            Some(Action::CutBody(at)) => return Ok((honest(), Mishap::Cut(at))),
            Some(Action::StallBody(at, pause)) => return Ok((honest(), Mishap::Stall(at, pause))),
            Some(Action::Stall(pause)) => {
                let answer = honest();
                sleep(pause).await;
                answer
            }
            Some(Action::Late(pause)) => self.late(request, pause).await?,
            Some(Action::Edit(change)) => {
                let mut answer = honest();
                change(&mut answer);
                answer
            }
        };
        Ok((answer, Mishap::None))
    }

    /// In a task of its own, which outlives the client's patience.
    async fn late(&self, request: Request, pause: Duration) -> Result<Answer, Cut> {
        let handler = Arc::clone(&self.handler);
        let work = tokio::spawn(async move {
            sleep(pause).await;
            handler.answer(&request)
        });
        work.await.map_err(|_| Cut)
    }

    fn respond(
        &self,
        answer: Answer,
        mishap: Mishap,
        (mut entry, under_way): (Entry, UnderWay),
    ) -> Result<hyper::Response<Outgoing>, Cut> {
        let length = answer.len();
        entry.note(|record| {
            record.status = answer.status;
            record.bytes_out = if let Mishap::Cut(at) = mishap { length.min(at as u64) } else { length };
        });
        let mut response = hyper::Response::builder().status(answer.status);
        if !answer.has("date") {
            response = response.header("date", self.clock.date());
        }
        for (name, value) in &answer.headers {
            response = response.header(name, value);
        }
        response.body(Outgoing::new(answer.body, mishap, under_way)).map_err(|error| {
            eprintln!("test server: an answer that HTTP cannot say: {error}");
            Cut
        })
    }
}
