//! Outages of which it is known what they hit: partitions without a leader, too few replicas, brokers that are silent, late or strict, topics that go.

use bodley_testbed::Proxy;
use bodley_testbed::workbench::Quota;

use crate::common::stage::Stage;
use crate::common::vault::Vault;
use crate::common::{bodley, list, seconds, soak};
use crate::scene::{ALONE, STEADY, three, waits};

/// The partitions of a node that has them alone are nobody's while it is dead.
#[test]
fn partitions_without_a_leader() {
    let stage = three();
    let known = stage.vault_of(&[ALONE]);
    let vault = Vault::new();
    let mut backup = stage.backup_at(&vault, ALONE, "1M", &[]);
    let mut restore = stage.restore_at(&known, (ALONE, "alone-back"), "1M", &[]);
    stage.until(&mut restore, "alone-back", 100);
    let node = stage.cluster.node(1).unwrap();
    node.kill().unwrap();
    restore.leave_alone(seconds(if soak() { 60.0 } else { 25.0 }));
    assert!(backup.is_running() && restore.is_running(), "they did not wait");
    node.start().unwrap();
    let (backup, restore) = (backup.wait(), restore.wait());
    stage.in_sync();
    for ran in [&backup, &restore] {
        eprintln!("{:.0?}: {:#?}", ran.took, waits(ran));
    }
    for ran in [backup, restore] {
        ran.exits(0).says("waiting for ").says("without progress");
    }
    stage.has_all(&vault, ALONE);
    stage.came_back(ALONE, "alone-back");
}

/// The patience that was asked for is kept, who was missing is named, and the same command goes on.
#[test]
fn patience_has_an_end() {
    let stage = three();
    let known = stage.vault_of(&[ALONE]);
    let vault = Vault::new();
    let patience = ["--give-up-after", "15s"];
    let backup = stage.backup_at(&vault, ALONE, "1M", &patience);
    let mut restore = stage.restore_at(&known, (ALONE, "alone-patient"), "1M", &patience);
    stage.until(&mut restore, "alone-patient", 100);
    let (node, proxy) = (stage.cluster.node(2).unwrap(), stage.cluster.proxy(2).unwrap());
    node.kill().unwrap();
    let before = proxy.attempts();
    let (backup, restore) = (backup.wait(), restore.wait());
    // A few at first, and then one in a second or two, whoever wants one.
    let (attempts, waited) = (proxy.attempts() - before, backup.took.max(restore.took));
    eprintln!("{attempts} tries to connect to a dead broker in {waited:.0?}");
    assert!(attempts as f64 <= 40.0 + 4.0 * waited.as_secs_f64(), "{attempts} tries");
    for ran in [backup, restore] {
        eprintln!("{:.0?}: {:#?}", ran.took, waits(&ran));
        assert!(ran.took > seconds(15.0) && ran.took < seconds(300.0), "{ran}");
        let ran = ran.exits(1).says("gave up after 15 s without progress").says("run ").says("alone");
        let errors = ran.json();
        let named = |error: &serde_json::Value| {
            let message = error["message"].as_str().unwrap();
            message.contains("alone") && (message.contains("has no leader") || message.contains("broker 2"))
        };
        assert!(list(&errors, "errors").iter().any(named), "{ran}");
    }
    let doctor = bodley(&["doctor", "-b", &stage.cluster.bootstrap()]);
    doctor.exits(1).says("no leader").says("start broker 2 again");
    node.start().unwrap();
    stage.in_sync();
    stage.backup_at(&vault, ALONE, "1G", &patience).wait().exits(0);
    stage.restore_at(&known, (ALONE, "alone-patient"), "1G", &patience).wait().exits(0);
    stage.has_all(&vault, ALONE);
    stage.came_back(ALONE, "alone-patient");
}

/// Replicas that are out of sync keep a restore from writing, whether the leader has stored a batch or not.
#[test]
fn too_few_replicas_in_sync() {
    let stage = three();
    let known = stage.vault_of(&[ALONE]);
    let all = ["--replication-factor", "3", "--topic-config", "min.insync.replicas=3"];
    let mut restore = stage.restore_at(&known, (ALONE, "alone-strict"), "768K", &all);
    stage.until(&mut restore, "alone-strict", 100);
    let node = stage.cluster.node(1).unwrap();
    for how in ["killed", "frozen"] {
        if how == "killed" {
            node.kill().unwrap()
        } else {
            node.pause().unwrap()
        }
        restore.leave_alone(seconds(14.0));
        assert!(restore.is_running(), "{how}: it did not wait");
        if how == "killed" {
            node.start().unwrap()
        } else {
            node.resume().unwrap()
        }
        stage.in_sync();
    }
    let ran = restore.wait();
    eprintln!("{:.0?}: {:#?}", ran.took, waits(&ran));
    ran.exits(0).says("waiting for ").says("NOT_ENOUGH_REPLICAS");
    crate::common::judge::same_digests(&stage.bench, ALONE, "alone-strict");
    stage.bench.delete_topic("alone-strict").unwrap();
}

