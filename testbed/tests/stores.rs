//! The strict S3, asked by hand about objects: what it does, and everything that it refuses.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::time::{Duration, SystemTime};

use bodley_testbed::iam::AwsCredentials;
use bodley_testbed::stores::client::Client;
use bodley_testbed::stores::s3::{Allowed, PutIfAbsent, Sum, WrongRegion};
use bodley_testbed::{AwsEndpoints, Iam};
use common::{World, crc32c, crc64, element, header, is, outcome};

#[test]
fn objects_come_back_as_they_went() {
    let world = World::new();
    let key = "a%20b/%C3%BC%2B%25%3D";
    let put =
        world.put(key, "0123456789").header("x-amz-checksum-crc64nvme", crc64(b"0123456789")).send().unwrap();
    assert_eq!(
        (put.status, header(&put, "x-amz-checksum-crc64nvme").to_owned()),
        (200, crc64(b"0123456789"))
    );
    let etag = header(&put, "etag").to_owned();
    assert!(etag.starts_with('"') && etag.len() == 34);
    assert_eq!(world.s3.keys("vault"), ["a b/ü+%="]);

    let got = world.get(key).send().unwrap();
    assert_eq!((got.status, got.text().as_str(), header(&got, "etag")), (200, "0123456789", &*etag));
    for (range, status, expected) in [
        ("bytes=2-4", 206, "234"),
        ("bytes=8-99", 206, "89"),
        ("bytes=-1", 206, "9"),
        ("lines=1", 200, "0123456789"),
    ] {
        let part = world.get(key).header("range", range).header("if-match", &*etag).send().unwrap();
        assert_eq!((part.status, part.text().as_str()), (status, expected), "{range}");
    }
    let part = world.get(key).header("range", "bytes=2-4").send().unwrap();
    assert_eq!((header(&part, "content-range"), header(&part, "content-length")), ("bytes 2-4/10", "3"));
    let beyond = world.get(key).header("range", "bytes=10-").send().unwrap();
    assert_eq!((beyond.status, element(&beyond, "ActualObjectSize").as_str()), (416, "10"));
    assert_eq!(outcome(world.get(key).header("if-match", "\"x\"")), is(412, "PreconditionFailed"));

    let head =
        |mode| world.admin.request("HEAD", &format!("/vault/{key}")).header("x-amz-checksum-mode", mode);
    let known = head("ENABLED").send().unwrap();
    assert_eq!((known.status, header(&known, "content-length"), known.len()), (200, "10", 0));
    assert_eq!(header(&known, "x-amz-checksum-crc64nvme"), crc64(b"0123456789"));
    assert_eq!(header(&known, "x-amz-checksum-type"), "FULL_OBJECT");
    assert_eq!(header(&head("no").send().unwrap(), "x-amz-checksum-crc64nvme"), "");
    world.set(|settings| settings.keeps_sums = false);
    assert_eq!(header(&head("ENABLED").send().unwrap(), "x-amz-checksum-crc64nvme"), "");

    assert_eq!(outcome(world.admin.request("DELETE", &format!("/vault/{key}"))), is(204, ""));
    assert_eq!(outcome(world.admin.request("DELETE", &format!("/vault/{key}"))), is(204, ""));
    assert_eq!(outcome(world.get(key)), is(404, "NoSuchKey"));
    assert_eq!(world.admin.request("HEAD", &format!("/vault/{key}")).send().unwrap().status, 404);
    assert_eq!(outcome(world.admin.request("GET", "/none/a")), is(404, "NoSuchBucket"));
    assert_eq!(outcome(world.admin.request("HEAD", "/vault")), is(200, ""));
    assert_eq!(world.admin.request("HEAD", "/none").send().unwrap().status, 404);
    let operations: Vec<_> = world.s3.log().counts().into_iter().collect();
    assert_eq!(
        operations,
        [("DeleteObject", 2), ("GetObject", 10), ("HeadBucket", 2), ("HeadObject", 4), ("PutObject", 1)]
    );
}

