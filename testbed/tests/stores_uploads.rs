//! The strict S3, asked by hand about uploads, listings, locks and what is said of objects.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::time::{Duration, SystemTime};

use bodley_testbed::stores::client::{Client, Draft};
use bodley_testbed::stores::http::{Action, Answer, REPEATED_LISTING, Rule, SHORT_LISTING};
use bodley_testbed::stores::s3::{Allowed, BucketOptions, PutIfAbsent, error, error_in_200};
use common::{MIB, World, crc32c, crc64, element, elements, header, is, outcome};

struct Upload<'a> {
    world: &'a World,
    id: String,
}

impl<'a> Upload<'a> {
    fn new(world: &'a World, headers: &[(&str, &str)]) -> Self {
        let request = world.admin.request("POST", "/vault/large?uploads=");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, *value));
        let answer = request.send().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = form_urlencoded::byte_serialize(element(&answer, "UploadId").as_bytes()).collect();
        Self { world, id }
    }

    fn part(&self, number: u32, body: &bytes::Bytes) -> Draft<'a> {
        self.world.put(&format!("large?partNumber={number}&uploadId={}", self.id), body.clone())
    }

    /// Uploads it and gives its ETag.
    fn sent(&self, number: u32, body: &bytes::Bytes) -> String {
        let answer = self.part(number, body).send().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        header(&answer, "etag").to_owned()
    }

    fn complete(&self, parts: &[(u32, &str)]) -> Draft<'a> {
        let part = |(number, etag): &(u32, &str)| {
            let etag = etag.replace('"', "&quot;");
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        };
        let parts: String = parts.iter().map(part).collect();
        let body = format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
        );
        self.world.admin.request("POST", &format!("/vault/large?uploadId={}", self.id)).body(body)
    }
}

fn body(mebibytes: usize, byte: u8) -> bytes::Bytes {
    vec![byte; mebibytes * MIB].into()
}

#[test]
fn parts_become_an_object() {
    let world = World::new();
    let full = [("x-amz-checksum-algorithm", "CRC64NVME"), ("x-amz-checksum-type", "FULL_OBJECT")];
    let upload = Upload::new(&world, &full);
    let bodies = [body(5, 1), body(6, 2), bytes::Bytes::from("end")];
    assert_eq!(outcome(upload.part(1, &bodies[0])), is(400, "InvalidRequest"), "the sum is missing");
    let wrong = upload.part(1, &bodies[0]).header("x-amz-checksum-crc32c", crc32c(&bodies[0]));
    assert_eq!(outcome(wrong), is(400, "InvalidRequest"), "another kind of sum");
    let damaged = upload.part(1, &bodies[0]).header("x-amz-checksum-crc64nvme", crc64(&bodies[1]));
    assert_eq!(outcome(damaged), is(400, "BadDigest"));
    let mut etags = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let part = upload
            .part(number as u32 + 1, body)
            .header("x-amz-checksum-crc64nvme", crc64(body))
            .send()
            .unwrap();
        assert_eq!(header(&part, "x-amz-checksum-crc64nvme"), crc64(body));
        etags.push((number as u32 + 1, header(&part, "etag").to_owned()));
    }
    let parts: Vec<(u32, &str)> = etags.iter().map(|(number, etag)| (*number, etag.as_str())).collect();
    let listed = world.get(&format!("large?uploadId={}", upload.id)).send().unwrap();
    assert_eq!(elements(&listed, "Size"), ["5242880", "6291456", "3"]);

    let bad = |draft: Draft<'_>, expected: (u16, &str)| {
        assert_eq!(outcome(draft), is(expected.0, expected.1));
        assert!(world.s3.keys("vault").is_empty());
    };
    let name = "x-amz-checksum-crc64nvme";
    bad(upload.complete(&[parts[1], parts[0], parts[2]]), (400, "InvalidPartOrder"));
    bad(upload.complete(&[parts[0], (2, "\"other\""), parts[2]]), (400, "InvalidPart"));
    bad(upload.complete(&[parts[0], (7, parts[1].1)]), (400, "InvalidPart"));
    bad(upload.complete(&[]), (400, "MalformedXML"));
    bad(upload.complete(&parts).body("<CompleteMultipartUpload><Part>"), (400, "MalformedXML"));
    bad(upload.complete(&parts).header(name, crc64(b"other")), (400, "BadDigest"));
    bad(upload.complete(&parts).header("x-amz-mp-object-size", "7"), (400, "InvalidRequest"));
    bad(upload.complete(&parts[..2]).header("x-amz-checksum-crc32c", "x"), (400, "InvalidRequest"));
    world.set(|settings| settings.equal_parts = true);
    bad(upload.complete(&parts), (400, "InvalidPart"));
    world.set(|settings| settings.equal_parts = false);

    let whole = bodies.concat();
    let done =
        upload.complete(&parts).header(name, crc64(&whole)).header("if-none-match", "*").send().unwrap();
    assert_eq!((done.status, element(&done, "ChecksumCRC64NVME")), (200, crc64(&whole)), "{}", done.text());
    assert!(element(&done, "ETag").ends_with("-3&quot;"), "{}", done.text());
    assert!(world.kept("large") == whole && world.s3.uploads("vault").is_empty());
    let over =
        world.get("large").header("range", format!("bytes={}-{}", 5 * MIB - 2, 11 * MIB + 1)).send().unwrap();
    assert!(over.body.concat() == whole[5 * MIB - 2..=11 * MIB + 1]);
    assert_eq!(outcome(upload.complete(&parts)), is(404, "NoSuchUpload"));
}

