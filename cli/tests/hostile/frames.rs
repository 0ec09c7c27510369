//! Lies about frames, told by each API.

use crate::liar::{ORDERS, Stage};

#[test]
fn honest_brokers_are_believed() {
    let stage = Stage::new();
    stage.recovers();
    let target = Stage::empty();
    let other = target.brokers.bootstrap();
    let args = ["restore", "-b", &other, "--vault", stage.vault.url(), "--output", "json"];
    crate::common::bodley(&args).exits(0);
    for partition in 0..3 {
        let (source, restored) = (&stage.brokers, &target.brokers);
        assert_eq!(restored.records(ORDERS, partition).unwrap(), source.records(ORDERS, partition).unwrap());
    }
}
