//! `HOST:PORT`, as bootstrap servers are written and as brokers advertise themselves.

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Name or IP address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What is wrong with a bootstrap server.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no bootstrap server: write HOST:PORT, several separated by commas")]
pub struct BadAddress(String);

impl Address {
    /// Splits a list as Kafka's tools take it: `a:9092,b:9092`, IPv6 in brackets.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, BadAddress> {
        list.split(',').map(|one| Self::parse(one.trim())).collect()
    }

    fn parse(text: &str) -> Result<Self, BadAddress> {
        // What looks like a password is not repeated.
        let shown = if text.contains('@') { "(user and password are not part of it)" } else { text };
        let bad = || BadAddress(shown.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if text.contains('@') || (bare.is_none() && host.contains(':')) {
            return Err(bad());
        }
        let host = bare.unwrap_or(host);
        let port = port.parse().map_err(|_| bad())?;
        if host.is_empty() || host.contains(['/', ' ']) || port == 0 {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = Address::parse_list("a:9092, [::1]:9093").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:9092", "[::1]:9093"]);
        assert!(!Address::parse_list("u:secret@a:1").unwrap_err().to_string().contains("secret"));
        for bad in
            ["", "a", "a:", ":1", "a:x", "a:70000", "http://a:9", "a:1,,b:2", "a:0", "u:secret@a:1", "::1:9"]
        {
            assert!(Address::parse_list(bad).is_err(), "{bad}");
        }
    }
}