#[test]
fn uploads_have_their_rules() {
    let world = World::new();
    world.put("large", "there").send().unwrap();
    let upload = Upload::new(&world, &[]);
    let (small, end) = (bytes::Bytes::from("small"), bytes::Bytes::from("end"));
    let (one, two) = (upload.sent(1, &small), upload.sent(2, &end));
    let parts = [(1, one.as_str()), (2, two.as_str())];
    let refused = upload.complete(&parts).send().unwrap();
    assert_eq!(
        (element(&refused, "Code").as_str(), element(&refused, "PartNumber").as_str()),
        ("EntityTooSmall", "1")
    );
    for number in [0, 10_001] {
        assert_eq!(outcome(upload.part(number, &small)), is(400, "InvalidArgument"));
    }
    let absent = upload.complete(&parts[..1]).header("if-none-match", "*");
    assert_eq!(outcome(absent.clone()), is(412, "PreconditionFailed"));
    assert_eq!(world.kept("large"), b"there");
    world.set(|settings| settings.complete_if_absent = PutIfAbsent::Ignored);
    assert_eq!(outcome(absent), is(200, ""));
    assert_eq!(world.kept("large"), b"small");

    let composite =
        world.admin.request("POST", "/vault/large?uploads").header("x-amz-checksum-algorithm", "CRC32C");
    assert_eq!(outcome(composite), is(501, "NotImplemented"));
    let (first, second) = (Upload::new(&world, &[]), Upload::new(&world, &[]));
    world.s3.age_uploads("vault", 2 * 86_400);
    let third = Upload::new(&world, &[]);
    let list = |query: &str| world.admin.request("GET", &format!("/vault?uploads&{query}")).send().unwrap();
    let all = list("prefix=lar&encoding-type=url");
    assert_eq!((elements(&all, "UploadId").len(), element(&all, "IsTruncated").as_str()), (3, "false"));
    let old = jiff::Timestamp::now().as_second() - 86_400;
    let begun: Vec<jiff::Timestamp> =
        elements(&all, "Initiated").iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(begun.iter().filter(|at| at.as_second() < old).count(), 2);
    let page = list("max-uploads=2");
    assert_eq!((elements(&page, "UploadId").len(), element(&page, "IsTruncated").as_str()), (2, "true"));
    let marker: String =
        form_urlencoded::byte_serialize(element(&page, "NextUploadIdMarker").as_bytes()).collect();
    assert_eq!(elements(&list(&format!("key-marker=large&upload-id-marker={marker}")), "UploadId").len(), 1);
    assert!(elements(&list("prefix=other"), "UploadId").is_empty());
    for upload in [&first, &second, &third] {
        let abort = world.admin.request("DELETE", &format!("/vault/large?uploadId={}", upload.id));
        assert_eq!(outcome(abort.clone()), is(204, ""));
        assert_eq!(outcome(abort), is(404, "NoSuchUpload"));
    }
    assert_eq!(outcome(first.part(1, &small)), is(404, "NoSuchUpload"));
}

