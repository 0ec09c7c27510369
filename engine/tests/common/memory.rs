//! Vaults in memory.

use std::sync::Arc;

use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use sha2::Digest;

use super::history::Histories;

/// The store as a vault has it.
pub fn shared(memory: &MemoryStore) -> SharedStore {
    Arc::new(memory.clone())
}

/// All objects once more.
pub fn copy(memory: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    copy.objects().clone_from(&memory.objects());
    copy
}

/// Paths that begin with `prefix`, sorted.
pub fn paths(memory: &MemoryStore, prefix: &str) -> Vec<String> {
    memory.objects().keys().filter(|path| path.starts_with(prefix)).cloned().collect()
}

/// As text.
pub fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A history with checkpoints of commits 8 and 16, and two commits behind them.
pub async fn with_checkpoints() -> MemoryStore {
    let memory = MemoryStore::new();
    let mut histories = Histories::new(&shared(&memory), 5).await;
    for _ in 1..18 {
        let vault = histories.commit().await;
        vault.checkpoint_every(8);
        vault.checkpoint().await.unwrap();
    }
    let seqs: Vec<_> = paths(&memory, "checkpoint/").iter().map(|path| path[11..31].to_owned()).collect();
    assert_eq!(seqs, [format!("{:020}", 8), format!("{:020}", 16)]);
    memory
}
