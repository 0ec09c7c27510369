//! ListObjectsV2 and ListMultipartUploads.

use bodley_io::store::{LIST_PAGE, Object, StoreError};
use http::Method;

use super::{Bucket, dialect};
use crate::client::{Call, Page, Refusal, Reply};
use crate::encode::unpercent;
use crate::xml::{Item, walk};

/// An upload without an end.
pub(super) struct Orphan {
    /// Below the vault's prefix.
    pub path: String,
    pub id: String,
    pub begun: jiff::Timestamp,
}

impl Bucket {
    /// A page of objects in order, as the port wants it.
    pub async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let ask = |token: Option<&str>| {
            let call = self
                .bucket_call("list", prefix, "s3:ListBucket")
                .query("list-type", "2")
                .query("encoding-type", "url")
                .query("prefix", format!("{}{prefix}", self.prefix))
                .query("max-keys", LIST_PAGE.to_string());
            match token {
                Some(token) => call.query("continuation-token", token),
                None if !after.is_empty() => call.query("start-after", format!("{}{after}", self.prefix)),
                None => call,
            }
        };
        self.client.list((prefix, after), ask, |reply| page(reply, &self.prefix)).await
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
    let mut page = Page { objects: Vec::new(), next: None };
    let (mut key, mut size) = (String::new(), None);
    let (mut encoded, mut truncated, mut is_list) = (false, false, false);
    let whole = walk(&reply.body, |path, item| match (path, item) {
        (["ListBucketResult"], Item::End) => is_list = true,
        (["ListBucketResult", name], Item::Text(text)) => match *name {
            "EncodingType" => encoded = text.trim() == "url",
            "IsTruncated" => truncated = text.trim() == "true",
            "NextContinuationToken" => page.next = Some(text.to_owned()).filter(|token| !token.is_empty()),
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
        let refusal = dialect::refusal(reply.status, &reply.headers, &reply.body);
        return Err(refusal.or_nonsense("the answer is no listing"));
    }
    page.next = page.next.filter(|_| truncated);
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