#[test]
fn listings_are_pages() {
    let world = World::new();
    let keys: Vec<String> = (0..25).map(|n| format!("l/{n:02} &")).collect();
    keys.iter().for_each(|key| world.s3.plant("vault", key, "x"));
    world.s3.plant("vault", "z", "x");
    world.set(|settings| settings.page = 10);
    let list =
        |query: &str| world.admin.request("GET", &format!("/vault?list-type=2&{query}")).send().unwrap();
    let first = list("prefix=l/&encoding-type=url&start-after=l/02%20%26");
    assert_eq!(
        (element(&first, "EncodingType").as_str(), element(&first, "KeyCount").as_str()),
        ("url", "10")
    );
    assert_eq!(elements(&first, "Key")[0], "l/03+%26");
    let mut seen = elements(&first, "Key");
    let mut answer = first;
    while element(&answer, "IsTruncated") == "true" {
        let token: String =
            form_urlencoded::byte_serialize(element(&answer, "NextContinuationToken").as_bytes()).collect();
        assert_eq!(
            list(&format!("prefix=x&continuation-token={token}")).status,
            400,
            "it is of another prefix"
        );
        answer = list(&format!("prefix=l/&encoding-type=url&continuation-token={token}"));
        seen.extend(elements(&answer, "Key"));
    }
    assert_eq!((seen.len(), seen.last().unwrap().as_str()), (22, "l/24+%26"));
    assert_eq!(elements(&list("max-keys=2"), "Key"), ["l/00 &amp;", "l/01 &amp;"]);
    world.set(|settings| settings.url_encoding = false);
    let plain = list("max-keys=1&encoding-type=url");
    assert_eq!(
        (element(&plain, "EncodingType").as_str(), elements(&plain, "Key")),
        ("", vec!["l/00 &amp;".into()])
    );
    assert_eq!(list("delimiter=/").status, 501);
    assert_eq!(list("encoding-type=base64").status, 400);

    let faults = world.s3.faults();
    let short = faults.add(Rule::on("ListObjectsV2", Action::Twist(SHORT_LISTING)));
    let half = list("prefix=l/");
    assert_eq!((elements(&half, "Key").len(), element(&half, "IsTruncated").as_str()), (5, "true"));
    faults.remove(short);
    faults.add(Rule::on("ListObjectsV2", Action::Twist(REPEATED_LISTING)));
    let again = elements(&list("prefix=l/&start-after=l/04%20%26&max-keys=3"), "Key");
    let numbers: Vec<_> = again.iter().map(|key| &key[2..4]).collect();
    assert_eq!(numbers, ["03", "04", "05", "06", "05", "06", "07"]);
}

