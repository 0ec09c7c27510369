//! Bytes as a commit object, a log path and a receipt.

use bodley_engine::vault::commit::{Commit, Receipt, commit_path, seq_of_path};

/// One input.
pub fn run(data: &[u8]) {
    let _ = Commit::decode("fuzz", 1, data);
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(seq) = seq_of_path(text) {
            assert_eq!(commit_path(seq), text);
        }
        if let Ok(receipt) = text.parse::<Receipt>() {
            assert_eq!(receipt.to_string().parse(), Ok(receipt));
        }
    }
}
