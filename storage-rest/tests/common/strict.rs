//! A strict S3 with a bucket, and stores at it.

use std::sync::Arc;
use std::time::Duration;

use bodley_io::kafka::security::{Material, Tls, TlsOptions, Trust};
use bodley_io::{BufferPool, Filled};
use bodley_storage_rest::s3::{S3Options, S3Store};
use bodley_storage_rest::{Environment, Patience};
use bodley_testbed::iam::AwsCredentials;
use bodley_testbed::stores::S3;
use bodley_testbed::stores::s3::BucketOptions;

pub const BUCKET: &str = "vaults";

pub fn strict() -> S3 {
    let s3 = S3::start().unwrap();
    s3.make_bucket(BUCKET, BucketOptions::default());
    s3
}

pub fn environment(credentials: &AwsCredentials) -> Environment {
    let mut variables = vec![
        ("AWS_ACCESS_KEY_ID".to_owned(), credentials.access_key_id.clone()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), credentials.secret_access_key.clone()),
    ];
    if let Some(token) = &credentials.session_token {
        variables.push(("AWS_SESSION_TOKEN".to_owned(), token.clone()));
    }
    Environment::new(variables, None)
}

/// As a user would have it, but for patience.
pub fn options(s3: &S3) -> S3Options {
    S3Options {
        endpoint: Some(s3.endpoint()),
        patience: Patience { give_up_after: Duration::from_secs(20), ..Patience::default() },
        region: Some(bodley_testbed::iam::REGION.to_owned()),
        ..S3Options::new(BUCKET, "p")
    }
}

pub fn store(s3: &S3, change: impl FnOnce(&mut S3Options)) -> S3Store {
    let mut options = options(s3);
    change(&mut options);
    S3Store::new(options, &environment(s3.admin()), &plain_tls()).unwrap()
}

/// Trusts whom the system trusts.
pub fn plain_tls() -> Arc<rustls::ClientConfig> {
    Tls::new(&TlsOptions::default()).unwrap().config()
}

/// Trusts the testbed's authority.
pub fn trusting() -> Arc<rustls::ClientConfig> {
    let bytes = std::fs::read(bodley_testbed::Pki::ensure().unwrap().ca()).unwrap();
    let trust = Trust::Pem(Material { source: "ca".into(), bytes: bytes.into() });
    Tls::new(&TlsOptions { trust, ..TlsOptions::default() }).unwrap().config()
}

/// A part of random-looking bytes, with its checksum unknown.
pub async fn part(len: usize, seed: u64) -> Filled {
    let pool = BufferPool::new(len.next_multiple_of(2 << 20), usize::MAX);
    let mut buf = pool.get(len).await.unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    buf[..len].chunks_mut(8).for_each(|piece| {
        let bytes = random.u64(..).to_le_bytes();
        piece.copy_from_slice(&bytes[..piece.len()]);
    });
    Filled::new(buf, 0, len)
}
