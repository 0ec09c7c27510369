//! Positions as the CSV that `kafka-consumer-groups.sh --reset-offsets --from-file` takes: `group,topic,partition,offset`, without a header.

use std::collections::BTreeSet;

use bodley_io::kafka::is_topic_name;

use crate::error::EngineError;

/// Longest name of a group that is read.
const MAX_GROUP: usize = 32 << 10;

/// A line of such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset that the group reads.
    pub offset: i64,
}

/// Lines, each with its break.
pub fn csv<'a>(rows: impl Iterator<Item = (&'a str, &'a str, i32, i64)>) -> String {
    let mut text = String::new();
    for (group, topic, partition, offset) in rows {
        text.push_str(&quoted(group));
        text.push_str(&format!(",{topic},{partition},{offset}\n"));
    }
    text
}

fn quoted(name: &str) -> String {
    // Blanks at its ends, and a byte order mark, would be lost.
    let bare = !name.is_empty() && name.trim() == name && !name.starts_with('\u{feff}');
    let plain = bare && !name.contains([',', '"', '\n', '\r', '#', ' ', '\\']);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Reads such a file. Lines of three fields are about `only`, the one group that is named elsewhere. Every error names its line.
pub fn parse_csv(text: &str, only: Option<&str>) -> Result<Vec<FileRow>, EngineError> {
    let mut rows = Vec::new();
    let mut seen = BTreeSet::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let bad = |what: String| EngineError::Refused(format!("line {line}: {what}"));
        let (fields, behind) = record(rest).map_err(|what| bad(what.to_owned()))?;
        let taken = rest.get(..rest.len() - behind.len()).unwrap_or_default();
        if fields.iter().any(|field| !field.is_empty()) {
            let row = row(&fields, only).map_err(bad)?;
            if !seen.insert((row.group.clone(), row.topic.clone(), row.partition)) {
                return Err(EngineError::Refused(format!(
                    "line {line}: group {}, {}-{} stands there twice",
                    row.group, row.topic, row.partition
                )));
            }
            rows.push(row);
        }
        line += taken.bytes().filter(|byte| *byte == b'\n').count();
        rest = behind;
    }
    if rows.is_empty() {
        return Err(EngineError::Refused("it has no line with a position".into()));
    }
    Ok(rows)
}

fn row(fields: &[String], only: Option<&str>) -> Result<FileRow, String> {
    let (group, topic, partition, offset) = match (fields, only) {
        ([group, topic, partition, offset], _) => (group.as_str(), topic, partition, offset),
        ([topic, partition, offset], Some(only)) => (only, topic, partition, offset),
        _ => {
            return Err(format!(
                "{} fields: write group,topic,partition,offset (topic,partition,offset goes with one --group)",
                fields.len()
            ));
        }
    };
    if group.is_empty() || group.len() > MAX_GROUP {
        return Err("the group's name is empty or too long".into());
    }
    if !is_topic_name(topic) {
        return Err(format!("{topic:.300?} is no topic name"));
    }
    let number = |text: &str| text.parse().ok().filter(|number: &i64| *number >= 0 && text.len() < 20);
    let bad = |what: &str, text: &str| format!("{what} {text:.40?} is no number from 0 on");
    let partition =
        number(partition).and_then(|number| i32::try_from(number).ok()).ok_or(bad("partition", partition))?;
    let offset = number(offset).ok_or(bad("offset", offset))?;
    Ok(FileRow { group: group.to_owned(), topic: topic.clone(), partition, offset })
}

/// The fields of one record, and what stands behind it. Quoted fields may hold anything; two quotes in them are one.
fn record(text: &str) -> Result<(Vec<String>, &str), &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, behind) = field(rest)?;
        fields.push(field);
        if fields.len() > 16 {
            return Err("more than 16 fields");
        }
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                let behind = behind.strip_prefix('\r').unwrap_or(behind);
                return Ok((fields, behind.strip_prefix('\n').unwrap_or(behind)));
            }
        }
    }
}

fn field(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\r', '\n']).unwrap_or(text.len());
        let (field, behind) = text.split_at(end);
        return Ok((field.trim().to_owned(), behind));
    };
    let mut field = String::new();
    loop {
        let (before, behind) = rest.split_once('"').ok_or("a quote is not closed")?;
        field.push_str(before);
        match behind.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None if behind.is_empty() || behind.starts_with([',', '\r', '\n']) => return Ok((field, behind)),
            None => return Err("text behind a closing quote"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        parse_csv(text, None).unwrap_err().to_string()
    }

    #[test]
    fn files_of_kafka() {
        let row = |group: &str, topic: &str, partition, offset| FileRow {
            group: group.into(),
            topic: topic.into(),
            partition,
            offset,
        };
        let rows = parse_csv("a,t,0,5\r\n\"b, \"\"c\"\"\",\"t\",1,7\n\n", None).unwrap();
        assert_eq!(rows, [row("a", "t", 0, 5), row("b, \"c\"", "t", 1, 7)]);
        assert_eq!(parse_csv("t,0,5", Some("g")).unwrap(), [row("g", "t", 0, 5)]);
        assert_eq!(parse_csv("\u{feff}a,t,0,5", None).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        assert!(error("a,t,0,5\nt,0,5").starts_with("line 2: 3 fields"));
        assert!(error("a,t,0,5\na,t,0,6").contains("line 2: group a, t-0 stands there twice"));
        assert!(error("\"x\ny\",t,0,1\na,t,-1,5").contains("line 3: partition \"-1\""));
        assert!(error("a,t,0,x").contains("offset \"x\" is no number"));
        assert!(error("a,t,0,99999999999999999999").contains("offset"));
        assert!(error("a,t,4294967296,1").contains("partition"));
        assert!(error("a,t/u,0,1").contains("is no topic name"));
        assert!(error("\"a,t,0,1").contains("not closed"));
        assert!(error("\"a\"b,t,0,1").contains("behind a closing quote"));
        assert!(error(&",".repeat(100)).contains("more than 16"));
        assert!(error("").contains("no line"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(group in "[^\u{0}]{1,20}", partition in 0..i32::MAX, offset in 0..i64::MAX) {
            let text = csv([(group.as_str(), "t", partition, offset)].into_iter());
            let rows = parse_csv(&text, None);
            prop_assert_eq!(rows.unwrap(), [FileRow { group, topic: "t".into(), partition, offset }]);
        }

        #[test]
        fn noise_is_refused_without_a_panic(text: String) {
            let _ = parse_csv(&text, None);
        }
    }
}
