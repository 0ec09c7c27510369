//! The OAuth provider against a token endpoint that behaves well or badly.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bodley_io::{Secret, Token, TokenError, TokenProvider};
use bodley_storage_rest::{OAuthOptions, OAuthTokens};
use common::{Asked, Fake, MARKER, Reply, reply, tls, until};

fn options(endpoint: &str) -> OAuthOptions {
    OAuthOptions {
        retry_backoff: Duration::from_millis(5),
        retry_backoff_max: Duration::from_millis(200),
        ..OAuthOptions::new(format!("{endpoint}/token"), "bodley", Secret::new(format!("{MARKER}+/ 1")))
    }
}

async fn start(handler: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> (Fake, OAuthOptions) {
    let fake = Fake::start(handler).await;
    let options = options(&fake.url);
    (fake, options)
}

fn tokens(options: OAuthOptions) -> OAuthTokens {
    OAuthTokens::new(options, tls()).unwrap()
}

/// One try; an error must not show the secret in any form.
async fn outcome(tokens: &OAuthTokens) -> Result<Token, TokenError> {
    let outcome = tokens.token("broker").await;
    let shown = format!(
        "{tokens:?} {outcome:?} {}",
        outcome.as_ref().map_or_else(|e| e.to_string(), |_| String::new())
    );
    for secret in [MARKER, "Ym9kbGV5", "aHVudGVyM"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    outcome
}

fn granted(number: usize, seconds: f64) -> Reply {
    reply(200, format!(r#"{{"access_token":"token-{number}","token_type":"Bearer","expires_in":{seconds}}}"#))
}

#[tokio::test]
async fn asks_as_kafka_does_and_shares_the_token() {
    let (fake, mut options) = start(|n, _| granted(n, 3600.0)).await;
    options.scope = Some("kafka read:all".to_owned());
    let tokens = Arc::new(tokens(options));
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let tokens = tokens.clone();
        crowd.spawn(async move { tokens.token("broker").await.unwrap() });
    }
    let all = crowd.join_all().await;
    assert!(all.iter().all(|token| token.text.expose() == "token-0"));
    let left = all[0].expires.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3590) && left <= Duration::from_secs(3600), "{left:?}");
    let asked = fake.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line, "POST /token");
    assert_eq!(asked[0].body, "grant_type=client_credentials&scope=kafka+read%3Aall");
    assert_eq!(asked[0].header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(asked[0].header("accept"), "application/json");
    assert_eq!(asked[0].header("authorization"), "Basic Ym9kbGV5Omh1bnRlcjIrLyAx"); // bodley:hunter2+/ 1
}

#[tokio::test]
async fn url_encoding_is_an_option() {
    let (fake, mut options) = start(|n, _| granted(n, 3600.0)).await;
    options.url_encode = true;
    outcome(&tokens(options)).await.unwrap();
    // bodley:hunter2%2B%2F+1
    assert_eq!(fake.asked()[0].header("authorization"), "Basic Ym9kbGV5Omh1bnRlcjIlMkIlMkYrMQ==");
}

#[tokio::test]
async fn is_renewed_at_the_factor_before_its_end() {
    let (fake, mut options) = start(|n, _| granted(n, 8.0)).await;
    options.refresh_factor = 0.5;
    let tokens = tokens(options);
    assert_eq!(outcome(&tokens).await.unwrap().text.expose(), "token-0");
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert_eq!(outcome(&tokens).await.unwrap().text.expose(), "token-0");
    assert_eq!(fake.asked().len(), 1, "too early");
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert_eq!(outcome(&tokens).await.unwrap().text.expose(), "token-0", "nobody waits for the renewal");
    until("renewed", async || outcome(&tokens).await.unwrap().text.expose() == "token-1").await;
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn the_buffer_moves_the_renewal_forward() {
    let (fake, mut options) = start(|n, _| granted(n, 100.0)).await;
    options.refresh_buffer = Duration::from_millis(99_900);
    let tokens = tokens(options);
    outcome(&tokens).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    outcome(&tokens).await.unwrap();
    until("renewed", async || fake.asked().len() == 2).await;
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_token_to_its_end() {
    let (_fake, mut options) =
        start(|n, _| if n == 0 { granted(n, 8.0) } else { reply(403, r#"{"error":"access_denied"}"#) }).await;
    options.refresh_factor = 0.5;
    let tokens = tokens(options);
    outcome(&tokens).await.unwrap();
    tokio::time::sleep(Duration::from_millis(4200)).await;
    for _ in 0..3 {
        assert_eq!(outcome(&tokens).await.unwrap().text.expose(), "token-0");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(3700)).await;
    let error = outcome(&tokens).await.unwrap_err();
    assert!(error.what.contains("access_denied"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_final_and_says_what_the_server_said() {
    for status in [400, 401, 403] {
        let body = format!(
            r#"{{"error":"invalid_client","error_description":"Bad secret {MARKER}+/ 1\r\nfor you"}}"#
        );
        let (fake, options) = start(move |_, _| reply(status, body.clone())).await;
        let url = options.endpoint.clone();
        let error = outcome(&tokens(options)).await.unwrap_err();
        assert!(!error.passing);
        let want = format!("the token endpoint {url} refused the client bodley (HTTP {status} ");
        assert!(error.what.starts_with(&want), "{error}");
        assert!(error.what.ends_with(": invalid_client: Bad secret …  for you)"), "{error}");
        assert_eq!(fake.asked().len(), 1);
    }
}

#[tokio::test]
async fn overload_is_tried_again_within_its_time() {
    for status in [500, 503, 429] {
        let (fake, mut options) =
            start(move |n, _| if n < 2 { reply(status, "") } else { granted(n, 60.0) }).await;
        options.retry_backoff_max = Duration::from_secs(20);
        assert_eq!(outcome(&tokens(options)).await.unwrap().text.expose(), "token-2");
        assert_eq!(fake.asked().len(), 3);
    }
    let (fake, mut options) = start(|_, _| reply(500, "")).await;
    options.retry_backoff_max = Duration::from_secs(2);
    let error = outcome(&tokens(options)).await.unwrap_err();
    assert!(error.passing && error.what.contains("is not able to answer (HTTP 500"), "{error}");
    assert!((3..120).contains(&fake.asked().len()), "{}", fake.asked().len());
}

#[tokio::test]
async fn a_slow_server_and_an_absent_one_are_passing() {
    let slow = |_: usize, _: &Asked| Reply { delay: Duration::from_secs(60), ..granted(0, 60.0) };
    let (_fake, mut options) = start(slow).await;
    options.connect_timeout = Duration::from_millis(1900);
    options.read_timeout = Duration::from_millis(100);
    let error = outcome(&tokens(options.clone())).await.unwrap_err();
    assert!(error.passing && error.what.contains("gave no answer within 2000 ms"), "{error}");
    options.endpoint = "http://127.0.0.1:1/token".to_owned();
    let error = outcome(&tokens(options)).await.unwrap_err();
    assert!(error.passing && error.what.contains("cannot be reached: Connection refused"), "{error}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (fake, options) = start(|_, _| Reply {
        headers: "Location: https://elsewhere.example/t?x=1\r\n".to_owned(),
        ..reply(307, "")
    })
    .await;
    let error = outcome(&tokens(options)).await.unwrap_err();
    assert!(!error.passing && error.what.contains("redirects to elsewhere.example (HTTP 307"), "{error}");
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let flood = || Reply { flood: 100 << 20, ..reply(200, "") };
    let (_fake, options) = start(move |_, _| flood()).await;
    let begun = std::time::Instant::now();
    let error = outcome(&tokens(options)).await.unwrap_err();
    assert!(error.what.contains("more than 1048576 bytes") && !error.passing, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    for (body, why) in [
        (format!("{MARKER}<html>"), "not JSON"),
        (format!(r#"["{MARKER}"]"#), "sent no access_token"),
        (r#"{"error":"slow_down"}"#.to_owned(), "sent no access_token: slow_down"),
        (format!(r#"{{"access_token":"a{MARKER}\u0001auth=x"}}"#), "RFC 6750 does not allow"),
        (r#"{"access_token":"abc","expires_in":0}"#.to_owned(), "already ended"),
        (r#"{"access_token":"abc","expires_in":-5}"#.to_owned(), "already ended"),
    ] {
        let (_fake, options) = start(move |_, _| reply(200, body.clone())).await;
        let error = outcome(&tokens(options)).await.unwrap_err();
        assert!(error.what.contains(why) && !error.passing, "{error}");
    }
}

#[tokio::test]
async fn the_end_comes_from_expires_in_or_the_jwt_by_the_servers_clock() {
    // {"exp":784111787}, which is 10 s after the Date below
    let jwt = "e30.eyJleHAiOjc4NDExMTc4N30.c2ln";
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".to_owned();
    for (body, seconds) in [
        (format!(r#"{{"access_token":"{jwt}"}}"#), Some(10)),
        (r#"{"access_token":"opaque","expires_in":"77"}"#.to_owned(), Some(77)),
        (r#"{"access_token":"opaque"}"#.to_owned(), None),
        (r#"{"access_token":"opaque","expires_in":1e99}"#.to_owned(), Some(365 * 24 * 3600)),
    ] {
        let date = date.clone();
        let (_fake, options) =
            start(move |_, _| Reply { headers: date.clone(), ..reply(200, body.clone()) }).await;
        let tokens = tokens(options);
        assert_eq!(tokens.clock_skew(), None);
        let before = SystemTime::now();
        let expires = tokens.token("b").await.unwrap().expires;
        let after = SystemTime::now();
        match (expires, seconds) {
            (None, None) => {}
            (Some(end), Some(seconds)) => {
                let life = Duration::from_secs(seconds);
                let tolerance = Duration::from_secs(1);
                assert!(
                    before + life <= end + tolerance && end <= after + life + tolerance,
                    "{end:?} {life:?}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(tokens.clock_skew().unwrap().seconds_ahead > 900_000_000);
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let check = |change: &dyn Fn(&mut OAuthOptions), setting: &str| {
        let mut options = options("http://127.0.0.1:1");
        change(&mut options);
        assert!(!format!("{options:?}").contains(MARKER));
        let error = OAuthTokens::new(options, tls()).unwrap_err();
        assert_eq!(error.setting, setting);
        error.to_string()
    };
    let far = check(&|o| o.endpoint = "http://idp.example/token".to_owned(), "endpoint");
    assert_eq!(far, "endpoint: http would show secrets to everybody on the way to idp.example; use https");
    check(&|o| o.endpoint = "idp".to_owned(), "endpoint");
    check(&|o| o.client_id = "a:b".to_owned(), "client_id");
    check(&|o| o.client_id = String::new(), "client_id");
    check(&|o| o.client_secret = Secret::new(""), "client_secret");
    check(&|o| o.refresh_factor = f64::NAN, "refresh_factor");
    check(&|o| o.read_timeout = Duration::ZERO, "read_timeout");
}

#[tokio::test]
async fn https_uses_the_given_settings() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            common::read_request(&mut stream).await;
            let body = "HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{\"access_token\":\"secure\"}";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, body.as_bytes()).await;
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let trusting = OAuthTokens::new(options(&endpoint), common::tls_of(roots)).unwrap();
    assert_eq!(outcome(&trusting).await.unwrap().text.expose(), "secure");
    let error = outcome(&tokens(options(&endpoint))).await.unwrap_err();
    assert!(
        !error.passing && error.what.contains("could not be trusted: invalid peer certificate"),
        "{error}"
    );
}
