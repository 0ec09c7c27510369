//! `sasl.jaas.config`: one login module with its options, as Kafka's clients take it (KIP-85).

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use bodley_io::Secret;

/// One login module. Option values may be secrets.
#[derive(Debug, PartialEq)]
pub struct Jaas {
    /// Name of its class, without the package: packages are renamed where libraries are shaded.
    pub module: String,
    /// By name.
    pub options: BTreeMap<String, Secret>,
}

/// Parses `MODULE required NAME="VALUE" …;`. The error never repeats the text, which holds passwords.
pub fn parse(text: &str) -> Result<Jaas, String> {
    let mut tokens = Tokens(text.chars().peekable());
    let Some(Token::Word(module)) = tokens.next()? else {
        return Err("begins with no login module: write MODULE required NAME=\"VALUE\" …;".to_owned());
    };
    match tokens.next()? {
        Some(Token::Word(flag)) if FLAGS.iter().any(|known| flag.eq_ignore_ascii_case(known)) => {}
        _ => return Err("lacks the word `required` behind the login module".to_owned()),
    }
    let mut options = BTreeMap::new();
    loop {
        let name = match tokens.next()? {
            Some(Token::Word(name) | Token::Quoted(name)) => name,
            Some(Token::Sign(';')) => break,
            Some(_) => return Err(format!("makes no sense {}", behind(&options))),
            None => return Err("ends without a semicolon".to_owned()),
        };
        if tokens.next()? != Some(Token::Sign('=')) {
            return Err(format!("makes no sense {}: write NAME=\"VALUE\"", behind(&options)));
        }
        let Some(Token::Word(value) | Token::Quoted(value)) = tokens.next()? else {
            return Err(format!("has an option without a value {}", behind(&options)));
        };
        options.insert(name, Secret::new(value));
    }
    if tokens.next()?.is_some() {
        return Err("has more than one login module: leave one".to_owned());
    }
    let module = module.rsplit(['.', '$']).next().unwrap_or_default().to_owned();
    Ok(Jaas { module, options })
}

const FLAGS: [&str; 4] = ["required", "requisite", "sufficient", "optional"];

fn behind(options: &BTreeMap<String, Secret>) -> String {
    match options.len() {
        0 => "behind the login module".to_owned(),
        n => format!("behind option {n}"),
    }
}

#[derive(PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Sign(char),
}

struct Tokens<'a>(Peekable<Chars<'a>>);

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>, String> {
        loop {
            let Some(c) = self.0.next() else { return Ok(None) };
            match c {
                c if c.is_whitespace() => {}
                '/' if matches!(self.0.peek(), Some('/' | '*')) => self.skip_comment(),
                '"' | '\'' => return self.quoted(c).map(|text| Some(Token::Quoted(text))),
                ';' | '=' => return Ok(Some(Token::Sign(c))),
                c => return Ok(Some(Token::Word(self.word(c)))),
            }
        }
    }

    fn skip_comment(&mut self) {
        let mut last = '\0';
        if self.0.next() == Some('/') {
            self.0.by_ref().find(|c| *c == '\n');
        } else {
            self.0.by_ref().find(|c| (std::mem::replace(&mut last, *c), *c) == ('*', '/'));
        }
    }

    fn word(&mut self, first: char) -> String {
        let mut word = String::from(first);
        let inside = |c: &char| !c.is_whitespace() && !matches!(c, ';' | '=' | '"' | '\'');
        while let Some(c) = self.0.next_if(inside) {
            word.push(c);
        }
        word
    }

    /// Escapes are those of Java's StreamTokenizer.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.0.next() {
                None | Some('\n' | '\r') => return Err(format!("lacks a closing {quote}")),
                Some(c) if c == quote => return Ok(text),
                Some('\\') => match self.0.next() {
                    None => return Err(format!("lacks a closing {quote}")),
                    Some(digit @ '0'..='7') => text.push(self.octal(digit)),
                    Some('a') => text.push('\u{7}'),
                    Some('b') => text.push('\u{8}'),
                    Some('f') => text.push('\u{c}'),
                    Some('n') => text.push('\n'),
                    Some('r') => text.push('\r'),
                    Some('t') => text.push('\t'),
                    Some('v') => text.push('\u{b}'),
                    Some(other) => text.push(other),
                },
                Some(c) => text.push(c),
            }
        }
    }

    /// Up to three digits, at most `\377`.
    fn octal(&mut self, first: char) -> char {
        let mut code = first.to_digit(8).unwrap_or(0);
        let more = if first <= '3' { 2 } else { 1 };
        for _ in 0..more {
            let Some(digit) = self.0.next_if(|c| c.is_digit(8)).and_then(|c| c.to_digit(8)) else { break };
            code = code * 8 + digit;
        }
        char::from_u32(code).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_options() {
        let text = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"a b\"\n password='it\\'s \\\"\\\\\\101'; ";
        let jaas = parse(text).unwrap();
        assert_eq!(jaas.module, "PlainLoginModule");
        assert_eq!(jaas.options["username"].expose(), "a b");
        assert_eq!(jaas.options["password"].expose(), "it's \"\\A");
        let shaded = parse("kafkashaded.x.ScramLoginModule REQUIRED /* c */ a=b // d\n 'c'=\"\";").unwrap();
        assert_eq!(shaded.module, "ScramLoginModule");
        assert_eq!((shaded.options["a"].expose(), shaded.options["c"].expose()), ("b", ""));
        assert!(parse("a.B required;").unwrap().options.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_text() {
        for (bad, says) in [
            ("", "no login module"),
            ("hunter2", "`required`"),
            ("M hunter2 a=b;", "`required`"),
            ("M required a=\"hunter2\"", "semicolon"),
            ("M required a=\"hunter2;", "closing \""),
            ("M required a \"hunter2\";", "behind the login module"),
            ("M required a=1 =hunter2;", "behind option 1"),
            ("M required a=;", "without a value"),
            ("M required a=b; N required password=hunter2;", "more than one"),
        ] {
            let message = parse(bad).unwrap_err();
            assert!(message.contains(says) && !message.contains("hunter2"), "{bad}: {message}");
        }
    }
}
