//! Which topic and which partitions are meant.

use std::collections::BTreeSet;

use crate::error::EngineError;
use crate::vault::rows::TopicRow;
use crate::vault::state::State;

/// More names than these are not listed in a message.
const MANY: usize = 10;

/// The topic of a name: its newest incarnation, or the one with this number.
pub fn find_topic<'a>(
    state: &'a State,
    name: &str,
    incarnation: Option<u32>,
) -> Result<&'a TopicRow, EngineError> {
    let lives = state.lives(name);
    let Some(newest) = lives.first() else {
        let there: BTreeSet<&str> = state.topics.values().map(|row| row.name.as_str()).collect();
        let there = match there.len() {
            0 => "it has none".to_owned(),
            _ => format!("it has {}", some_of(there.into_iter())),
        };
        return Err(EngineError::Refused(format!("there is no topic `{name}` in the vault: {there}")));
    };
    let Some(wanted) = incarnation else { return Ok(newest) };
    lives.iter().find(|row| row.incarnation == wanted).copied().ok_or_else(|| {
        let there = some_of(lives.iter().rev().map(|row| row.incarnation));
        EngineError::Refused(format!(
            "there is no incarnation {wanted} of topic `{name}` in the vault: it has {there}"
        ))
    })
}

/// The partitions of a topic that are asked for, in order; none asked for: all.
pub fn partitions_of(state: &State, row: &TopicRow, asked: &[u32]) -> Result<Vec<u32>, EngineError> {
    let stored = state.partitions.range((row.topic, 0)..=(row.topic, u32::MAX));
    let there: BTreeSet<u32> =
        stored.map(|((_, partition), _)| *partition).chain(0..row.partitions).collect();
    if asked.is_empty() {
        return Ok(there.into_iter().collect());
    }
    let asked: BTreeSet<u32> = asked.iter().copied().collect();
    match asked.iter().find(|partition| !there.contains(partition)) {
        None => Ok(asked.into_iter().collect()),
        Some(missing) => Err(EngineError::Refused(format!(
            "topic `{}` has no partition {missing} in the vault: it has {}",
            row.name,
            some_of(there.into_iter())
        ))),
    }
}

fn some_of(there: impl ExactSizeIterator<Item = impl ToString>) -> String {
    let count = there.len();
    let mut shown: Vec<String> = there.take(MANY).map(|one| one.to_string()).collect();
    if count > MANY {
        shown.push(format!("and {} more", count - MANY));
    }
    shown.join(", ")
}
