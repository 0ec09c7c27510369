//! What every implementation of [`Store`](super::Store) and every decorator must do, as one suite.

use std::sync::Arc;

use bodley_protocol::checksum::crc64;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};

use super::{LIST_PAGE, Put, Stat, Store, StoreError, list_all};
use crate::buffers::{BufferPool, Filled};

const MIB: usize = 1 << 20;
/// Bytes of a part that is neither small nor large.
const PART: usize = 2 * MIB;
/// Beside the largest part, for what reads may need.
const ROOM: usize = 2 * MIB;
/// Small requests at a time, so that the suite takes seconds where each takes milliseconds.
const AT_A_TIME: usize = 16;
/// Writers that race for one name.
const WRITERS: u8 = 12;

/// Runs the suite on an empty `store`. `Err` names the first rule that is broken.
pub async fn conformance(store: &dyn Store) -> Result<(), String> {
    let uploads = uploads(store.alignment());
    let buffer = uploads.iter().flat_map(|(_, parts)| parts).max().copied().unwrap_or(PART) + ROOM;
    let pool = BufferPool::new(buffer, 6 * buffer);
    small_objects(store).await?;
    sizes(store).await?;
    races(store).await?;
    for (path, parts) in uploads {
        upload(store, &pool, path, &parts).await?;
    }
    unfinished(store, &pool).await?;
    taken(store, &pool).await?;
    listings(store).await?;
    deletes(store).await
}

fn check(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("broken rule: {rule}")) }
}

fn text(error: StoreError) -> String {
    error.to_string()
}

/// Bytes that tell where they are and what object they belong to.
fn content(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at / 65_537 + salt) as u8).collect()
}

async fn small_objects(store: &dyn Store) -> Result<(), String> {
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    check(store.size("log/a/1").await.map_err(text)?.is_none(), "no object, no size")?;
    let missing = store.get("log/a/1", 10).await;
    check(matches!(missing, Err(StoreError::NotFound { .. })), "no object: NotFound")?;
    let put = store.put_if_absent("log/a/1", one.clone()).await.map_err(text)?;
    check(put == Put::Created, "the first put creates")?;
    for other in [two, one.clone(), Bytes::new()] {
        let put = store.put_if_absent("log/a/1", other).await.map_err(text)?;
        check(put == Put::Exists, "the second put finds it")?;
    }
    check(store.get("log/a/1", 10).await.map_err(text)? == one, "a lost put changes nothing")?;
    known(store, "log/a/1", &one).await?;
    store.confirm("log/a/1").await.map_err(text)?;
    let large = store.get("log/a/1", 2).await;
    check(matches!(large, Err(StoreError::TooLarge { .. })), "a get is bounded")?;
    store.delete("log/a/1").await.map_err(text)?;
    store.delete("log/a/1").await.map_err(text)?;
    check(store.size("log/a/1").await.map_err(text)?.is_none(), "deleted")?;
    let put = store.put_if_absent("log/a/1", one).await.map_err(text)?;
    check(put == Put::Created, "a name that was deleted is free")?;
    store.delete("log/a/1").await.map_err(text)
}

/// What the store says of an object without reading it is true.
async fn known(store: &dyn Store, path: &str, expected: &[u8]) -> Result<(), String> {
    let Some(Stat { size, crc64: sum, .. }) = store.stat(path).await.map_err(text)? else {
        return Err(format!("broken rule: an object that is there can be looked at ({path})"));
    };
    check(size == expected.len() as u64, &format!("all bytes, no padding ({path})"))?;
    check(
        sum.is_none_or(|sum| sum == crc64(expected)),
        &format!("a CRC-64 that is told is the right one ({path})"),
    )
}

/// Objects that are put at once may be empty, and may be large.
async fn sizes(store: &dyn Store) -> Result<(), String> {
    for (path, len) in [("log/a/empty", 0), ("index/large", 6 * MIB)] {
        let body = Bytes::from(content(len, 3));
        check(
            store.put_if_absent(path, body.clone()).await.map_err(text)? == Put::Created,
            "any size is put",
        )?;
        check(store.get(path, len as u64).await.map_err(text)? == body, "any size comes back")?;
        check(
            store.put_if_absent(path, body.clone()).await.map_err(text)? == Put::Exists,
            "and is put once",
        )?;
        known(store, path, &body).await?;
    }
    let short = store.get("index/large", 6 * MIB as u64 - 1).await;
    check(matches!(short, Err(StoreError::TooLarge { .. })), "a get of a large object is bounded")
}

/// Of several writers of one name one wins, and knows it.
async fn races(store: &dyn Store) -> Result<(), String> {
    if !store.decides_races() {
        return Ok(());
    }
    for (path, len) in [("index/race", 100), ("index/empty-race", 0), ("index/large-race", MIB)] {
        let body = |writer| Bytes::from(vec![writer; len]);
        let puts =
            (0..WRITERS).map(|writer| async move { (writer, store.put_if_absent(path, body(writer)).await) });
        let mut winners = Vec::new();
        for (writer, put) in join_all(puts).await {
            if put.map_err(text)? == Put::Created {
                winners.push(writer);
            }
        }
        check(winners.len() == 1, &format!("one of {WRITERS} writers wins, not {}", winners.len()))?;
        let found = store.get(path, len as u64).await.map_err(text)?;
        check(winners.iter().all(|winner| found == body(*winner)), "the winner's bytes are there")?;
    }
    Ok(())
}

