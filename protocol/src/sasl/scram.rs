//! SCRAM (RFC 5802, RFC 7677) as Kafka has it (KIP-84): no channel binding, UTF-8 as it comes, not normalised.
//!
//! The client proves that it knows the password without sending it, and the server proves the same: an answer without
//! that proof is no success.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{KeyInit, Mac, SimpleHmac};
use sha2::{Digest, Sha256, Sha512};

/// A server that asks for more rounds of hashing wants our time, not a proof. Kafka's own default is 4096, its limit 16384.
const MAX_ITERATIONS: u32 = 100_000;
/// Fewest that a server may ask for (RFC 7677): fewer would give the password away.
const MIN_ITERATIONS: u32 = 4096;
/// Longest message of a server.
const MAX_MESSAGE: usize = 8 << 10;

/// The hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

/// Why an exchange ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Nonsense.
    #[error("the server's SCRAM message makes no sense: {0}")]
    Malformed(&'static str),
    /// Too many or too few.
    #[error("the server asks for {0} iterations: only {MIN_ITERATIONS} to {MAX_ITERATIONS} are safe")]
    Iterations(u32),
    /// The server's own word for it, such as `invalid-proof`.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// Whoever answers does not know the password.
    #[error("the server does not prove that it knows the password: it is not the one it claims to be")]
    NotTheServer,
}

/// A client that has said who it is.
pub struct Client {
    hash: Hash,
    nonce: String,
    first_bare: String,
}

/// A client that has proven that it knows the password.
pub struct Proven {
    server_signature: Vec<u8>,
}

impl Client {
    /// `nonce`: printable characters without a comma, different each time. `delegation_token`: name and password are those of one.
    pub fn new(hash: Hash, username: &str, nonce: &str, delegation_token: bool) -> Self {
        let username = username.replace('=', "=3D").replace(',', "=2C");
        let extension = if delegation_token { ",tokenauth=true" } else { "" };
        let first_bare = format!("n={username},r={nonce}{extension}");
        Self { hash, nonce: nonce.to_owned(), first_bare }
    }

    /// The first message.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first_bare).into_bytes()
    }

    /// The final message, from the server's first.
    pub fn finish(self, server_first: &[u8], password: &str) -> Result<(Vec<u8>, Proven), ScramError> {
        let server_first = text(server_first)?;
        let [nonce, salt, iterations] = challenge(server_first)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Malformed("nonce"));
        }
        let salt = BASE64.decode(salt).map_err(|_| ScramError::Malformed("salt"))?;
        let iterations: u32 = iterations.parse().map_err(|_| ScramError::Malformed("iterations"))?;
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return Err(ScramError::Iterations(iterations));
        }
        // "biws" is "n,,": no channel binding.
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);
        let salted = Salted { password: password.as_bytes(), salt: &salt, iterations };
        let (proof, server_signature) = match self.hash {
            Hash::Sha256 => prove::<Sha256>(&salted.sha256(), signed.as_bytes()),
            Hash::Sha512 => prove::<Sha512>(&salted.sha512(), signed.as_bytes()),
        };
        let message = format!("{without_proof},p={}", BASE64.encode(proof));
        Ok((message.into_bytes(), Proven { server_signature }))
    }
}

impl Proven {
    /// Checks the server's proof, its final message.
    pub fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let server_final = text(server_final)?;
        let first = server_final.split(',').next().unwrap_or_default();
        if let Some(error) = first.strip_prefix("e=") {
            return Err(ScramError::Refused(error.chars().take(100).filter(|c| !c.is_control()).collect()));
        }
        let signature = first.strip_prefix("v=").ok_or(ScramError::Malformed("no verifier"))?;
        let signature = BASE64.decode(signature).map_err(|_| ScramError::Malformed("verifier"))?;
        // What is compared is no secret of ours: time may tell.
        if signature == self.server_signature { Ok(()) } else { Err(ScramError::NotTheServer) }
    }
}

struct Salted<'a> {
    password: &'a [u8],
    salt: &'a [u8],
    iterations: u32,
}

