//! Bodley against brokers that lie. Whatever they do, a run ends by itself with an exit code that says so, in bounded memory and with words
//! that name the place; and a run against honest brokers finds everything as if nothing had been.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

#[path = "hostile/liar.rs"]
mod liar;

#[path = "hostile/batches.rs"]
mod batches;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/restores.rs"]
mod restores;
#[path = "hostile/words.rs"]
mod words;
