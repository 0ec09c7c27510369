//! Produce requests (v3 to v13), written by hand so that record batches are sent from where they lie.
//!
//! One request holds at most one batch per partition: a leader refuses several, and the same partition twice in one request
//! silently loses data. Source: the protocol guide, ProduceRequest; KIP-516 for topic ids (v13).

use crate::TopicId;
use crate::frame::{self, Head};
use crate::versions::PRODUCE_TOPIC_ID;
use crate::wire::{Length, Writer};

const API_KEY: i16 = 0;
const FIRST_FLEXIBLE: i16 = 9;

/// Where one batch goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Name, for versions below 13.
    pub topic: &'a str,
    /// Id, from version 13.
    pub topic_id: TopicId,
    /// Partition.
    pub partition: i32,
    /// Bytes of its batch.
    pub batch_len: usize,
}

/// A request without its batches: `glue[..cuts[0]]`, batch 0, `glue[cuts[0]..cuts[1]]`, batch 1, … and the rest of the glue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vectored {
    glue: Vec<u8>,
    cuts: Vec<usize>,
}

impl Vectored {
    /// The pieces in the order in which they are sent; `batches` in the order of the targets.
    pub fn pieces<'a>(&'a self, batches: &[&'a [u8]]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::with_capacity(2 * batches.len() + 1);
        let mut from = 0;
        for (cut, batch) in self.cuts.iter().zip(batches) {
            pieces.push(self.glue.get(from..*cut).unwrap_or_default());
            pieces.push(*batch);
            from = *cut;
        }
        pieces.push(self.glue.get(from..).unwrap_or_default());
        pieces
    }
}

/// Writes everything of a Produce request with acks=all but its batches. `targets` of one topic stand together, no (topic,
/// partition) stands twice.
pub fn encode(head: Head<'_>, timeout_ms: i32, targets: &[Target<'_>]) -> Vectored {
    let flexible = head.version >= FIRST_FLEXIBLE;
    let mut out = frame::begin(API_KEY, head, flexible);
    let mut cuts = Vec::with_capacity(targets.len());
    out.put_length(Length::of_string(flexible), None); // transactional id
    out.put_i16(-1); // acks=all
    out.put_i32(timeout_ms);
    let topics: Vec<&[Target<'_>]> = targets.chunk_by(|a, b| a.topic == b.topic).collect();
    out.put_length(Length::of(flexible), Some(topics.len()));
    for topic in topics {
        let Some(first) = topic.first() else { continue };
        if head.version >= PRODUCE_TOPIC_ID {
            out.extend_from_slice(&first.topic_id);
        } else {
            out.put_string(Length::of_string(flexible), first.topic);
        }
        out.put_length(Length::of(flexible), Some(topic.len()));
        for target in topic {
            out.put_i32(target.partition);
            out.put_length(Length::of(flexible), Some(target.batch_len));
            cuts.push(out.len());
            frame::put_no_tags(&mut out, flexible);
        }
        frame::put_no_tags(&mut out, flexible);
    }
    frame::put_no_tags(&mut out, flexible);
    frame::finish(&mut out, targets.iter().map(|target| target.batch_len).sum());
    Vectored { glue: out, cuts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kafka_protocol::messages::{ProduceRequest, RequestHeader};
    use kafka_protocol::protocol::{Decodable, HeaderVersion};

    /// Another implementation reads what we wrote, in every version.
    #[test]
    fn every_version_is_read_back() {
        for version in crate::versions::PRODUCE.min..=crate::versions::PRODUCE.max {
            let target =
                |topic, id, partition, batch_len| Target { topic, topic_id: [id; 16], partition, batch_len };
            let targets = [target("a", 1, 0, 3), target("a", 1, 7, 200), target("b", 2, 1, 1)];
            let batches = [vec![1; 3], vec![2; 200], vec![3; 1]];
            let head = Head { version, correlation_id: 77, client_id: "bodley" };
            let request = encode(head, 30_000, &targets);
            let views: Vec<&[u8]> = batches.iter().map(Vec::as_slice).collect();
            let frame = request.pieces(&views).concat();
            assert_eq!(i32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
            let mut rest = Bytes::from(frame).slice(4..);
            let header = RequestHeader::decode(&mut rest, ProduceRequest::header_version(version)).unwrap();
            assert_eq!((header.correlation_id, header.request_api_key), (77, 0));
            let body = ProduceRequest::decode(&mut rest, version).unwrap();
            assert!(rest.is_empty(), "v{version}");
            assert_eq!((body.acks, body.timeout_ms), (-1, 30_000));
            assert_eq!(body.topic_data.len(), 2);
            assert_eq!(body.topic_data[0].partition_data[1].index, 7);
            assert_eq!(body.topic_data[0].partition_data[1].records.as_deref(), Some(&batches[1][..]));
            assert_eq!(body.topic_data[1].partition_data[0].records.as_deref(), Some(&batches[2][..]));
            if version >= PRODUCE_TOPIC_ID {
                assert_eq!(body.topic_data[1].topic_id.as_bytes(), &[2; 16]);
            } else {
                assert_eq!(body.topic_data[1].name.as_str(), "b");
            }
        }
    }
}
