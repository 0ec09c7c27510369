//! How a connection is kept private and who we say we are: TLS and SASL.

mod sasl;
mod tls;

pub use sasl::{Sasl, ScramHash};
pub use tls::{Identity, Material, Tls, TlsError, TlsOptions, TlsVersion, Trust, Verify};
