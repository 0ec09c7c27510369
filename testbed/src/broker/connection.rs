//! Frames on sockets: a thread per connection, one request at a time.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::{Buf, Bytes};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::Decodable;

use super::Shared;
use super::script::{Action, Call};

const ACCEPT_POLL: Duration = Duration::from_millis(2);
const MAX_REQUEST: usize = 100 << 20;

pub(super) fn accept(shared: &Arc<Shared>, node: i32, listener: &TcpListener) {
    while !shared.closing.load(Ordering::Relaxed) {
        let Ok((stream, client)) = listener.accept() else {
            thread::sleep(ACCEPT_POLL);
            continue;
        };
        let prepared = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
        let (Ok(()), Ok(copy)) = (prepared, stream.try_clone()) else { continue };
        shared.streams().insert((node, client), copy);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            serve(&shared, node, stream);
            shared.streams().remove(&(node, client));
        });
    }
}

/// Until either side closes.
fn serve(shared: &Shared, node: i32, mut stream: TcpStream) {
    while let Ok(request) = read_frame(&mut stream) {
        let answered = answer(shared, node, request).and_then(|action| perform(shared, &mut stream, action));
        if let Err(error) = answered {
            if error.downcast_ref::<io::Error>().is_none() {
                eprintln!("scripted broker {node}: {error:#}");
            }
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_REQUEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(frame.into())
}

/// Bytes to send, and how.
enum Outgoing {
    Frame(Vec<u8>),
    Drip(Vec<u8>, Duration),
    Silence,
    Close,
}

fn answer(shared: &Shared, node: i32, mut request: Bytes) -> Result<Outgoing> {
    let (Some(api), Some(version)) = (request.get(..2), request.get(2..4)) else { bail!("a short request") };
    let (api, version) = ((&mut &*api).get_i16(), (&mut &*version).get_i16());
    let Ok(api) = ApiKey::try_from(api) else { bail!("unknown API {api}") };
    let header = RequestHeader::decode(&mut request, api.request_header_version(version))?;
    let nth = {
        let mut asked = shared.asked();
        let count = asked.entry(api as i16).or_default();
        *count += 1;
        *count - 1
    };
    let correlation_id = header.correlation_id;
    let call = Call { node, api, version, correlation_id, nth, body: request, shared };
    let action = shared.current_script().map_or(Action::Honest, |script| script(&call));
    outgoing(&call, action)
}

fn outgoing(call: &Call<'_>, action: Action) -> Result<Outgoing> {
    Ok(match action {
        Action::Honest => Outgoing::Frame(call.honest_frame()?),
        Action::Body(body) => Outgoing::Frame(call.frame(&body)?),
        Action::Frame(frame) => Outgoing::Frame(frame),
        Action::Silence => Outgoing::Silence,
        Action::Close => Outgoing::Close,
        Action::After(pause, action) => {
            thread::sleep(pause);
            outgoing(call, *action)?
        }
        Action::Drip(pause, action) => match outgoing(call, *action)? {
            Outgoing::Frame(frame) => Outgoing::Drip(frame, pause),
            other => other,
        },
    })
}

fn perform(shared: &Shared, stream: &mut TcpStream, outgoing: Outgoing) -> Result<()> {
    match outgoing {
        Outgoing::Frame(frame) => stream.write_all(&frame)?,
        Outgoing::Drip(frame, pause) => {
            for byte in frame {
                if shared.closing.load(Ordering::Relaxed) {
                    break;
                }
                stream.write_all(&[byte])?;
                thread::sleep(pause);
            }
        }
        // Until the other side closes.
        Outgoing::Silence => while stream.read(&mut [0; 4096])? > 0 {},
        Outgoing::Close => return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
    }
    Ok(())
}