impl Salted<'_> {
    fn sha256(&self) -> Vec<u8> {
        pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(self.password, self.salt, self.iterations).to_vec()
    }

    fn sha512(&self) -> Vec<u8> {
        pbkdf2::pbkdf2_hmac_array::<Sha512, 64>(self.password, self.salt, self.iterations).to_vec()
    }
}

/// The client's proof, and the signature that the server must send.
fn prove<D: Digest + hmac::digest::block_api::BlockSizeUser>(
    salted: &[u8],
    signed: &[u8],
) -> (Vec<u8>, Vec<u8>) {
    let client_key = sign::<D>(salted, b"Client Key");
    let signature = sign::<D>(&D::digest(&client_key), signed);
    let proof = client_key.iter().zip(&signature).map(|(key, mask)| key ^ mask).collect();
    (proof, sign::<D>(&sign::<D>(salted, b"Server Key"), signed))
}

fn sign<D: Digest + hmac::digest::block_api::BlockSizeUser>(key: &[u8], message: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mac) = SimpleHmac::<D>::new_from_slice(key) else { return Vec::new() };
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

/// `r=…,s=…,i=…`, with extensions behind; a mandatory one (`m=`) is none that we know.
fn challenge(message: &str) -> Result<[&str; 3], ScramError> {
    if let Some(error) = message.strip_prefix("e=") {
        return Err(ScramError::Refused(error.chars().take(100).filter(|c| !c.is_control()).collect()));
    }
    let mut parts = message.split(',');
    let mut part =
        |name: &str, what| parts.next().and_then(|p| p.strip_prefix(name)).ok_or(ScramError::Malformed(what));
    Ok([part("r=", "nonce")?, part("s=", "salt")?, part("i=", "iterations")?])
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MAX_MESSAGE {
        return Err(ScramError::Malformed("too long"));
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn client() -> Client {
        Client::new(Hash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO", false)
    }

    /// The example of RFC 7677.
    #[test]
    fn the_rfc_s_example() {
        let client = client();
        assert_eq!(client.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (message, proven) = client.finish(FIRST, "pencil").unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(message).unwrap(), expected);
        proven.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert_eq!(
            proven.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="),
            Err(ScramError::Malformed("verifier"))
        );
        assert_eq!(
            proven.verify(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
            Err(ScramError::NotTheServer)
        );
        assert_eq!(proven.verify(b"e=invalid-proof"), Err(ScramError::Refused("invalid-proof".into())));
        assert_eq!(proven.verify(b""), Err(ScramError::Malformed("no verifier")));
    }

    #[test]
    fn names_are_escaped() {
        let client = Client::new(Hash::Sha512, "a=b,c", "n", true);
        assert_eq!(client.first(), b"n,,n=a=3Db=2Cc,r=n,tokenauth=true");
    }

    #[test]
    fn a_server_that_cheats() {
        let nonce = "r=rOprNGfwEbeRWgbNEkqOx,s=QUJD,i=";
        let finish = |message: &str| client().finish(message.as_bytes(), "pencil").map(drop).unwrap_err();
        assert_eq!(finish(&format!("{nonce}4294967295")), ScramError::Iterations(u32::MAX));
        assert_eq!(finish(&format!("{nonce}1")), ScramError::Iterations(1));
        assert_eq!(finish(&format!("{nonce}-5")), ScramError::Malformed("iterations"));
        assert_eq!(finish("r=other,s=QUJD,i=4096"), ScramError::Malformed("nonce"));
        assert_eq!(finish("r=rOprNGfwEbeRWgbNEkqO,s=QUJD,i=4096"), ScramError::Malformed("nonce"));
        assert_eq!(finish("r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096"), ScramError::Malformed("salt"));
        assert_eq!(finish("m=x,r=rOprNGfwEbeRWgbNEkqOx,s=QUJD,i=4096"), ScramError::Malformed("nonce"));
        assert_eq!(finish("e=unknown-user"), ScramError::Refused("unknown-user".into()));
        for cut in 0..FIRST.len() - 1 {
            let _ = client().finish(&FIRST[..cut], "pencil");
        }
    }
}
