//! List Blobs (<https://learn.microsoft.com/rest/api/storageservices/list-blobs>).

use bodley_io::store::{LIST_PAGE, Object, StoreError};
use http::Method;

use super::{Container, dialect};
use crate::client::{Call, Page, Refusal, Reply};
use crate::xml::{Item, walk};

impl Container {
    /// A page of objects in order, as the port wants it.
    pub async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let ask = |marker: Option<&str>| {
            let mut call = Call::new("list", prefix, Method::GET, String::new())
                .needs("the right to list")
                .query("restype", "container")
                .query("comp", "list")
                .query("prefix", format!("{}{prefix}", self.prefix))
                .query("maxresults", LIST_PAGE.to_string());
            if !after.is_empty() {
                // The name to start from is in the listing itself; services with older versions pass it over.
                call = call.query("startFrom", format!("{}{after}", self.prefix));
            }
            match marker {
                Some(marker) => call.query("marker", marker),
                None => call,
            }
        };
        self.client.list((prefix, after), ask, |reply| page(reply, &self.prefix)).await
    }
}

/// Reads an answer. Anything that is no listing is a refusal: an empty vault must not be made of it.
fn page(reply: &Reply, prefix: &str) -> Result<Page, Refusal> {
    let mut page = Page { objects: Vec::new(), next: None };
    let (mut name, mut size, mut is_folder, mut is_list) = (String::new(), None, false, false);
    let whole = walk(&reply.body, |path, item| match (path, item) {
        (["EnumerationResults"], Item::End) => is_list = true,
        (["EnumerationResults", "NextMarker"], Item::Text(text)) if !text.is_empty() => {
            page.next = Some(text.to_owned());
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
    Err(dialect::refusal(reply.status, &reply.headers, &reply.body).or_nonsense("the answer is no listing"))
}