/// Paths, and lengths of parts: all but the last are multiples of the alignment.
fn uploads(alignment: usize) -> Vec<(&'static str, Vec<usize>)> {
    let whole = |len: usize| len.max(1).next_multiple_of(alignment);
    let odd = (65_537 / alignment).max(1) * alignment;
    let large = [8, 12, 16, 8, 4].map(|mib| whole(mib * MIB));
    vec![
        ("data/aligned.seg", vec![whole(PART); 3]),
        ("data/large.seg", [&large[..], &[1]].concat()),
        ("data/odd.seg", vec![odd, 3 * odd, whole(1), whole(5 * MIB + 11), odd, 7]),
        ("data/short-begin.seg", vec![odd, whole(6 * MIB), whole(6 * MIB), 3]),
        ("data/tiny.seg", vec![1]),
        ("data/x.seg", vec![whole(PART), whole(PART.saturating_sub(2 * alignment)), whole(PART / 2), 12_345]),
    ]
}

async fn upload(
    store: &dyn Store,
    pool: &Arc<BufferPool>,
    path: &str,
    parts: &[usize],
) -> Result<(), String> {
    let expected = content(parts.iter().sum(), path.len());
    let mut upload = store.create(path).await.map_err(text)?;
    let mut at = 0;
    for (i, len) in parts.iter().enumerate() {
        let part = filled(pool, expected.get(at..at + len).unwrap_or_default()).await?;
        // Some makers of parts know their checksum, some do not.
        let sum = crc64(&part);
        upload.write(if i % 3 == 2 { part } else { part.summed(sum) }).await.map_err(text)?;
        at += len;
    }
    check(store.size(path).await.map_err(text)?.is_none(), &format!("invisible until finished ({path})"))?;
    upload.finish().await.map_err(text)?;
    known(store, path, &expected).await?;
    store.confirm(path).await.map_err(text)?;
    ranges(store, pool, path, (parts, &expected)).await
}

async fn filled(pool: &Arc<BufferPool>, bytes: &[u8]) -> Result<Filled, String> {
    let mut buf = pool.get(bytes.len().max(1)).await.map_err(|e| e.to_string())?;
    buf.get_mut(..bytes.len()).ok_or("a part buffer is too short")?.copy_from_slice(bytes);
    Ok(Filled::new(buf, 0, bytes.len()))
}

/// Ranges read back: at both ends, over the seams of parts, and all of it piece by piece.
async fn ranges(
    store: &dyn Store,
    pool: &Arc<BufferPool>,
    path: &str,
    (parts, expected): (&[usize], &[u8]),
) -> Result<(), String> {
    let end = expected.len();
    let mut wanted = vec![(0, 1), (0, end.min(PART - 8192)), (4095, 4098), (end - 1, 1), (end / 2, 1)];
    let seams = parts.iter().scan(0, |at, len| {
        *at += len;
        Some(*at)
    });
    wanted.extend(seams.map(|seam| (seam - 1, 3)));
    wanted.extend((0..end).step_by(7 * MIB).map(|at| (at, (7 * MIB).min(end - at))));
    for (at, len) in wanted {
        let Some(range) = expected.get(at..at + len) else { continue };
        let buf = pool.get(len + 8192).await.map_err(|e| e.to_string())?;
        let read = store.read(path, at as u64, len, buf).await.map_err(text)?;
        check(*read == *range, &format!("a range reads back ({path}, {at} and {len} more)"))?;
    }
    for (at, len) in [(end - 1, 2), (end, 1), (end + 5000, 10), (0, end + 1)] {
        let buf = pool.get(len + 8192).await.map_err(|e| e.to_string())?;
        let past = store.read(path, at as u64, len, buf).await;
        check(
            matches!(past, Err(StoreError::Short { .. })),
            &format!("a range past the end: Short ({path})"),
        )?;
    }
    Ok(())
}

/// What was dropped before its end is not there.
async fn unfinished(store: &dyn Store, pool: &Arc<BufferPool>) -> Result<(), String> {
    let large = (6 * MIB).next_multiple_of(store.alignment());
    for (path, parts) in [("data/dropped.seg", vec![5]), ("data/cut.seg", vec![large, large])] {
        let mut upload = store.create(path).await.map_err(text)?;
        for len in parts {
            upload.write(filled(pool, &vec![1; len]).await?).await.map_err(text)?;
        }
        drop(upload);
        check(store.size(path).await.map_err(text)?.is_none(), "dropped, not there")?;
        let buf = pool.get(1).await.map_err(|e| e.to_string())?;
        let missing = store.read(path, 0, 1, buf).await;
        check(matches!(missing, Err(StoreError::NotFound { .. })), "reading nothing: NotFound")?;
    }
    Ok(())
}

