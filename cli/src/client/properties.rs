//! Java's `.properties` files, as `java.util.Properties` reads them, in UTF-8.

/// A key with its value. No `Debug`: the value may be a secret.
#[derive(PartialEq)]
pub struct Entry {
    /// Unescaped.
    pub key: String,
    /// Unescaped, with the blanks at its end.
    pub value: String,
    /// The line it begins on, from 1.
    pub line: usize,
}

/// The entries of a file in their order. An error says on which line what is wrong.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    logical_lines(text).into_iter().map(|(line, text)| entry(line, &text)).collect()
}

/// Lines without comments and blank ones; what a backslash at the end continues is joined.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let text = text.replace("\r\n", "\n");
    let mut lines = text.split(['\n', '\r']).enumerate();
    let mut out = Vec::new();
    while let Some((n, line)) = lines.next() {
        let line = line.trim_start_matches(BLANK);
        // Java takes a lone backslash for a blank line.
        if line.is_empty() || line == "\\" || line.starts_with(['#', '!']) {
            continue;
        }
        let mut joined = line.to_owned();
        while joined.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1 {
            joined.pop();
            let Some((_, next)) = lines.next() else { break };
            joined.push_str(next.trim_start_matches(BLANK));
        }
        out.push((n + 1, joined));
    }
    out
}

const BLANK: [char; 3] = [' ', '\t', '\u{c}'];

/// Splits at the first `=`, `:` or blank that is not escaped; blanks around the separator belong to nothing.
fn entry(line: usize, text: &str) -> Result<Entry, String> {
    let mut escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let ends = !escaped && (matches!(c, '=' | ':') || BLANK.contains(c));
        escaped = *c == '\\' && !escaped;
        ends
    });
    let (key, rest) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    let rest = rest.trim_start_matches(BLANK);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(BLANK);
    let bad = || format!("line {line}: a backslash-u needs four hexadecimal digits of a character");
    let key = unescape(key).ok_or_else(bad)?;
    Ok(Entry { key, value: unescape(value).ok_or_else(bad)?, line })
}

fn unescape(text: &str) -> Option<String> {
    let mut units = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    units.push(u16::from_str_radix(&digits, 16).ok().filter(|_| hex)?);
                    continue;
                }
                Some(other) => other,
                None => continue,
            },
            other => other,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        parse(text).unwrap().into_iter().map(|e| (e.key, e.value, e.line)).collect()
    }

    /// What java.util.Properties makes of the same text was looked at with a JDK 17.
    #[test]
    fn as_java_reads_them() {
        let text = "a b=c\n k : v \n c=1\\\n   2\\\n #3\nx=\\u0041\\t\\q\\:\\=\\#\n!c\nemp\ne2=\n";
        let expected = [
            ("a", "b=c", 1),
            ("k", "v ", 2),
            ("c", "12#3", 3),
            ("x", "A\tq:=#", 6),
            ("emp", "", 8),
            ("e2", "", 9),
        ];
        let found = pairs(text);
        let found: Vec<_> = found.iter().map(|(k, v, n)| (k.as_str(), v.as_str(), *n)).collect();
        assert_eq!(found, expected);
        assert_eq!(
            pairs("\u{feff}a\\ b\\=c:d\r\n#x\\\r\ne=f\\\\\rg\tg\\\n"),
            [("a b=c".into(), "d".into(), 1), ("e".into(), "f\\".into(), 3), ("g".into(), "g".into(), 4),]
        );
        assert_eq!(
            pairs("a=b\\\n\nc=\\ud83d\\ude00"),
            [("a".into(), "b".into(), 1), ("c".into(), "\u{1f600}".into(), 3),]
        );
    }

    #[test]
    fn lone_backslashes() {
        assert_eq!(pairs("\\\n#x\n\\\na=b\\\n\\\n#c"), [("a".into(), "b#c".into(), 4)]);
    }

    #[test]
    fn bad_escapes() {
        for bad in ["a=\\u12", "a=\\u12x4", "b\\u+123=1", "a=\\ud83d"] {
            assert!(parse(&format!("x=y\n{bad}")).err().unwrap().starts_with("line 2:"), "{bad}");
        }
    }
}
