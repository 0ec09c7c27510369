//! ListObjectsV2 and ListMultipartUploads.

use bodley_io::store::{LIST_PAGE, Object, StoreError};
use http::Method;

use super::{Bucket, dialect};
use crate::client::{Call, Refusal, Reply};
use crate::encode::unpercent;
use crate::xml::{Item, walk};

/// Answers to one listing, at most: a store that never comes to an end is given up.
const MOST_ANSWERS: usize = 10_000;

/// An upload without an end.
pub(super) struct Orphan {
    /// Below the vault's prefix.
    pub path: String,
    pub id: String,
    pub begun: jiff::Timestamp,
}

#[derive(Default)]
struct Page {
    objects: Vec<Object>,
    truncated: bool,
    token: Option<String>,
}

impl Bucket {
    /// A page of objects in order, as the port wants it.
    pub async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let mut found: Vec<Object> = Vec::new();
        let mut token: Option<String> = None;
        // A store may give fewer than it has: only what it says of the end counts.
        for _ in 0..MOST_ANSWERS {
            let mut call = self
                .bucket_call("list", prefix, "s3:ListBucket")
                .query("list-type", "2")
                .query("encoding-type", "url")
                .query("prefix", format!("{}{prefix}", self.prefix))
                .query("max-keys", LIST_PAGE.to_string());
            call = match &token {
                Some(token) => call.query("continuation-token", token),
                None if !after.is_empty() => call.query("start-after", format!("{}{after}", self.prefix)),
                None => call,
            };
            let reply = self.client.ask(&call, |reply| page(reply, &self.prefix).map(drop)).await?;
            let page = page(&reply, &self.prefix).unwrap_or_default();
            let wanted = |object: &Object| object.path.starts_with(prefix) && object.path.as_str() > after;
            found.extend(page.objects.into_iter().filter(wanted));
            let stuck = page.token.is_none() || page.token == token;
            if !page.truncated || stuck || found.len() >= LIST_PAGE {
                break;
            }
            token = page.token;
        }
        found.truncate(LIST_PAGE);
        Ok(found)
    }

    fn bucket_call<'a>(&self, verb: &'static str, what: &'a str, needs: &'static str) -> Call<'a> {
        let call = Call::new(verb, what, Method::GET, String::new()).needs(needs);
        match self.options.requester_pays {
            true => call.header("x-amz-request-payer", "requester"),
            false => call,
        }
    }

    /// Uploads of segments of this vault that were never finished.
    pub async fn uploads(&self) -> Result<Vec<Orphan>, StoreError> {
        let prefix = format!("{}data/", self.prefix);
        let call = self
            .bucket_call("list uploads of", "data/", "s3:ListBucketMultipartUploads")
            .query("uploads", "")
            .query("prefix", &prefix)
            .query("max-uploads", "1000");
        let reply = self.client.send(&call).await?;
        let (mut found, mut key, mut id, mut begun) = (Vec::new(), String::new(), String::new(), None);
        walk(&reply.body, |path, item| match (path, item) {
            (["ListMultipartUploadsResult", "Upload", name], Item::Text(text)) => match *name {
                "Key" => text.clone_into(&mut key),
                "UploadId" => text.clone_into(&mut id),
                "Initiated" => begun = text.parse().ok(),
                _ => {}
            },
            (["ListMultipartUploadsResult", "Upload"], Item::End) => {
                let path = key.strip_prefix(&self.prefix).filter(|path| is_segment(path));
                if let (Some(path), Some(begun)) = (path, begun.take()) {
                    found.push(Orphan { path: path.to_owned(), id: std::mem::take(&mut id), begun });
                }
            }
            _ => {}
        });
        Ok(found)
    }
}

/// `data/<ULID>.seg`: what else lies there is not ours.
fn is_segment(path: &str) -> bool {
    let name = path.strip_prefix("data/").and_then(|name| name.strip_suffix(".seg"));
    name.is_some_and(|name| name.len() == 26 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Reads an answer. Anything that is no listing is a refusal: an empty vault must not be made of it.
fn page(reply: &Reply, prefix: &str) -> Result<Page, Refusal> {
    let mut page = Page::default();
    let (mut key, mut size, mut encoded, mut is_list) = (String::new(), None, false, false);
    let whole = walk(&reply.body, |path, item| match (path, item) {
        (["ListBucketResult"], Item::End) => is_list = true,
        (["ListBucketResult", name], Item::Text(text)) => match *name {
            "EncodingType" => encoded = text.trim() == "url",
            "IsTruncated" => page.truncated = text.trim() == "true",
            "NextContinuationToken" => page.token = Some(text.to_owned()).filter(|token| !token.is_empty()),
            _ => {}
        },
        (["ListBucketResult", "Contents", name], Item::Text(text)) => match *name {
            "Key" => text.clone_into(&mut key),
            "Size" => size = text.trim().parse().ok(),
            _ => {}
        },
        (["ListBucketResult", "Contents"], Item::End) => {
            if let Some(size) = size.take() {
                page.objects.push(Object { path: std::mem::take(&mut key), size });
            }
        }
        _ => {}
    });
    if !whole || !is_list {
        let mut refusal = dialect::refusal(reply.status, &reply.headers, &reply.body);
        if refusal.code.is_empty() {
            // Cut on its way, or an error in the shape of a success: worth another try.
            refusal.code = "InternalError".to_owned();
            refusal.message = "the answer is no listing".to_owned();
        }
        return Err(refusal);
    }
    // EncodingType may stand behind the keys.
    page.objects = page
        .objects
        .into_iter()
        .filter_map(|object| {
            // Some stores leave `+` as it is, where others mean a space.
            let keys = match encoded {
                true => [unpercent(&object.path.replace('+', " ")), unpercent(&object.path)],
                false => [object.path.clone(), object.path],
            };
            let path = keys.iter().find_map(|key| key.strip_prefix(prefix))?.to_owned();
            Some(Object { path, size: object.size })
        })
        .collect();
    Ok(page)
}