#[test]
fn signatures_are_computed_anew() {
    let world = World::new();
    let put = || world.put("a?x-id=PutObject&b=%2F+c&a", "body").header("x-amz-meta-a", "1  2");
    assert_eq!(outcome(put()), is(200, ""));
    let mut wrong = world.s3.admin().clone();
    wrong.secret_access_key.push('x');
    let wrong = world.client(&wrong);
    assert_eq!(outcome(wrong.request("GET", "/vault/a")), is(403, "SignatureDoesNotMatch"));
    let stranger = world.client(&AwsCredentials::random());
    assert_eq!(outcome(stranger.request("GET", "/vault/a")), is(403, "InvalidAccessKeyId"));
    let unsigned = put().unsigned("x-amz-meta-b", "2").send().unwrap();
    assert_eq!((unsigned.status, element(&unsigned, "HeadersNotSigned").as_str()), (403, "x-amz-meta-b"));
    // S3 signs the path with `=` encoded, whichever form it is sent in.
    assert_eq!(outcome(world.put("a=b", "x")), is(403, "SignatureDoesNotMatch"));
    assert_eq!(outcome(world.put("a%3Db", "x")), is(200, ""));
    let bad = |authorization: &str| {
        let answer =
            ureq::get(format!("{}/vault/a", world.s3.endpoint())).header("authorization", authorization);
        answer.config().http_status_as_error(false).build().call().unwrap().status().as_u16()
    };
    assert_eq!(
        bad("AWS4-HMAC-SHA256 Credential=a/b/c/s3/aws4_request, SignedHeaders=host, Signature=x"),
        403
    );
    assert_eq!([bad("AWS4-HMAC-SHA256 Credential=a"), bad("Bearer x")], [400, 400]);
    assert_eq!(
        ureq::get(world.s3.endpoint() + "/vault/a").call().unwrap_err().to_string(),
        "http status: 403"
    );

    assert_eq!(outcome(put().hash(&"0".repeat(64))), is(400, "XAmzContentSHA256Mismatch"));
    assert_eq!(outcome(put().hash("UNSIGNED-PAYLOAD")), is(400, "InvalidRequest"));
    assert_eq!(outcome(put().hash("STREAMING-AWS4-HMAC-SHA256-PAYLOAD")), is(501, "NotImplemented"));
}

#[test]
fn clocks_regions_and_tokens_count() {
    let world = World::new();
    let ago = |minutes: u64| SystemTime::now() - Duration::from_secs(60 * minutes);
    assert_eq!(outcome(world.put("a", "x").time(ago(14))), is(200, ""));
    let late = world.put("a", "x").time(ago(16)).send().unwrap();
    assert_eq!((late.status, element(&late, "Code").as_str()), (403, "RequestTimeTooSkewed"));
    world.s3.clock().set_wrong_by(-3600);
    let skewed = world.put("a", "x").send().unwrap();
    assert_eq!(element(&skewed, "Code"), "RequestTimeTooSkewed");
    // What a client corrects its clock by.
    let date = jiff::fmt::rfc2822::parse(header(&skewed, "date")).unwrap().timestamp();
    let behind = jiff::Timestamp::now().as_second() - date.as_second();
    assert!((3595..3605).contains(&behind), "{behind}");
    assert_eq!(outcome(world.put("a", "x").time(ago(60))), is(200, ""));
    world.s3.clock().set_wrong_by(0);

    let elsewhere = Client::new(&world.s3.endpoint(), world.s3.admin()).region("us-east-1");
    for (how, status, code, named) in [
        (WrongRegion::Malformed, 400, "AuthorizationHeaderMalformed", "eu-central-1"),
        (WrongRegion::Redirect, 301, "PermanentRedirect", "eu-central-1"),
        (WrongRegion::Temporary, 307, "TemporaryRedirect", "eu-central-1"),
        (WrongRegion::Silent, 400, "AuthorizationHeaderMalformed", ""),
    ] {
        world.set(|settings| settings.wrong_region = how);
        let answer = elsewhere.request("GET", "/vault/a").send().unwrap();
        assert_eq!((answer.status, element(&answer, "Code").as_str()), (status, code));
        assert_eq!(header(&answer, "x-amz-bucket-region"), named);
        assert_eq!(element(&answer, "Region"), if how == WrongRegion::Malformed { named } else { "" });
    }
    world.set(|settings| settings.region = "us-east-1".to_owned());
    assert_eq!(outcome(elsewhere.request("GET", "/vault/a")), is(200, ""));
    world.set(|settings| settings.region = "eu-central-1".to_owned());

    let lent = AwsCredentials::lent(Duration::from_secs(3600));
    world.s3.add_key(lent.clone(), Allowed::All);
    assert_eq!(outcome(world.client(&lent).request("GET", "/vault/a")), is(200, ""));
    let other = AwsCredentials { session_token: Some("other".to_owned()), ..lent.clone() };
    assert_eq!(outcome(world.client(&other).request("GET", "/vault/a")), is(400, "InvalidToken"));
    let without = AwsCredentials { session_token: None, ..lent.clone() };
    assert_eq!(outcome(world.client(&without).request("GET", "/vault/a")), is(400, "InvalidToken"));
    world.s3.expire_key(&lent);
    assert_eq!(outcome(world.client(&lent).request("GET", "/vault/a")), is(400, "ExpiredToken"));
}

