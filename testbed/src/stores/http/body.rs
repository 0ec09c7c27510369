//! Bodies on their way in and out.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::log::UnderWay;

/// A larger body is not taken, in bytes.
const LARGEST: u64 = 1 << 30;
/// Before a cut, so that the bytes before it are on their way.
const FLUSH: Duration = Duration::from_millis(5);

/// The connection ends here.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
pub(super) struct Cut;

/// Reads a body into one piece of memory.
pub(super) async fn read(mut incoming: Incoming) -> Result<Bytes, Cut> {
    let told = incoming.size_hint().exact().unwrap_or(0);
    if told > LARGEST {
        return Err(Cut);
    }
    let mut body: Vec<u8> = Vec::with_capacity(usize::try_from(told).map_err(|_| Cut)?);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
        if let Ok(piece) = frame.map_err(|_| Cut)?.into_data() {
            if (body.len() + piece.len()) as u64 > LARGEST {
                return Err(Cut);
            }
            body.extend_from_slice(&piece);
        }
    }
    Ok(body.into())
}

/// What happens in the middle of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    None,
    /// The connection is cut after so many bytes.
    Cut(usize),
    /// There is a pause after so many bytes.
    Stall(usize, Duration),
}

/// The body of an answer.
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    left: u64,
    mishap: Mishap,
    pause: Option<Pin<Box<Sleep>>>,
    _under_way: UnderWay,
}

impl Outgoing {
    pub(super) fn new(pieces: Vec<Bytes>, mishap: Mishap, under_way: UnderWay) -> Self {
        let pieces: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, left, mishap, pause: None, _under_way: under_way }
    }

    /// The next piece, at most up to the mishap, which comes nearer.
    fn next(&mut self) -> Option<Bytes> {
        let mut piece = self.pieces.pop_front()?;
        if let Mishap::Cut(at) | Mishap::Stall(at, _) = &mut self.mishap {
            if piece.len() > *at {
                self.pieces.push_front(piece.split_off(*at));
            }
            *at -= piece.len();
        }
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let pause = match this.mishap {
            Mishap::Cut(0) => FLUSH,
            Mishap::Stall(0, pause) => pause,
            _ => return Poll::Ready(this.next().map(|piece| Ok(Frame::data(piece)))),
        };
        let timer = this.pause.get_or_insert_with(|| Box::pin(sleep(pause)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if this.mishap == Mishap::Cut(0) {
            return Poll::Ready(Some(Err(Cut)));
        }
        this.mishap = Mishap::None;
        Poll::Ready(this.next().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
