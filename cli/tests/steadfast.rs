//! Brokers fail, move, stall and throttle, and the run goes on: on a real cluster of three nodes, of which one is always down at worst, and on scripted brokers that
//! count what they are asked.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

#[path = "steadfast/scene.rs"]
mod scene;

#[path = "steadfast/manners.rs"]
mod manners;
#[path = "steadfast/outages.rs"]
mod outages;
#[path = "steadfast/rolling.rs"]
mod rolling;
