//! The text of Java's `.properties` files, and of JAAS configurations inside them.

/// One `name=value` line for each pair, readable by Java whatever the values hold: its loader takes bytes for Latin-1,
/// a backslash for an escape, and drops blanks before a value.
pub fn text<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> String {
    pairs.iter().map(|(name, value)| format!("{}={}\n", name.as_ref(), escaped(value.as_ref()))).collect()
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for unit in value.encode_utf16() {
        match u8::try_from(unit) {
            Ok(b'\\') => out.push_str("\\\\"),
            Ok(b' ') if out.is_empty() => out.push_str("\\ "),
            Ok(plain @ b' '..=b'~') => out.push(char::from(plain)),
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
    out
}

/// The value of `sasl.jaas.config`: a login module and its options.
pub fn jaas(module: &str, options: &[(&str, &str)]) -> String {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let options: String =
        options.iter().map(|(name, value)| format!(" {name}=\"{}\"", quoted(value))).collect();
    format!("org.apache.kafka.common.security.{module} required{options};")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_java_would_misread() {
        let pairs = [("plain", "a=b c#"), ("odd", " \\ö\n😀")];
        assert_eq!(text(&pairs), "plain=a=b c#\nodd=\\ \\\\\\u00f6\\u000a\\ud83d\\ude00\n");
    }

    #[test]
    fn quotes_what_jaas_would_misread() {
        let text = jaas("plain.PlainLoginModule", &[("password", r#"a"b\c'"#)]);
        let expected =
            r#"org.apache.kafka.common.security.plain.PlainLoginModule required password="a\"b\\c'";"#;
        assert_eq!(text, expected);
    }
}
