//! What the fuzzers found worth keeping, through the same functions, in every test run. See docs/fuzzing.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

use std::path::Path;

#[path = "../fuzz/targets/batch.rs"]
mod batch;
#[path = "../fuzz/targets/fetch.rs"]
mod fetch;
#[path = "../fuzz/targets/old.rs"]
mod old;
#[path = "../fuzz/targets/records.rs"]
mod records;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "{} has {} files", folder.display(), files.len());
    for file in files {
        // Shown when the test fails: the file that did it.
        println!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn the_corpus_of_each_fuzz_target() {
    replay("batch", batch::run);
    replay("fetch", fetch::run);
    replay("old", old::run);
    replay("records", records::run);
}