#[test]
fn what_aws_lends_comes_in() {
    let (world, iam) = (World::new(), Iam::new());
    world.s3.trust(&iam);
    let aws = AwsEndpoints::start(&iam).unwrap();
    let answer =
        ureq::get(aws.container()).header("authorization", bodley_testbed::aws::CONTAINER_TOKEN).call();
    let lent: serde_json::Value =
        serde_json::from_str(&answer.unwrap().body_mut().read_to_string().unwrap()).unwrap();
    let text = |name: &str| lent[name].as_str().unwrap().to_owned();
    let credentials = AwsCredentials {
        access_key_id: text("AccessKeyId"),
        secret_access_key: text("SecretAccessKey"),
        session_token: Some(text("Token")),
        expires: None,
    };
    assert_eq!(outcome(world.client(&credentials).request("HEAD", "/vault")), is(200, ""));
    iam.forget_all();
    assert_eq!(world.client(&credentials).request("HEAD", "/vault").send().unwrap().status, 403);
}

#[test]
fn rights_are_those_of_the_key() {
    let world = World::new();
    world.put("there", "x").send().unwrap();
    let writer = world.client(&world.s3.key(Allowed::only(["s3:PutObject"])));
    let put = |path: &str| writer.request("PUT", path).body("x");
    assert_eq!(outcome(put("/vault/mine")), is(200, ""));
    assert_eq!(outcome(put("/vault/mine").header("x-amz-tagging", "a=b")), is(403, "AccessDenied"));
    for (method, path) in [
        ("GET", "/vault/there"),
        ("DELETE", "/vault/there"),
        ("GET", "/vault?list-type=2"),
        ("GET", "/vault?uploads"),
        ("DELETE", "/vault/there?uploadId=x"),
        ("GET", "/vault/there?uploadId=x"),
    ] {
        assert_eq!(outcome(writer.request(method, path)), is(403, "AccessDenied"), "{method} {path}");
    }
    assert_eq!(outcome(writer.request("POST", "/vault/more?uploads")), is(200, ""));

    let reader = world.client(&world.s3.key(Allowed::only(["s3:GetObject"])));
    assert_eq!(outcome(reader.request("GET", "/vault/there")), is(200, ""));
    assert_eq!(outcome(reader.request("PUT", "/vault/x").body("x")), is(403, "AccessDenied"));
    // Without the right to list nobody learns what is missing.
    assert_eq!(outcome(reader.request("GET", "/vault/none")), is(403, "AccessDenied"));
    let both = world.client(&world.s3.key(Allowed::only(["s3:GetObject", "s3:ListBucket"])));
    assert_eq!(outcome(both.request("GET", "/vault/none")), is(404, "NoSuchKey"));
    assert_eq!(outcome(both.request("GET", "/vault?list-type=2")), is(200, ""));
    assert_eq!(world.s3.keys("vault"), ["mine", "there"]);
}

