//! Objects: list (<https://cloud.google.com/storage/docs/json_api/v1/objects/list>).

use bodley_io::store::{LIST_PAGE, Object, StoreError};
use http::Method;
use serde_json::Value;

use super::{Bucket, size_of};
use crate::client::{Call, Refusal, Reply};

/// Answers to one listing, at most: a store that never comes to an end is given up.
const MOST_ANSWERS: usize = 10_000;

struct Page {
    objects: Vec<Object>,
    token: Option<String>,
}

impl Bucket {
    /// A page of objects in order, as the port wants it.
    pub async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let mut found: Vec<Object> = Vec::new();
        let mut token: Option<String> = None;
        // Google may give fewer than it has, or none: only the token tells the end.
        for _ in 0..MOST_ANSWERS {
            let mut call = Call::new("list", prefix, Method::GET, String::new())
                .needs("storage.objects.list")
                .query("prefix", self.key(prefix))
                .query("maxResults", LIST_PAGE.to_string())
                .query("fields", "items(name,size),nextPageToken");
            if !after.is_empty() {
                call = call.query("startOffset", self.key(after));
            }
            if let Some(token) = &token {
                call = call.query("pageToken", token);
            }
            let reply = self.client.ask(&call, |reply| page(reply, &self.prefix).map(drop)).await?;
            let Ok(page) = page(&reply, &self.prefix) else { break };
            // The name to start from is in the listing itself.
            let fits = |object: &Object| object.path.starts_with(prefix) && object.path.as_str() > after;
            found.extend(page.objects.into_iter().filter(fits));
            if page.token.is_none() || page.token == token || found.len() >= LIST_PAGE {
                break;
            }
            token = page.token;
        }
        found.truncate(LIST_PAGE);
        Ok(found)
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
        return Err(Refusal {
            status: reply.status.as_u16(),
            // Cut on its way: worth another try.
            code: "InternalError".to_owned(),
            message: "the answer is no listing".to_owned(),
            hint: None,
        });
    };
    let object = |item: &Value| {
        let path = item.get("name")?.as_str()?.strip_prefix(prefix)?.to_owned();
        Some(Object { path, size: size_of(item)? })
    };
    let token = json.get("nextPageToken").and_then(Value::as_str).filter(|token| !token.is_empty());
    Ok(Page { objects: items.iter().filter_map(object).collect(), token: token.map(str::to_owned) })
}
