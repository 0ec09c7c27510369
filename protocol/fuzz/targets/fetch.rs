//! A Fetch response of any version, fed in pieces of any size. First byte: version, second: piece length.

use bodley_protocol::fetch::{ResponseParser, Step};

/// One input.
pub fn run(data: &[u8]) {
    let [version, piece, frame @ ..] = data else { return };
    let mut parser = ResponseParser::new(4 + i16::from(version % 15), frame.len());
    let (mut from, mut to) = (0, 0);
    // Every step consumes, asks for more, or ends a partition: a frame of n bytes has at most so many.
    for _ in 0..4 * frame.len() + 64 {
        match parser.step(&frame[from..to]) {
            Ok((used, step)) => {
                from += used;
                match step {
                    Step::More if to == frame.len() => panic!("more than there is"),
                    Step::More => to = (to + 1 + usize::from(*piece)).min(frame.len()),
                    Step::Records(head) => {
                        from += head.records_len;
                        to = to.max(from);
                        assert!(to <= frame.len());
                    }
                    Step::PartitionEnd(_) => {}
                    Step::End { .. } => return assert_eq!(from, frame.len()),
                }
            }
            Err(_) => return,
        }
    }
    // A partition takes no byte of its own only in a lie about their number.
    assert!(parser.remaining() > 0);
}
