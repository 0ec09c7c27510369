//! What tests of stores share.

use std::sync::Arc;
use std::time::Duration;

use bodley_io::store::{Put, Store, StoreError};
use bodley_io::{BufferPool, Filled};
use bodley_storage_rest::Patience;
use bodley_testbed::stores::http::{Action, Answer, Faults, Rule};
use bytes::Bytes;

/// Gives up soon.
pub fn patience() -> Patience {
    let (idle, give_up_after) = (Duration::from_secs(5), Duration::from_secs(30));
    Patience { idle, give_up_after, ..Patience::default() }
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 7) ^ (at >> 15)) as u8).collect()
}

/// Uploads `bytes` in parts of `part` bytes.
pub async fn upload(store: &dyn Store, path: &str, bytes: &[u8], part: usize) -> Result<(), StoreError> {
    let pool = BufferPool::new(part.next_multiple_of(2 << 20), 4 * part.next_multiple_of(2 << 20));
    let mut upload = store.create(path).await?;
    for piece in bytes.chunks(part) {
        let mut buf = pool.get(piece.len()).await.unwrap();
        buf[..piece.len()].copy_from_slice(piece);
        upload.write(Filled::new(buf, 0, piece.len())).await?;
    }
    upload.finish().await
}

/// The whole object.
pub async fn whole(store: &dyn Store, path: &str) -> Vec<u8> {
    store.get(path, 1 << 30).await.unwrap().to_vec()
}

/// Twelve put the same name at the same time: one wins, and its bytes are there.
pub async fn race(store: Arc<dyn Store>, path: &str) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..12 {
        let (store, path) = (store.clone(), path.to_owned());
        writers.spawn(async move {
            let body = Bytes::from(format!("commit of writer {writer}"));
            (store.put_if_absent(&path, body.clone()).await.unwrap(), body)
        });
    }
    let outcomes = writers.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter(|(put, _)| *put == Put::Created).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(whole(&*store, path).await, winners[0].1);
}

/// Each kind of accident, on about one request in twenty, before or after its effect.
pub fn misfortune(faults: &Faults, seed: u64) {
    println!("seed {seed}");
    faults.seed(seed);
    let busy = Answer::new(503).header("retry-after", "0");
    for action in [
        Action::Answer(busy),
        Action::DoThenAnswer(Answer::new(500)),
        Action::Cut,
        Action::DoThenCut,
        Action::CutBody(100),
    ] {
        faults.add(Rule::always(action).chance(0.01));
    }
}