/// One broker takes connections and is silent for a while; then all of them answer late.
#[test]
fn silent_and_late() {
    let stage = three();
    let known = stage.vault_of(&[STEADY]);
    let vault = Vault::new();
    let backup = stage.backup_at(&vault, STEADY, "3M", &[]);
    let mut restore = stage.restore_at(&known, (STEADY, "steady-late"), "3M", &[]);
    stage.until(&mut restore, "steady-late", 100);
    let proxy = stage.cluster.proxy(1).unwrap();
    proxy.stall(true);
    restore.leave_alone(seconds(12.0));
    proxy.calm();
    stage.proxies().for_each(|proxy| proxy.delay(seconds(0.15)));
    restore.leave_alone(seconds(20.0));
    stage.proxies().for_each(Proxy::calm);
    let (backup, restore) = (backup.wait(), restore.wait());
    for ran in [&backup, &restore] {
        eprintln!("{:.0?}: {:#?}", ran.took, waits(ran));
    }
    backup.exits(0);
    restore.exits(0).says("waiting for broker 1 at ").says("broker 1 is back after");
    stage.has_all(&vault, STEADY);
    stage.came_back(STEADY, "steady-late");
}

/// Brokers hold a restore back, by bytes and by the time that its requests take: it slows down and does not lose its connections.
#[test]
fn a_restore_under_quotas() {
    struct Lifted<'a>(&'a Stage);
    impl Drop for Lifted<'_> {
        fn drop(&mut self) {
            for quota in [Quota::Produce, Quota::Requests] {
                let _ = self.0.bench.set_quota(quota, None);
            }
        }
    }
    let stage = three();
    let known = stage.vault_of(&[ALONE]);
    let lifted = Lifted(&stage);
    for (quota, value) in [(Quota::Produce, 512 << 10), (Quota::Requests, 1)] {
        stage.bench.set_quota(quota, Some(value)).unwrap();
        std::thread::sleep(seconds(0.5));
        let before: u64 = stage.proxies().map(Proxy::opened).sum();
        let target = format!("alone-{quota:?}");
        let ran = stage.restore_at(&known, (ALONE, &target), "1G", &[]).wait();
        let opened = stage.proxies().map(Proxy::opened).sum::<u64>() - before;
        eprintln!("{quota:?}: {:.1?}, {opened} connections", ran.took);
        ran.exits(0);
        assert!(opened <= 30, "{opened} connections: some were given up");
        stage.bench.set_quota(quota, None).unwrap();
        stage.came_back(ALONE, &target);
    }
    drop(lifted);
}

/// Topics of the target that are deleted, made anew and grown while they are restored.
#[test]
fn target_topics_that_change() {
    let stage = three();
    let known = stage.vault_of(&[ALONE]);
    for made_anew in [false, true] {
        let mut restore = stage.restore_at(&known, (ALONE, "alone-gone"), "1M", &[]);
        stage.until(&mut restore, "alone-gone", 100);
        stage.bench.delete_topic("alone-gone").unwrap();
        if made_anew {
            stage.bench.create_replicated("alone-gone", 6, 1, &[]).unwrap();
        }
        let ran = restore.wait();
        eprintln!("{:.1?}: {}", ran.took, ran.err);
        assert!(ran.took < seconds(60.0), "{ran}");
        ran.exits(1).says("alone-gone was deleted at the target while it was written");
        // What is there now is empty: the same command begins anew, or says what is in its way.
        let again = stage.restore_at(&known, (ALONE, "alone-gone"), "1G", &[]).wait();
        again.exits(0);
        stage.came_back(ALONE, "alone-gone");
    }
    let mut restore = stage.restore_at(&known, (ALONE, "alone-grown"), "2M", &[]);
    stage.until(&mut restore, "alone-grown", 100);
    stage.bench.add_partitions("alone-grown", 9).unwrap();
    restore.wait().exits(0);
    assert_eq!(stage.ends("alone-grown")[6..], [0, 0, 0]);
    let parts = |topic: &str| stage.ends(topic)[..6].to_vec();
    assert_eq!(parts("alone-grown"), parts(ALONE));
    stage.bench.delete_topic("alone-grown").unwrap();
}
