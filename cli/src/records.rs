//! Records as text: JSON lines, and what kcat's format strings make of them.

use std::io::Write;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bodley_engine::look::Record;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::output::without_commands;

/// Where a record is.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: u32,
}

struct Line<'a>(Place<'a>, &'a Record<'a>);

struct Header<'a>(&'a [u8], Option<&'a [u8]>);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(place, record) = self;
        let kind = if record.is_append_time { "LogAppendTime" } else { "CreateTime" };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", place.topic)?;
        map.serialize_entry("partition", &place.partition)?;
        map.serialize_entry("offset", &record.offset)?;
        map.serialize_entry("timestamp", &record.timestamp)?;
        map.serialize_entry("timestamp_type", kind)?;
        put_bytes(&mut map, ["key", "key_base64"], record.body.key)?;
        put_bytes(&mut map, ["value", "value_base64"], record.body.value)?;
        let headers: Vec<_> = record.body.headers.iter().map(|(name, value)| Header(name, *value)).collect();
        map.serialize_entry("headers", &headers)?;
        map.end()
    }
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        put_bytes(&mut map, ["name", "name_base64"], Some(self.0))?;
        put_bytes(&mut map, ["value", "value_base64"], self.1)?;
        map.end()
    }
}

/// As text under the first name, or what is not UTF-8 as base64 under the second.
fn put_bytes<M: SerializeMap>(map: &mut M, names: [&str; 2], bytes: Option<&[u8]>) -> Result<(), M::Error> {
    let [text, base64] = names;
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => map.serialize_entry(text, &None::<&str>),
        Some((_, Ok(utf8))) => map.serialize_entry(text, utf8),
        Some((bytes, Err(_))) => map.serialize_entry(base64, &BASE64_STANDARD.encode(bytes)),
    }
}

/// Adds a record as a line of JSON, in which no control character stands as it is.
pub fn put_json(out: &mut Vec<u8>, place: Place<'_>, record: &Record<'_>) -> serde_json::Result<()> {
    let start = out.len();
    serde_json::to_writer(&mut *out, &Line(place, record))?;
    if out.get(start..).is_some_and(|line| line.iter().any(|byte| *byte >= 0x7f)) {
        let line = String::from_utf8_lossy(&out.split_off(start)).into_owned();
        out.extend_from_slice(without_commands(line).as_bytes());
    }
    out.push(b'\n');
    Ok(())
}

/// A format string of kcat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    KeyLength,
    Value,
    ValueLength,
    /// i32, big-endian.
    ValueLengthBinary,
    Timestamp,
    Headers,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(format: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = Vec::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c == '\\' {
                text.push(escaped(&mut rest)?);
                continue;
            }
            let token = match (c, if c == '%' { rest.next() } else { None }) {
                ('%', Some('%')) => {
                    text.push(b'%');
                    continue;
                }
                ('%', Some(token)) => piece(token)?,
                ('%', None) => return Err("a lone % at the end: write %% for a percent sign".to_owned()),
                (c, _) => {
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(token);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if pieces.is_empty() { Err("it is empty".to_owned()) } else { Ok(Self(pieces)) }
    }
}

fn piece(token: char) -> Result<Piece, String> {
    Ok(match token {
        't' => Piece::Topic,
        'p' => Piece::Partition,
        'o' => Piece::Offset,
        'k' => Piece::Key,
        'K' => Piece::KeyLength,
        's' => Piece::Value,
        'S' => Piece::ValueLength,
        'R' => Piece::ValueLengthBinary,
        'T' => Piece::Timestamp,
        'h' => Piece::Headers,
        other => {
            return Err(format!(
                "%{other} is none of %t %p %o %k %K %s %S %R %T %h, and %% for a percent sign"
            ));
        }
    })
}

/// The byte that is meant by what follows a backslash.
fn escaped(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = rest.by_ref().take(2).collect();
            let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| is_hex);
            byte.ok_or_else(|| format!("\\x{digits}: two hex digits follow \\x"))
        }
        Some(other) => Err(format!("\\{other} is none of \\n \\t \\r \\\\ \\xHH")),
        None => Err("a lone \\ at the end: write \\\\ for a backslash".to_owned()),
    }
}

