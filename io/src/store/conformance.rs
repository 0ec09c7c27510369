//! What every implementation of [`Store`](super::Store) and every decorator must do, as one suite.

use bytes::Bytes;

use super::{Put, Store, StoreError, list_all};
use crate::buffers::{BufferPool, Filled};

const PART: usize = 2 << 20;

/// Runs the suite on an empty `store`. `Err` names the first rule that is broken.
pub async fn conformance(store: &dyn Store) -> Result<(), String> {
    small_objects(store).await?;
    large_objects(store).await?;
    listings(store).await
}

fn check(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("broken rule: {rule}")) }
}

fn text(error: StoreError) -> String {
    error.to_string()
}

async fn small_objects(store: &dyn Store) -> Result<(), String> {
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    check(store.size("log/a/1").await.map_err(text)?.is_none(), "no object, no size")?;
    let missing = store.get("log/a/1", 10).await;
    check(matches!(missing, Err(StoreError::NotFound { .. })), "no object: NotFound")?;
    let put = store.put_if_absent("log/a/1", one.clone()).await.map_err(text)?;
    check(put == Put::Created, "the first put creates")?;
    let put = store.put_if_absent("log/a/1", two).await.map_err(text)?;
    check(put == Put::Exists, "the second put finds it")?;
    check(store.get("log/a/1", 10).await.map_err(text)? == one, "a lost put changes nothing")?;
    check(store.size("log/a/1").await.map_err(text)? == Some(3), "size")?;
    let large = store.get("log/a/1", 2).await;
    check(matches!(large, Err(StoreError::TooLarge { .. })), "a get is bounded")?;
    store.put_if_absent("log/a/empty", Bytes::new()).await.map_err(text)?;
    check(store.get("log/a/empty", 0).await.map_err(text)?.is_empty(), "an empty object")?;
    store.delete("log/a/1").await.map_err(text)?;
    store.delete("log/a/1").await.map_err(text)?;
    check(store.size("log/a/1").await.map_err(text)?.is_none(), "deleted")
}

async fn large_objects(store: &dyn Store) -> Result<(), String> {
    let pool = BufferPool::new(PART, 4 * PART);
    for (path, tail) in [("data/x.seg", 12_345), ("data/aligned.seg", 0), ("data/tiny.seg", 1)] {
        let parts = if path.contains("tiny") { 0 } else { 3 };
        let mut expected = Vec::new();
        let mut upload = store.create(path).await.map_err(text)?;
        for i in 0..=parts {
            let len = if i == parts { tail } else { PART - store.alignment() * i };
            let mut buf = pool.get(PART).await.map_err(|e| e.to_string())?;
            let room = buf.get_mut(..len).ok_or("a part buffer is too short")?;
            room.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 7 + i) as u8);
            expected.extend_from_slice(room);
            upload.write(Filled::new(buf, 0, len)).await.map_err(text)?;
        }
        check(store.size(path).await.map_err(text)?.is_none(), "invisible until finished")?;
        upload.finish().await.map_err(text)?;
        check(store.size(path).await.map_err(text)? == Some(expected.len() as u64), "all parts, no padding")?;
        for (at, len) in [(0, 1), (0, expected.len().min(PART - 8192)), (4095, 4098), (expected.len() - 1, 1)]
        {
            let Some(range) = expected.get(at..at + len) else { continue };
            let buf = pool.get(PART).await.map_err(|e| e.to_string())?;
            let read = store.read(path, at as u64, len, buf).await.map_err(text)?;
            check(*read == *range, "a range reads back")?;
        }
        let buf = pool.get(PART).await.map_err(|e| e.to_string())?;
        let past = store.read(path, expected.len() as u64 - 1, 2, buf).await;
        check(matches!(past, Err(StoreError::Short { .. })), "a range past the end: Short")?;
    }
    let mut upload = store.create("data/dropped.seg").await.map_err(text)?;
    let buf = pool.get(PART).await.map_err(|e| e.to_string())?;
    upload.write(Filled::new(buf, 0, 5)).await.map_err(text)?;
    drop(upload);
    check(store.size("data/dropped.seg").await.map_err(text)?.is_none(), "dropped, not there")?;
    let buf = pool.get(PART).await.map_err(|e| e.to_string())?;
    let missing = store.read("data/dropped.seg", 0, 1, buf).await;
    check(matches!(missing, Err(StoreError::NotFound { .. })), "reading nothing: NotFound")?;
    store.create("data/x.seg").await.map_err(text)?.finish().await.map_or(Ok(()), |()| Err("replaced".into()))
}

async fn listings(store: &dyn Store) -> Result<(), String> {
    for i in 0..1005 {
        store.put_if_absent(&format!("log/{:04}/{:04}", i / 10, i % 10), Bytes::new()).await.map_err(text)?;
    }
    let page = store.list("log/", "").await.map_err(text)?;
    check(page.len() == 1000, "a page holds a thousand")?;
    let all = list_all(store, "log/").await.map_err(text)?;
    check(all.len() == 1006, "pages add up (with log/a/empty)")?;
    check(all.is_sorted_by(|a, b| a.path < b.path), "listings are sorted")?;
    let after = store.list("log/", "log/0100/0002").await.map_err(text)?;
    check(after.first().is_some_and(|o| o.path == "log/0100/0003"), "after is exclusive")?;
    let data = list_all(store, "data/").await.map_err(text)?;
    let names: Vec<_> = data.iter().map(|object| object.path.as_str()).collect();
    check(names == ["data/aligned.seg", "data/tiny.seg", "data/x.seg"], "only whole objects are listed")?;
    check(list_all(store, "nothing/").await.map_err(text)?.is_empty(), "an empty prefix")
}
