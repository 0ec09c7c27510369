//! The harness itself, at a small topic of a real Kafka.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::process::Command;

use bodley_testbed::paths;
use serde_json::Value;

#[test]
fn a_small_session_end_to_end() {
    // Not in the system's temporary folder, which may be in memory, where O_DIRECT is refused.
    let folder = tempfile::tempdir_in(paths::target_dir()).unwrap();
    let json = folder.path().join("out.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["e2e", "--only", "drain,copy-direct,copy-cached", "--runs", "1", "--order", "shuffled"]);
    command.args(["--partitions", "6", "--batches", "16k,one", "--mebibytes", "3", "--one-mebibytes", "1"]);
    command.arg("--vaults").arg(folder.path()).arg("--json").arg(&json);
    let out = command.output().unwrap();
    let (text, complaints) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}\n{complaints}");

    let session: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(session["schema"], "bodley.bench.v1");
    let scenarios = session["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 2);
    for scenario in scenarios {
        let (bytes, records) = (scenario["bytes"].as_u64().unwrap(), scenario["records"].as_u64().unwrap());
        let small = scenario["batches"] == "16k";
        assert!(bytes >= if small { 3 << 20 } else { 1 << 20 } && bytes < 4 << 20, "{scenario}");
        assert!(records >= if small { 3000 } else { 6000 }, "{scenario}");
        let medians = scenario["medians"].as_array().unwrap();
        let names: Vec<&str> = medians.iter().map(|m| m["contestant"].as_str().unwrap()).collect();
        assert_eq!(names, ["drain", "copy-cached", "copy-direct"]);
        for run in scenario["runs"].as_array().unwrap() {
            assert_eq!(run["round"], 1);
            for number in ["seconds", "cpu_seconds", "peak_rss_bytes", "requests"] {
                assert!(run[number].as_f64().unwrap() > 0.0, "{number}: {run}");
            }
            assert!(run["broker_cpu_seconds"].as_f64().unwrap() >= 0.0, "{run}");
        }
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("| 6 × none")).count(), 6, "{text}");
    // Nothing stays behind but the file.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
