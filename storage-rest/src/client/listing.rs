//! A listing page by page, whatever a store calls its pages.

use bodley_io::store::{LIST_PAGE, Object, StoreError};

use super::{Call, Client, Dialect, Refusal, Reply};

/// Answers to one listing, at most: a store that never comes to an end is given up.
const MOST_ANSWERS: usize = 10_000;

/// One answer. Its objects are named by their paths in the vault.
pub(crate) struct Page {
    pub objects: Vec<Object>,
    /// What to show for the next one; `None`: there is none.
    pub next: Option<String>,
}

impl<D: Dialect> Client<D> {
    /// Up to [`LIST_PAGE`] objects whose paths begin with `prefix` and sort after `after`: `ask` makes the request for a page, `read` reads an
    /// answer. A store may give fewer than it has, or none, or what was not asked for: only what it says of the next page tells the end.
    pub async fn list<'c>(
        &self,
        (prefix, after): (&str, &str),
        ask: impl Fn(Option<&str>) -> Call<'c> + Send + Sync,
        read: impl Fn(&Reply) -> Result<Page, Refusal> + Send + Sync,
    ) -> Result<Vec<Object>, StoreError> {
        let mut found: Vec<Object> = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..MOST_ANSWERS {
            let page = self.read_answer(&ask(next.as_deref()), &read).await?;
            let fits = |object: &Object| object.path.starts_with(prefix) && object.path.as_str() > after;
            found.extend(page.objects.into_iter().filter(fits));
            if page.next.is_none() || page.next == next || found.len() >= LIST_PAGE {
                break;
            }
            next = page.next;
        }
        found.truncate(LIST_PAGE);
        Ok(found)
    }
}
