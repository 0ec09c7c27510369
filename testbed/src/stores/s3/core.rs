//! A request's way: who asks, whether they may, what is done.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::auth;
use super::keys::Allowed;
use super::objects::bucket_of;
use super::refusal::Refusal;
use super::target::Target;
use super::world::{BucketOptions, World, WrongRegion};
use crate::stores::http::{Answer, Clock, Handler, Head, Request};

/// A request whose signature is right.
pub(super) struct Call<'a> {
    pub(super) request: &'a Request,
    pub(super) target: Target,
    pub(super) allowed: Allowed,
}

impl Call<'_> {
    pub(super) fn key(&self) -> &str {
        &self.target.key
    }
}

/// The store behind the server.
#[derive(Debug)]
pub(super) struct Core {
    world: Mutex<World>,
    pub(super) clock: Clock,
}

impl Core {
    pub(super) fn new(clock: Clock) -> Self {
        Self { world: Mutex::default(), clock }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn options_of(&self, call: &Call<'_>) -> Result<BucketOptions, Refusal> {
        Ok(bucket_of(&mut self.world(), call)?.options.clone())
    }

    fn target(&self, head: &Head) -> Target {
        Target::of(head, &self.world().settings.domains)
    }

    fn done(&self, request: &Request) -> Result<Answer, Refusal> {
        let target = self.target(&request.head);
        let find = |id: &str| self.world().keys.find(id);
        let region = |region: &str| self.judge_region(region, &request.head, &target);
        let allowed = auth::judge(request, find, self.now(), region)?;
        if !allowed.has(target.action()) {
            return Err(Refusal::denied(format!("not authorized to perform: {}", target.action())));
        }
        let call = Call { request, target, allowed };
        let payer = self.demand_payer(&call)?;
        let answer = self.dispatch(&call)?;
        Ok(if payer { answer.header("x-amz-request-charged", "requester") } else { answer })
    }

    fn dispatch(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        match call.target.operation {
            "PutObject" => self.put_object(call),
            "GetObject" | "HeadObject" => self.get_object(call),
            "DeleteObject" => self.delete_object(call),
            "ListObjectsV2" => self.list_objects(call),
            "CreateMultipartUpload" => self.create_upload(call),
            "UploadPart" => self.upload_part(call),
            "CompleteMultipartUpload" => self.complete_upload(call),
            "AbortMultipartUpload" => self.abort_upload(call),
            "ListMultipartUploads" => self.list_uploads(call),
            "ListParts" => self.list_parts(call),
            "HeadBucket" => {
                self.options_of(call)?;
                let region = self.world().settings.region.clone();
                Ok(Answer::new(200).header("x-amz-bucket-region", region))
            }
            _ => Err(Refusal::not_implemented("this request")),
        }
    }

    fn judge_region(&self, signed: &str, head: &Head, target: &Target) -> Result<(), Refusal> {
        let (region, how) = {
            let world = self.world();
            (world.settings.region.clone(), world.settings.wrong_region)
        };
        if signed == region {
            return Ok(());
        }
        let malformed = |message| Refusal::new(400, "AuthorizationHeaderMalformed", message);
        let refusal = match how {
            WrongRegion::Malformed => malformed(format!(
                "The authorization header is malformed; the region '{signed}' is wrong; expecting '{region}'"
            ))
            .element("Region", region.clone()),
            WrongRegion::Redirect => {
                let message =
                    "The bucket you are attempting to access must be addressed using the specified endpoint.";
                Refusal::new(301, "PermanentRedirect", message)
                    .element("Endpoint", format!("{}.s3.{region}.amazonaws.com", target.bucket))
                    .element("Bucket", target.bucket.clone())
            }
            WrongRegion::Temporary => {
                let query =
                    if head.raw_query.is_empty() { String::new() } else { format!("?{}", head.raw_query) };
                let location = format!("http://{}{}{query}", head.host, head.raw_path);
                let message = "Please re-send this request to the specified temporary endpoint.";
                Refusal::new(307, "TemporaryRedirect", message)
                    .element("Endpoint", head.host.clone())
                    .header("location", location)
            }
            WrongRegion::Silent => return Err(malformed("The authorization header is malformed".to_owned())),
        };
        Err(refusal.header("x-amz-bucket-region", region))
    }

    /// Whether the requester pays and knows it.
    fn demand_payer(&self, call: &Call<'_>) -> Result<bool, Refusal> {
        let bucket_pays = {
            let world = self.world();
            world.buckets.get(&call.target.bucket).is_none_or(|bucket| !bucket.options.requester_pays)
        };
        if bucket_pays {
            return Ok(false);
        }
        if call.request.head.header("x-amz-request-payer") == Some("requester") {
            return Ok(true);
        }
        Err(Refusal::denied("Access Denied: the requester pays for this bucket"))
    }
}

impl Handler for Core {
    fn operation(&self, head: &Head) -> &'static str {
        self.target(head).operation
    }

    fn answer(&self, request: &Request) -> Answer {
        let answer = self.done(request).unwrap_or_else(|refusal| refusal.answer());
        let mut answer = answer.header("x-amz-request-id", "TESTBED").header("server", "testbed");
        if request.head.method == "HEAD" {
            answer.body.clear();
        }
        answer
    }
}
