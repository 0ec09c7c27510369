//! List Blobs (<https://learn.microsoft.com/rest/api/storageservices/list-blobs>).

use bodley_io::store::{LIST_PAGE, Object, StoreError};
use http::Method;

use super::{Container, dialect};
use crate::client::{Call, Refusal, Reply};
use crate::xml::{Item, walk};

/// Answers to one listing, at most: a store that never comes to an end is given up.
const MOST_ANSWERS: usize = 10_000;

#[derive(Default)]
struct Page {
    objects: Vec<Object>,
    marker: Option<String>,
}

impl Container {
    /// A page of objects in order, as the port wants it.
    pub async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let mut found: Vec<Object> = Vec::new();
        let mut marker: Option<String> = None;
        // Azure may give fewer than it has, or none: only the marker tells the end.
        for _ in 0..MOST_ANSWERS {
            let mut call = Call::new("list", prefix, Method::GET, String::new())
                .needs("the right to list")
                .query("restype", "container")
                .query("comp", "list")
                .query("prefix", format!("{}{prefix}", self.prefix))
                .query("maxresults", LIST_PAGE.to_string());
            if !after.is_empty() {
                // Services with older versions pass it over; what is then too much is left out below.
                call = call.query("startFrom", format!("{}{after}", self.prefix));
            }
            if let Some(marker) = &marker {
                call = call.query("marker", marker);
            }
            let reply = self.client.ask(&call, |reply| page(reply, &self.prefix).map(drop)).await?;
            let page = page(&reply, &self.prefix).unwrap_or_default();
            // The name to start from is in the listing itself.
            let fits = |object: &Object| object.path.starts_with(prefix) && object.path.as_str() > after;
            found.extend(page.objects.into_iter().filter(fits));
            if page.marker.is_none() || page.marker == marker || found.len() >= LIST_PAGE {
                break;
            }
            marker = page.marker;
        }
        found.truncate(LIST_PAGE);
        Ok(found)
    }
}

/// Reads an answer. Anything that is no listing is a refusal: an empty vault must not be made of it.
fn page(reply: &Reply, prefix: &str) -> Result<Page, Refusal> {
    let mut page = Page::default();
    let (mut name, mut size, mut is_folder, mut is_list) = (String::new(), None, false, false);
    let whole = walk(&reply.body, |path, item| match (path, item) {
        (["EnumerationResults"], Item::End) => is_list = true,
        (["EnumerationResults", "NextMarker"], Item::Text(text)) if !text.is_empty() => {
            page.marker = Some(text.to_owned());
        }
        (["EnumerationResults", "Blobs", "Blob", "Name"], Item::Text(text)) => text.clone_into(&mut name),
        (["EnumerationResults", "Blobs", "Blob", "Properties", field], Item::Text(text)) => match *field {
            "Content-Length" => size = text.trim().parse().ok(),
            // Accounts with a hierarchical namespace list folders among the objects.
            "ResourceType" => is_folder = text.trim() == "directory",
            _ => {}
        },
        (["EnumerationResults", "Blobs", "Blob"], Item::End) => {
            let name = std::mem::take(&mut name);
            let path = name.strip_prefix(prefix).filter(|_| !is_folder).map(str::to_owned);
            if let (Some(path), Some(size)) = (path, size.take()) {
                page.objects.push(Object { path, size });
            }
            is_folder = false;
        }
        _ => {}
    });
    if whole && is_list {
        return Ok(page);
    }
    let mut refusal = dialect::refusal(reply.status, &reply.headers, &reply.body);
    if refusal.code.is_empty() {
        // Cut on its way: worth another try.
        refusal.code = "InternalError".to_owned();
        refusal.message = "the answer is no listing".to_owned();
    }
    Err(refusal)
}
