//! All that is done with a vault, wherever it is.

use bodley_testbed::workbench::GroupOffset;
use serde_json::json;

use super::judge::same;
use super::site::Site;
use super::{Ran, list};

/// A whole life: backup, another one, everything that reads, restore with groups.
pub fn life(site: &Site, topic: &str, bodley: &dyn Fn(&[&str]) -> Ran) {
    site.topic(topic, 2);
    site.write(topic, 0, "early", 200);
    let bootstrap = site.cluster.bootstrap();
    let position = [GroupOffset::new(topic, 0, 77)];
    site.bench.commit_offsets(&format!("{topic}-group"), &position).unwrap();
    let backup = || bodley(&["backup", "-b", &bootstrap, "--topic", topic]).exits(0).json();
    backup();
    site.write(topic, 1, "late", 300);
    let report = backup();
    assert_eq!(report["gaps"], json!([]));
    let verified = bodley(&["verify", "--expect", report["receipt"].as_str().unwrap()]).exits(0).json();
    assert_eq!(verified["receipt"], report["receipt"]);
    bodley(&["verify", "--quick"]).exits(0);
    assert_eq!(list(&bodley(&["list"]).exits(0).json(), "topics").len(), 1);
    bodley(&["show", topic]).exits(0);
    bodley(&["show", "--commits"]).exits(0);
    bodley(&["show", "--groups"]).exits(0);
    let target = format!("{topic}-back");
    bodley(&["restore", "-b", &bootstrap, "--topic", topic, "--rename", &format!("{topic}={target}")])
        .exits(0);
    same(&site.dump(topic), &site.dump(&target));
}
