//! SeaweedFS, and Amazon's own client at it and at the strict S3: two opinions of what S3 is.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use bodley_testbed::pki::Leaf;
use bodley_testbed::stores::client::Client;
use bodley_testbed::stores::s3::BucketOptions;
use bodley_testbed::stores::{S3, SeaweedFs, boto3};
use bodley_testbed::{Pki, iam::AwsCredentials};

#[test]
fn boto3_is_content_with_the_strict_store() {
    let s3 = S3::start().unwrap();
    s3.make_bucket("vault", BucketOptions::default());
    let lent = AwsCredentials::lent(std::time::Duration::from_secs(600));
    s3.add_key(lent.clone(), bodley_testbed::stores::s3::Allowed::All);
    boto3::check(&s3.endpoint(), &lent, "vault", None).unwrap();
    assert_eq!(s3.keys("vault"), ["a/b c+d&e=ü"]);
    assert_eq!((s3.log().count("UploadPart"), s3.log().count("Other")), (4, 0));
}

#[test]
fn boto3_is_content_over_tls_without_hashes() {
    let s3 = S3::start_tls(Leaf::Server).unwrap();
    s3.make_bucket("vault", BucketOptions::default());
    let pki = Pki::ensure().unwrap();
    boto3::check(&s3.endpoint(), s3.admin(), "vault", Some(&pki.ca())).unwrap();
    let unsigned = |record: &bodley_testbed::stores::http::Record| {
        record.header("x-amz-content-sha256") == Some("UNSIGNED-PAYLOAD")
    };
    assert!(s3.log().of("UploadPart").iter().all(unsigned));
    let error = boto3::check(&s3.endpoint(), s3.admin(), "vault", Some(&pki.unknown_ca())).unwrap_err();
    assert!(error.to_string().contains("CERTIFICATE_VERIFY_FAILED"), "{error}");
}

#[test]
fn seaweedfs_starts_and_answers() {
    let weed = SeaweedFs::start().unwrap();
    weed.make_bucket("vault").unwrap();
    boto3::check(&weed.endpoint(), weed.admin(), "vault", None).unwrap();

    let status = |draft: bodley_testbed::stores::client::Draft<'_>| draft.send().unwrap().status;
    let reader = Client::new(&weed.endpoint(), weed.reader());
    weed.client().request("PUT", "/vault/x").body("x").send().unwrap();
    assert_eq!(reader.request("GET", "/vault/x").send().unwrap().text(), "x");
    assert_eq!(status(reader.request("GET", "/vault?list-type=2")), 200);
    assert_eq!(status(reader.request("PUT", "/vault/x").body("y")), 403);
    assert_eq!(status(reader.request("DELETE", "/vault/x")), 403);

    weed.make_locking_bucket("locked").unwrap();
    let client = weed.client();
    let put = client.request("PUT", "/locked/a").body("x").header("x-amz-object-lock-mode", "COMPLIANCE");
    let put = put.header("x-amz-object-lock-retain-until-date", "2049-01-01T00:00:00Z");
    assert_eq!(status(put.header("content-md5", "nU5NBI6axjGxsZ7Vwe8fWg==")), 400, "a wrong MD5");
}
