//! Objects: list (<https://cloud.google.com/storage/docs/json_api/v1/objects/list>).

use bodley_io::store::{LIST_PAGE, Object, StoreError};
use http::Method;
use serde_json::Value;

use super::{Bucket, size_of};
use crate::client::{Call, Page, Refusal, Reply};

impl Bucket {
    /// A page of objects in order, as the port wants it.
    pub async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let ask = |token: Option<&str>| {
            let mut call = Call::new("list", prefix, Method::GET, String::new())
                .needs("storage.objects.list")
                .query("prefix", self.key(prefix))
                .query("maxResults", LIST_PAGE.to_string())
                .query("fields", "items(name,size),nextPageToken");
            if !after.is_empty() {
                // The name to start from is in the listing itself.
                call = call.query("startOffset", self.key(after));
            }
            match token {
                Some(token) => call.query("pageToken", token),
                None => call,
            }
        };
        self.client.list((prefix, after), ask, |reply| page(reply, &self.prefix)).await
    }
}

/// Reads an answer. Anything that is no listing is a refusal: an empty vault must not be made of it.
fn page(reply: &Reply, prefix: &str) -> Result<Page, Refusal> {
    let json: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let items = match json.get("items") {
        // Google leaves out what is empty.
        None if json.is_object() => Some(&[][..]),
        items => items.and_then(Value::as_array).map(Vec::as_slice),
    };
    let Some(items) = items else {
        return Err(reply.nonsense("the answer is no listing"));
    };
    let object = |item: &Value| {
        let path = item.get("name")?.as_str()?.strip_prefix(prefix)?.to_owned();
        Some(Object { path, size: size_of(item)? })
    };
    let token = json.get("nextPageToken").and_then(Value::as_str).filter(|token| !token.is_empty());
    Ok(Page { objects: items.iter().filter_map(object).collect(), next: token.map(str::to_owned) })
}