impl Format {
    /// Adds a record; its bytes as they are.
    pub fn put(&self, out: &mut Vec<u8>, place: Place<'_>, record: &Record<'_>) -> std::io::Result<()> {
        let body = &record.body;
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Topic => out.extend_from_slice(place.topic.as_bytes()),
                Piece::Partition => write!(out, "{}", place.partition)?,
                Piece::Offset => write!(out, "{}", record.offset)?,
                Piece::Key => out.extend_from_slice(body.key.unwrap_or_default()),
                Piece::KeyLength => write!(out, "{}", length(body.key))?,
                Piece::Value => out.extend_from_slice(body.value.unwrap_or_default()),
                Piece::ValueLength => write!(out, "{}", length(body.value))?,
                Piece::ValueLengthBinary => out.extend_from_slice(&length(body.value).to_be_bytes()),
                Piece::Timestamp => write!(out, "{}", record.timestamp)?,
                Piece::Headers => {
                    for (index, (name, value)) in body.headers.iter().enumerate() {
                        out.extend_from_slice(if index > 0 { b"," } else { b"" });
                        out.extend_from_slice(name);
                        out.push(b'=');
                        out.extend_from_slice(value.unwrap_or(b"NULL"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// -1: null. No record is longer than 2 GiB.
fn length(bytes: Option<&[u8]>) -> i32 {
    bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_engine::look::Body;

    const PLACE: Place<'_> = Place { topic: "orders", partition: 3 };

    fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Record<'a> {
        let headers = vec![(&b"a"[..], Some(&b"1"[..])), (&b"a"[..], None), (&b"b\xff"[..], Some(&b""[..]))];
        Record { offset: 7, timestamp: 1000, is_append_time: false, body: Body { key, value, headers } }
    }

    fn formatted(format: &str, record: &Record<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        format.parse::<Format>().unwrap().put(&mut out, PLACE, record).unwrap();
        out
    }

    #[test]
    fn json_lines() {
        let mut out = Vec::new();
        let esc = "\u{1b}\u{9b}2J\u{7f}\u{e4}".as_bytes();
        put_json(&mut out, PLACE, &record(None, Some(esc))).unwrap();
        put_json(&mut out, PLACE, &record(Some(b"\xff"), Some(b"a\nb"))).unwrap();
        let headers = r#""headers":[{"name":"a","value":"1"},{"name":"a","value":null},{"name_base64":"Yv8=","value":""}]}"#;
        let head =
            r#"{"topic":"orders","partition":3,"offset":7,"timestamp":1000,"timestamp_type":"CreateTime","#;
        let first = format!("{head}\"key\":null,\"value\":\"\\u001b\\u009b2J\\u007f\u{e4}\",{headers}\n");
        let second = format!("{head}\"key_base64\":\"/w==\",\"value\":\"a\\nb\",{headers}\n");
        assert_eq!(String::from_utf8(out).unwrap(), first + &second);
    }

    #[test]
    fn kcat_formats() {
        let one = record(Some(b"k\x00\xff"), None);
        assert_eq!(formatted("%t-%p@%o %T%%\\n", &one), b"orders-3@7 1000%\n");
        assert_eq!(formatted("%K:%k|%S:%s|", &one), b"3:k\x00\xff|-1:|");
        assert_eq!(formatted("%R", &one), [0xff; 4]);
        assert_eq!(formatted("%R%s", &record(None, Some(b"ab"))), b"\x00\x00\x00\x02ab");
        assert_eq!(formatted("%h", &one), b"a=1,a=NULL,b\xff=");
        assert_eq!(formatted("\\t\\r\\\\\\x00\\xfF\u{e4}", &one), b"\t\r\\\x00\xff\xc3\xa4");
        for bad in ["", "%", "a%", "%x", "\\", "\\q", "\\x", "\\xf", "\\x+f", "\\xgg"] {
            assert!(bad.parse::<Format>().is_err(), "{bad}");
        }
    }
}
