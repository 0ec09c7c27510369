//! Talking to brokers: connections, the cluster's layout, typed operations.

pub mod address;
mod auth;
pub mod cluster;
pub mod connection;
pub mod error;
pub mod fetch;
pub mod groups;
pub mod health;
mod layout;
mod many;
pub mod offsets;
pub mod produce;
pub mod producers;
mod reach;
pub mod rights;
pub mod security;
pub mod stream;
pub mod tail;
pub mod times;
pub mod topics;
pub mod transactions;

pub use address::Address;
pub use cluster::{Cluster, ELSEWHERE_AFTER};
pub use connection::{ClientOptions, Connection};
pub use error::KafkaError;
pub use health::{BrokerHealth, Health};
pub use layout::{Layout, Partition, Topic, TopicPartition, is_same_topic, is_topic_name};
