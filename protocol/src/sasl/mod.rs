//! What SASL mechanisms say inside SaslAuthenticate: PLAIN (RFC 4616), OAUTHBEARER (RFC 7628, KIP-342) and SCRAM (RFC 5802).

pub mod scram;

/// PLAIN's only message; the authorization identity is left to the broker.
pub fn plain(username: &str, password: &str) -> Vec<u8> {
    [b"\0", username.as_bytes(), b"\0", password.as_bytes()].concat()
}

/// OAUTHBEARER's first message. `extensions` are names and values without \x01, as KIP-342 allows them.
pub fn oauth_bearer<'a>(token: &str, extensions: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut message = format!("n,,\u{1}auth=Bearer {token}\u{1}");
    for (name, value) in extensions {
        message.push_str(&format!("{name}={value}\u{1}"));
    }
    message.push('\u{1}');
    message.into_bytes()
}

/// OAUTHBEARER's answer to a refusal, with which the server closes the exchange.
pub const OAUTH_BEARER_END: &[u8] = b"\x01";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(plain("tim", "tan\0"), b"\0tim\0tan\0");
        let message = oauth_bearer("ey.J", [("logicalCluster", "lkc-1"), ("b", "2")]);
        assert_eq!(message, b"n,,\x01auth=Bearer ey.J\x01logicalCluster=lkc-1\x01b=2\x01\x01");
    }
}