/// Nothing that is there is replaced, by an upload or by a put.
async fn taken(store: &dyn Store, pool: &Arc<BufferPool>) -> Result<(), String> {
    let empty = store.create("data/x.seg").await.map_err(text)?;
    let replaced = empty.finish().await;
    check(
        matches!(replaced, Err(StoreError::Exists { .. })),
        "an upload without parts to a name that is taken: Exists",
    )?;
    for (path, len) in [("data/twice.seg", 1000), ("data/twice-large.seg", 6 * MIB)] {
        let mut first = store.create(path).await.map_err(text)?;
        let mut second = store.create(path).await.map_err(text)?;
        let expected = vec![1; 2 * len];
        for _ in 0..2 {
            second
                .write(filled(pool, &vec![2; len.next_multiple_of(store.alignment())]).await?)
                .await
                .map_err(text)?;
        }
        first.write(filled(pool, &expected).await?).await.map_err(text)?;
        first.finish().await.map_err(text)?;
        let late = second.finish().await;
        check(matches!(late, Err(StoreError::Exists { .. })), "the second upload of a name: Exists")?;
        let put = store.put_if_absent(path, Bytes::from_static(b"other")).await.map_err(text)?;
        check(put == Put::Exists, "a put finds what was uploaded")?;
        let found = store.get(path, 2 * len as u64).await.map_err(text)?;
        check(found == expected, "the first upload of a name stays")?;
    }
    Ok(())
}

/// Objects that are listed: page after page, and the next page begins behind them.
const MANY: usize = LIST_PAGE + 5;

fn nth(i: usize) -> String {
    format!("log/{:04}/{:04}", i / 10, i % 10)
}

async fn listings(store: &dyn Store) -> Result<(), String> {
    let puts = stream::iter(0..MANY).map(|i| async move { store.put_if_absent(&nth(i), Bytes::new()).await });
    let mut puts = std::pin::pin!(puts.buffer_unordered(AT_A_TIME));
    while let Some(put) = puts.next().await {
        check(put.map_err(text)? == Put::Created, "many names are free")?;
    }
    let page = store.list("log/", "").await.map_err(text)?;
    check(page.len() == LIST_PAGE, "a page holds a thousand")?;
    let all = list_all(store, "log/").await.map_err(text)?;
    check(all.len() == MANY + 1, "pages add up (with log/a/empty)")?;
    check(all.is_sorted_by(|a, b| a.path < b.path), "listings are sorted")?;
    let after = store.list("log/", &nth(1002)).await.map_err(text)?;
    check(after.first().is_some_and(|object| object.path == nth(1003)), "after is exclusive")?;
    let between = store.list("log/", "log/0100/0002x").await.map_err(text)?;
    check(between == after, "after need not be a name that is there")?;
    let folder = store.list("log/0007/", "").await.map_err(text)?;
    check(folder.len() == 10 && folder.iter().all(|object| object.size == 0), "a folder has its own")?;
    let data = list_all(store, "data/").await.map_err(text)?;
    let mut expected: Vec<(&str, u64)> = uploads(store.alignment())
        .into_iter()
        .map(|(path, parts)| (path, parts.iter().sum::<usize>() as u64))
        .chain([("data/twice.seg", 2000), ("data/twice-large.seg", 12 * MIB as u64)])
        .collect();
    expected.sort_unstable();
    let found: Vec<(&str, u64)> = data.iter().map(|object| (object.path.as_str(), object.size)).collect();
    check(found == expected, "only whole objects are listed, with their sizes")?;
    check(list_all(store, "nothing/").await.map_err(text)?.is_empty(), "an empty prefix")
}

async fn deletes(store: &dyn Store) -> Result<(), String> {
    let deletes = stream::iter(0..MANY).map(|i| async move { store.delete(&nth(i)).await });
    let mut deletes = std::pin::pin!(deletes.buffer_unordered(AT_A_TIME));
    while let Some(deleted) = deletes.next().await {
        deleted.map_err(text)?;
    }
    let left = list_all(store, "log/").await.map_err(text)?;
    check(
        left.len() == 1 && left.iter().all(|object| object.path == "log/a/empty"),
        "what was deleted is gone",
    )?;
    store.delete("data/large.seg").await.map_err(text)?;
    check(store.size("data/large.seg").await.map_err(text)?.is_none(), "a large object is deleted")?;
    store.tidy().await.map(drop).map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_to_any_alignment() {
        for alignment in [1, 512, 4096, 256 << 10, 5 * MIB, 8 * MIB, 16 * MIB] {
            for (path, parts) in uploads(alignment) {
                let (last, others) = parts.split_last().unwrap();
                assert!(
                    *last > 0 && others.iter().all(|len| *len > 0 && len % alignment == 0),
                    "{path} {alignment}"
                );
                assert!(parts.iter().sum::<usize>() <= 128 * MIB, "{path} {alignment}");
            }
        }
    }
}