#[test]
fn both_styles_of_address() {
    let world = World::new();
    world.put("a", "x").send().unwrap();
    for host in
        [format!("vault.localhost:{}", world.s3.port()), "vault.s3.eu-central-1.amazonaws.com".to_owned()]
    {
        let got = world.admin.request("GET", "/a").host(&host).send().unwrap();
        assert_eq!((got.status, got.text().as_str()), (200, "x"), "{host}");
        assert_eq!(outcome(world.admin.request("GET", "/?list-type=2").host(&host)), is(200, ""));
    }
    assert_eq!(outcome(world.admin.request("GET", "/a").host("none.localhost")), is(404, "NoSuchBucket"));
    let log = world.s3.log();
    assert_eq!((log.count("GetObject"), log.count("ListObjectsV2")), (3, 2));
}

#[test]
fn a_name_is_given_once() {
    let world = World::new();
    let put = |body: &'static str| world.put("once", body).header("if-none-match", "*");
    assert_eq!(outcome(put("first")), is(200, ""));
    let second = put("second").send().unwrap();
    assert_eq!((second.status, element(&second, "Condition").as_str()), (412, "If-None-Match"));
    assert_eq!(
        outcome(world.put("once", "x").header("if-none-match", "\"etag\"")),
        is(501, "NotImplemented")
    );
    assert_eq!(outcome(world.put("once", "x").header("if-match", "*")), is(501, "NotImplemented"));
    assert_eq!(world.kept("once"), b"first");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let race = |n: usize| {
            let draft = world.put("race", format!("{n}")).header("if-none-match", "*");
            scope.spawn(move || draft.send().unwrap().status)
        };
        let racers: Vec<_> = (0..12).map(race).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");

    world.set(|settings| settings.put_if_absent = PutIfAbsent::NotImplemented);
    assert_eq!(outcome(put("third")), is(501, "NotImplemented"));
    world.set(|settings| settings.put_if_absent = PutIfAbsent::Ignored);
    assert_eq!(outcome(put("fourth")), is(200, ""));
    assert_eq!(world.kept("once"), b"fourth");
}

#[test]
fn sums_are_compared() {
    let world = World::new();
    let body = b"some bytes".as_slice();
    let md5 = "65s3FS5JLjnVkvcZ1lBNUQ==";
    for (name, right) in [("x-amz-checksum-crc64nvme", crc64(body)), ("x-amz-checksum-crc32c", crc32c(body))]
    {
        assert_eq!(outcome(world.put("a", body).header(name, &*right)), is(200, ""));
        assert_eq!(outcome(world.put("b", "other").header(name, &*right)), is(400, "BadDigest"));
        assert_eq!(outcome(world.put("b", body).header(name, "junk")), is(400, "BadDigest"));
    }
    assert_eq!(world.s3.object("vault", "a").unwrap().sum, Some((Sum::Crc32c, crc32c(body))));
    assert_eq!(outcome(world.put("b", body).header("content-md5", md5)).0, 400);
    let two = world.put("b", body).header("x-amz-checksum-crc64nvme", crc64(body));
    assert_eq!(outcome(two.header("x-amz-checksum-crc32c", crc32c(body))), is(400, "InvalidRequest"));
    assert_eq!(outcome(world.put("b", body).header("x-amz-checksum-sha256", "x")), is(501, "NotImplemented"));
    let promised = world.put("b", body).header("x-amz-sdk-checksum-algorithm", "CRC64NVME");
    assert_eq!(outcome(promised), is(400, "InvalidRequest"));
    assert_eq!(world.s3.keys("vault"), ["a"]);
}
