//! Text for URLs and forms, and text from strangers for messages.

use std::fmt::Write;

/// RFC 3986: all but unreserved characters as %XX. What SigV4 signs.
pub(crate) fn percent(text: &str) -> String {
    encode(text, b"-_.~", false)
}

/// `name=value&name=value`, each percent-encoded: how stores want tags.
pub(crate) fn tags(tags: &[(String, String)]) -> String {
    let tags = tags.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value)));
    tags.collect::<Vec<_>>().join("&")
}

/// application/x-www-form-urlencoded, as Java's URLEncoder does it.
pub(crate) fn form(text: &str) -> String {
    encode(text, b"-_.*", true)
}

fn encode(text: &str, plain: &[u8], plus_for_space: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.push(char::from(byte));
        } else if plus_for_space && byte == b' ' {
            out.push('+');
        } else {
            // Writing to a String never fails.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The text behind %XX; what is none stays as it is.
pub(crate) fn unpercent(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, rest)) = bytes.split_first() {
        let digits = rest.get(..2).filter(|_| *first == b'%');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                bytes = rest.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Text for an XML element.
pub(crate) fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Longest piece of a stranger's text in a message, in characters.
const QUOTED: usize = 300;

/// What a server said, fit for a message: one line, short, and without the secrets that it may echo.
pub(crate) fn quote(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "…");
    }
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect();
    if text.chars().nth(QUOTED).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_standards_say() {
        assert_eq!(percent("kafka-cluster:Connect a/b~é*"), "kafka-cluster%3AConnect%20a%2Fb~%C3%A9%2A");
        assert_eq!(form("a b:c+d~*"), "a+b%3Ac%2Bd%7E*");
    }

    #[test]
    fn quotes_are_short_single_lines_without_secrets() {
        assert_eq!(quote("bad\r\nclient hunter2!", &["hunter2", ""]), "bad  client …!");
        assert_eq!(quote(&"x".repeat(1000), &[]).chars().count(), QUOTED + 1);
    }
}
