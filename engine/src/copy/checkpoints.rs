//! Checkpoints come last: they are a cache of the log, and what goes wrong with them costs the copy's readers time, nothing else.

use std::collections::{HashMap, HashSet};

use bodley_io::store::{StoreError, list_all};
use futures_util::stream::{self, StreamExt};

use super::courier::{Courier, Fate, Tally};
use crate::error::EngineError;
use crate::report::Report;
use crate::vault::VaultError;
use crate::vault::checkpoint::{Checkpoint, FOLDER, MAX_CHECKPOINT, seq_of_path};
use crate::vault::log::Vault;

/// Pages under way at a time.
const PAGES: usize = 8;

/// Copies the checkpoints of commits up to `reached` that belong to the log, whose digests are given.
pub(super) async fn carry(
    from: &Vault,
    courier: &Courier,
    (digests, reached): (&HashMap<u64, String>, u64),
    report: &mut Report,
) {
    let mut tally = Tally::default();
    let mut carrier = Carrier { from, courier, digests, pages: HashSet::new(), tally: &mut tally };
    if let Err(error) = carrier.all(reached, &mut report.notes).await {
        report
            .notes
            .push(format!("not all checkpoints could be copied, so the copy opens more slowly: {error}"));
    }
    if let Some(copied) = &mut report.copied {
        tally.add_to(copied);
    }
}

struct Carrier<'a> {
    from: &'a Vault,
    courier: &'a Courier,
    digests: &'a HashMap<u64, String>,
    /// Ids of pages that are there: checkpoints take them over from one another.
    pages: HashSet<String>,
    tally: &'a mut Tally,
}

impl Carrier<'_> {
    async fn all(&mut self, reached: u64, notes: &mut Vec<String>) -> Result<(), EngineError> {
        let there = list_all(&**self.courier.target(), FOLDER).await?;
        let there: HashMap<&str, u64> =
            there.iter().map(|object| (object.path.as_str(), object.size)).collect();
        for object in list_all(&**self.courier.source(), FOLDER).await? {
            let wanted = seq_of_path(&object.path).filter(|seq| *seq <= reached);
            let Some(digest) = wanted.and_then(|seq| self.digests.get(&seq)) else { continue };
            if !self.tally.skip_if(there.get(object.path.as_str()) == Some(&object.size), object.size) {
                continue;
            }
            match self.checkpoint(&object.path, digest).await {
                Err(EngineError::Vault(
                    error @ (VaultError::Damaged { .. } | VaultError::Unsupported(_)),
                )) => {
                    notes.push(format!("{} was not copied: {error}", object.path));
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn checkpoint(&mut self, path: &str, digest: &str) -> Result<(), EngineError> {
        let bytes = match self.courier.source().get(path, MAX_CHECKPOINT).await {
            Err(StoreError::NotFound { .. }) => {
                return Err(VaultError::damaged(path, "it is missing".into()).into());
            }
            result => result?,
        };
        let (checkpoint, understood) = Checkpoint::decode(path, &bytes)?;
        if checkpoint.digest != digest || checkpoint.vault_sha256 != self.from.identity_sha256() {
            return Err(VaultError::damaged(path, "it does not go with the log".into()).into());
        }
        if !understood {
            let what = format!("{path} holds what this version does not know");
            return Err(VaultError::Unsupported(what).into());
        }
        let new: Vec<_> = checkpoint.tables().filter(|page| !self.pages.contains(&page.id)).collect();
        let work = new.iter().map(|page| page.bytes).fold(bytes.len() as u64, u64::saturating_add);
        let courier = self.courier;
        courier.progress().plan(0, work);
        let carried = stream::iter(new).map(|page| async move { (page, courier.page(page).await) });
        let carried: Vec<_> = carried.buffer_unordered(PAGES).collect().await;
        for (page, fate) in carried {
            self.count(fate?)?;
            self.pages.insert(page.id.clone());
        }
        let fate = self.courier.put(path.to_owned(), bytes).await?;
        self.count(fate)
    }

    fn count(&mut self, fate: Fate) -> Result<(), EngineError> {
        match self.tally.count(fate) {
            None => Ok(()),
            Some(trouble) => Err(trouble.into_error().into()),
        }
    }
}
