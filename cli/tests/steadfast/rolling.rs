//! One run, whatever dies meanwhile.

use crate::common::Rng;
use crate::common::seconds;
use crate::common::soak;
use crate::common::vault::Vault;
use crate::scene::{STEADY, three, waits, while_nodes_die};

/// Bytes per second at which a run of all of [`STEADY`] takes a minute and more.
const RATE: &str = "2M";
const FAST: &str = "20M";

/// At any time one node of three is dead.
#[test]
fn one_node_is_always_dead() {
    let stage = three();
    let known = stage.vault_of(&[STEADY]);
    let vault = Vault::new();
    let rate = if soak() { FAST } else { RATE };
    let ((backup, restore), deaths) = while_nodes_die(&stage, 1, || {
        let backup = stage.backup_at(&vault, STEADY, rate, &["--commit-interval", "5s"]);
        let restore = stage.restore_at(&known, (STEADY, "steady-back"), rate, &[]);
        (backup.wait(), restore.wait())
    });
    for ran in [&backup, &restore] {
        eprintln!("{deaths} deaths, {:.0?}: {:#?}", ran.took, waits(ran));
    }
    let (backup, restore) = (backup.exits(0), restore.exits(0));
    assert!(backup.took > seconds(55.0) && restore.took > seconds(55.0), "too fast for this test");
    // Where servers start slowly, fewer fit in.
    assert!(deaths >= 2, "only {deaths} deaths");
    stage.has_all(&vault, STEADY);
    stage.came_back(STEADY, "steady-back");
}

/// The active controller dies, and then all nodes are restarted in good order, one after the other.
#[test]
fn restarts_and_a_change_of_the_controller() {
    let stage = three();
    let known = stage.vault_of(&[STEADY]);
    let vault = Vault::new();
    let mut rng = Rng::new("restarts", 2);
    let mut backup = stage.backup_at(&vault, STEADY, "3M", &[]);
    let mut restore = stage.restore_at(&known, (STEADY, "steady-restarted"), "3M", &[]);
    stage.until(&mut restore, "steady-restarted", 100);
    let controller = stage.cluster.node(stage.controller()).unwrap();
    controller.kill().unwrap();
    restore.leave_alone(seconds(6.0));
    assert!(backup.is_running() && restore.is_running(), "too fast for this test");
    controller.start().unwrap();
    for node in stage.cluster.nodes() {
        stage.in_sync();
        node.restart().unwrap();
        restore.leave_alone(rng.millis(1000));
    }
    let (backup, restore) = (backup.wait(), restore.wait());
    stage.in_sync();
    eprintln!("{:#?} {:#?}", waits(&backup), waits(&restore));
    backup.exits(0);
    restore.exits(0);
    stage.has_all(&vault, STEADY);
    stage.came_back(STEADY, "steady-restarted");
}

/// Two of three nodes are dead: nothing moves, not even the controllers. The run waits, says for whom, and goes on.
#[test]
fn two_nodes_are_dead_for_a_while() {
    let stage = three();
    let known = stage.vault_of(&[STEADY]);
    let vault = Vault::new();
    let patience = ["--give-up-after", "300s"];
    let backup = stage.backup_at(&vault, STEADY, "4M", &patience);
    let mut restore = stage.restore_at(&known, (STEADY, "steady-few"), "4M", &patience);
    stage.until(&mut restore, "steady-few", 100);
    let dead = [0, 2].map(|n| stage.cluster.node(n).unwrap());
    dead.iter().for_each(|node| node.kill().unwrap());
    restore.leave_alone(seconds(20.0));
    dead.iter().for_each(|node| node.launch().unwrap());
    stage.cluster.wait_until_up().unwrap();
    let (backup, restore) = (backup.wait(), restore.wait());
    stage.in_sync();
    for ran in [&backup, &restore] {
        eprintln!("{:.0?}: {:#?}", ran.took, waits(ran));
    }
    for ran in [backup, restore] {
        ran.exits(0).says("waiting for ").says("gives up after 300 s without progress");
    }
    stage.has_all(&vault, STEADY);
    stage.came_back(STEADY, "steady-few");
}