#[test]
fn what_is_said_of_objects_is_kept() {
    let world = World::new();
    let said = [
        ("x-amz-storage-class", "GLACIER_IR"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:key"),
        ("x-amz-tagging", "team=a%20b&x=y"),
        ("x-amz-meta-made-by", "test"),
    ];
    let with = |headers: &[(&str, &str)]| {
        headers.iter().fold(world.put("a", "x"), |put, (name, value)| put.header(name, *value))
    };
    assert_eq!(outcome(with(&said)), is(200, ""));
    let kept = world.s3.object("vault", "a").unwrap().attributes;
    assert!(said.iter().all(|(name, value)| kept.header(name) == Some(value)), "{kept:?}");
    let head = world.admin.request("HEAD", "/vault/a").send().unwrap();
    assert_eq!(header(&head, "x-amz-tagging-count"), "2");
    assert_eq!(header(&head, "x-amz-server-side-encryption"), "aws:kms");

    assert_eq!(outcome(with(&[("x-amz-storage-class", "COLD")])), is(400, "InvalidStorageClass"));
    assert_eq!(outcome(with(&[("x-amz-server-side-encryption", "ROT13")])).0, 400);
    assert_eq!(outcome(with(&said[2..3])), is(400, "InvalidArgument"));
    assert_eq!(outcome(with(&[("x-amz-tagging", "a=1&a=2")])), is(400, "InvalidTag"));
    let many: String = (0..11).map(|n| format!("{n}=x&")).collect();
    assert_eq!(outcome(with(&[("x-amz-tagging", many.trim_end_matches('&'))])).0, 400);
    world.put("cold", "x").header("x-amz-storage-class", "DEEP_ARCHIVE").send().unwrap();
    assert_eq!(outcome(world.get("cold")), is(403, "InvalidObjectState"));
    assert_eq!(world.admin.request("HEAD", "/vault/cold").send().unwrap().status, 200);

    world.s3.make_bucket("paid", BucketOptions { requester_pays: true, ..BucketOptions::default() });
    let put = || world.admin.request("PUT", "/paid/a").body("x");
    assert_eq!(outcome(put()), is(403, "AccessDenied"));
    let paid = put().header("x-amz-request-payer", "requester").send().unwrap();
    assert_eq!((paid.status, header(&paid, "x-amz-request-charged")), (200, "requester"));
    let chunked = world.admin.request("PUT", "/vault/a").unsigned("transfer-encoding", "chunked");
    assert_eq!(outcome(chunked), is(501, "NotImplemented"));
    assert_eq!(
        outcome(world.put("a", "x").header("x-amz-copy-source", "/vault/b")),
        is(501, "NotImplemented")
    );
    assert_eq!(outcome(world.put(&"k".repeat(1025), "x")), is(400, "KeyTooLongError"));
}

#[test]
fn locked_objects_stay() {
    let world = World::new();
    let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24))
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let put = |bucket: &str, until: &str| {
        let put = world.admin.request("PUT", &format!("/{bucket}/a")).body("x");
        put.header("x-amz-object-lock-mode", "COMPLIANCE")
            .header("x-amz-object-lock-retain-until-date", until)
    };
    let sum = crc64(b"x");
    let name = "x-amz-checksum-crc64nvme";
    assert_eq!(
        outcome(put("vault", &until).header(name, &*sum)),
        is(400, "InvalidRequest"),
        "the bucket cannot"
    );
    world.s3.make_bucket("locked", BucketOptions { object_lock: true, ..BucketOptions::default() });
    assert_eq!(outcome(put("locked", &until)), is(400, "InvalidRequest"), "without a sum");
    assert_eq!(
        outcome(put("locked", "2020-01-01T00:00:00Z").header(name, &*sum)),
        is(400, "InvalidArgument")
    );
    let half =
        world.admin.request("PUT", "/locked/a").body("x").header("x-amz-object-lock-mode", "GOVERNANCE");
    assert_eq!(outcome(half), is(400, "InvalidArgument"));
    assert_eq!(outcome(put("locked", &until).header(name, &*sum)), is(200, ""));
    let head = |client: &Client| client.request("HEAD", "/locked/a").send().unwrap();
    let seen = head(&world.admin);
    assert_eq!(header(&seen, "x-amz-object-lock-mode"), "COMPLIANCE");
    assert_eq!(header(&seen, "x-amz-object-lock-retain-until-date").replace(".000Z", "Z"), until);
    let unknowing = world.client(&world.s3.key(Allowed::only(["s3:GetObject"])));
    assert_eq!(header(&head(&unknowing), "x-amz-object-lock-mode"), "");
    let delete = || world.admin.request("DELETE", "/locked/a");
    assert_eq!(outcome(delete()), is(403, "AccessDenied"));
    assert_eq!(outcome(world.admin.request("PUT", "/locked/a").body("y")), is(403, "AccessDenied"));
    let may_not = world.client(&world.s3.key(Allowed::only(["s3:PutObject"])));
    let put = may_not.request("PUT", "/locked/b").body("x").header(name, &*sum);
    let put = put
        .header("x-amz-object-lock-mode", "COMPLIANCE")
        .header("x-amz-object-lock-retain-until-date", &*until);
    assert_eq!(outcome(put), is(403, "AccessDenied"));
    world.s3.clock().set_wrong_by(2 * 86_400);
    let later = SystemTime::now() + Duration::from_secs(2 * 86_400);
    assert_eq!(outcome(delete().time(later)), is(204, ""));
    world.s3.clock().set_wrong_by(0);

    let default_retention = Some(("GOVERNANCE".to_owned(), 7));
    world
        .s3
        .make_bucket("locked", BucketOptions { object_lock: true, default_retention, requester_pays: false });
    assert_eq!(outcome(world.admin.request("PUT", "/locked/c").body("x")), is(400, "InvalidRequest"));
    assert_eq!(outcome(world.admin.request("PUT", "/locked/c").body("x").header(name, &*sum)), is(200, ""));
    let retention = world.s3.object("locked", "c").unwrap().attributes.retention.unwrap();
    let hours = (retention.until.as_second() - jiff::Timestamp::now().as_second() + 60) / 3600;
    assert_eq!((retention.mode.as_str(), hours), ("GOVERNANCE", 7 * 24));
}

