//! Bodley on clusters with locks on their doors, far away ones, and ones of several racks, all by files of settings alone and judged by Apache's own client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

#[path = "reach/client.rs"]
mod client;
#[path = "reach/distance.rs"]
mod distance;
#[path = "reach/matrix.rs"]
mod matrix;
#[path = "reach/nodes.rs"]
mod nodes;
#[path = "reach/places.rs"]
mod places;
#[path = "reach/refusals.rs"]
mod refusals;
#[path = "reach/sessions.rs"]
mod sessions;
