//! Reading the XML of S3 and Azure: elements by their path, text with its entities, nothing else.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

/// Elements within elements, at most.
const DEEPEST: usize = 16;

/// What a document consists of, as far as it matters.
pub(crate) enum Item<'a> {
    /// The text of an element that has one.
    Text(&'a str),
    /// An element ends.
    End,
}

/// Goes through a document. `visit` gets the names of the elements from the root down, and what was met. `false`: it is no such document.
pub(crate) fn walk(document: &[u8], mut visit: impl FnMut(&[&str], Item<'_>)) -> bool {
    let Ok(document) = std::str::from_utf8(document) else { return false };
    let mut reader = Reader::from_str(document.trim_start_matches('\u{feff}').trim_start());
    let (mut path, mut text): (Vec<String>, String) = (Vec::new(), String::new());
    let mut elements = 0usize;
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                if path.len() >= DEEPEST {
                    return false;
                }
                path.push(start.local_name().into_inner().to_owned());
                text.clear();
            }
            Ok(Event::End(_)) => {
                let names: Vec<&str> = path.iter().map(String::as_str).collect();
                visit(&names, Item::Text(&text));
                visit(&names, Item::End);
                text.clear();
                path.pop();
                elements += 1;
            }
            Ok(Event::Text(piece)) => text.push_str(&piece.xml10_content()),
            Ok(Event::CData(piece)) => text.push_str(&piece.xml10_content()),
            Ok(Event::GeneralRef(reference)) => match reference.resolve_char_ref() {
                Ok(Some(character)) => text.push(character),
                Ok(None) => match resolve_predefined_entity(&reference.xml10_content()) {
                    Some(known) => text.push_str(known),
                    None => return false,
                },
                Err(_) => return false,
            },
            Ok(Event::Eof) => return path.is_empty() && elements > 0,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// The text of the first element at `path`.
pub(crate) fn text_at(document: &[u8], path: &[&str]) -> Option<String> {
    let mut found = None;
    walk(document, |names, item| {
        if let (None, Item::Text(text), true) = (&found, item, names == path) {
            found = Some(text.to_owned());
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_entities_and_paths() {
        let document = br#"<?xml version="1.0"?>
<List xmlns="http://x/"><Key>a&amp;b &#233;&lt;</Key><In><Key>c</Key></In><Empty/><C><![CDATA[d<]]></C></List>"#;
        let mut seen = Vec::new();
        assert!(walk(document, |path, item| {
            if let Item::Text(text) = item {
                seen.push(format!("{}={}", path.join("/"), text.trim()));
            }
        }));
        assert_eq!(seen, ["List/Key=a&b é<", "List/In/Key=c", "List/In=", "List/C=d<", "List="]);
        assert_eq!(text_at(document, &["List", "In", "Key"]).unwrap(), "c");
        assert_eq!(text_at(b"  \n<Error><Code>X</Code></Error>", &["Error", "Code"]).unwrap(), "X");
    }

    #[test]
    fn nonsense_is_none() {
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        for document in ["", "  ", "text", "<a>", "<a></b>", "<a>&unknown;</a>", "<a>&#xFFFFFFFF;</a>", &deep]
        {
            assert!(!walk(document.as_bytes(), |_, _| {}), "{document}");
        }
        assert!(!walk(b"<a>\xff</a>", |_, _| {}));
    }
}