#[test]
fn faults_speak_as_s3_does() {
    let world = World::new();
    let faults = world.s3.faults();
    faults.add(Rule::on("PutObject", Action::Answer(error(503, "SlowDown"))).times(1));
    assert_eq!(outcome(world.put("a", "x")), is(503, "SlowDown"));
    assert!(world.s3.keys("vault").is_empty());
    faults.add(Rule::on("PutObject", Action::DoThenCut).times(1));
    world.put("a", "x").header("if-none-match", "*").send().unwrap_err();
    // The retry meets its own first attempt.
    assert_eq!(outcome(world.put("a", "x").header("if-none-match", "*")), is(412, "PreconditionFailed"));
    faults.clear();

    let upload = Upload::new(&world, &[]);
    let etag = upload.sent(1, &bytes::Bytes::from("x"));
    faults.add(Rule::on("CompleteMultipartUpload", Action::Answer(error_in_200("InternalError"))).times(1));
    let blank = |answer: &mut Answer| answer.body.insert(0, "   \n ".into());
    faults.add(Rule::on("CompleteMultipartUpload", Action::edit(blank)));
    let complete = upload.complete(&[(1, etag.as_str())]);
    assert_eq!(outcome(complete.clone()), is(200, "InternalError"));
    assert_eq!(world.s3.uploads("vault").len(), 1);
    let done = complete.send().unwrap();
    assert!(done.text().starts_with("   \n <?xml") && done.text().contains("CompleteMultipartUploadResult"));
    assert_eq!(world.kept("large"), b"x");
    world.s3.plant("vault", "large", "damaged");
    assert_eq!(world.s3.object("vault", "large").unwrap().crc64, crc_fast::crc64_nvme(b"x"));
    world.s3.remove("vault", "large");
    assert_eq!(world.s3.keys("vault"), ["a"]);
}
