//! XML that is written and read here.

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Writes a document, element by element.
#[derive(Debug)]
pub(super) struct Writer(String);

impl Writer {
    pub(super) fn document() -> Self {
        Self("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned())
    }

    /// Begins the outermost element of a result.
    pub(super) fn root(&mut self, name: &str) -> &mut Self {
        self.push(&format!("<{name} xmlns=\"{NAMESPACE}\">"))
    }

    pub(super) fn open(&mut self, name: &str) -> &mut Self {
        self.push(&format!("<{name}>"))
    }

    pub(super) fn close(&mut self, name: &str) -> &mut Self {
        self.push(&format!("</{name}>"))
    }

    /// An element with nothing but text in it.
    pub(super) fn text(&mut self, name: &str, value: impl ToString) -> &mut Self {
        let value = value.to_string();
        self.push(&format!("<{name}>{}</{name}>", escape(value.as_str())))
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn push(&mut self, text: &str) -> &mut Self {
        self.0.push_str(text);
        self
    }
}

/// The leaves of a document: the names from the outermost element down, and the text. `None`: it is malformed.
pub(super) fn leaves(document: &[u8]) -> Option<Vec<(Vec<String>, String)>> {
    let mut reader = Reader::from_str(std::str::from_utf8(document).ok()?);
    let (mut leaves, mut path, mut text) = (Vec::new(), Vec::<String>::new(), None);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                path.push(start.local_name().as_ref().to_owned());
                text = Some(String::new());
            }
            Event::Empty(empty) => {
                let mut whole = path.clone();
                whole.push(empty.local_name().as_ref().to_owned());
                leaves.push((whole, String::new()));
                text = None;
            }
            Event::Text(piece) => {
                if let Some(text) = &mut text {
                    text.push_str(&piece.xml10_content());
                }
            }
            Event::GeneralRef(reference) => {
                let whole = format!("&{};", reference.xml10_content());
                text.as_mut()?.push_str(&quick_xml::escape::unescape(&whole).ok()?);
            }
            Event::End(_) => {
                if let Some(text) = text.take() {
                    leaves.push((path.clone(), text));
                }
                path.pop()?;
            }
            Event::Eof => return path.is_empty().then_some(leaves),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_read() {
        let read =
            leaves(b"<?xml version=\"1.0\"?>\n<A xmlns=\"x\"><B> a&amp;&#34;b</B><C/><D><E>1</E></D></A>")
                .unwrap();
        let flat: Vec<_> = read.iter().map(|(path, text)| (path.join("/"), text.as_str())).collect();
        let expected = [("A/B", " a&\"b"), ("A/C", ""), ("A/D/E", "1")];
        assert_eq!(flat, expected.map(|(path, text)| (path.to_owned(), text)));
        for bad in ["<A><B></A>", "<A>", "<A></B>", "<A>&nope;</A>", "</A>"] {
            assert!(leaves(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
