//! How a connection is kept private and who we say we are: TLS and SASL.

mod complaint;
mod facts;
mod jks;
mod material;
mod pem;
mod sasl;
mod tls;
mod verifier;

pub(super) use complaint::tls_complaint;
pub use facts::TlsFacts;
pub(super) use facts::facts;
pub use pem::block as pem_block;

pub(super) use sasl::Next;
pub use sasl::{Sasl, ScramHash};
pub use tls::{
    Identity, Material, Tls, TlsError, TlsOptions, TlsVersion, Trust, Verify, cipher_name, cipher_names,
};
