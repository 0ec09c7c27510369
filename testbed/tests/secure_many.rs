//! A secured cluster of several nodes, far away, whose sessions end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bodley_testbed::security::BOB;
use bodley_testbed::{Cluster, ClusterOptions, Door, Login};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslAuthenticateResponse,
    SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

const RTT: Duration = Duration::from_millis(50);
const SESSION: Duration = Duration::from_secs(30);

#[test]
fn all_nodes_have_all_doors() {
    let options = ClusterOptions::new().nodes(3).reauth(SESSION).proxied_door(Door::Ssl);
    let cluster = Cluster::start(options).unwrap();
    let bench = cluster.workbench().unwrap();
    bench.create_topic("seen", 3, &[]).unwrap();
    for node in cluster.door(Door::SaslSsl).unwrap().split(',') {
        let login = Login::password("SCRAM-SHA-512", BOB);
        let mut settings = cluster.client_properties(Door::SaslSsl, &login).unwrap();
        settings[0] = ("bootstrap.servers".to_owned(), node.to_owned());
        assert_eq!(bench.look(&settings).unwrap(), ["seen"]);
    }

    // TCP's and TLS's handshakes, and requests.
    for node in 0..3 {
        cluster.door_proxy(Door::Ssl, node).unwrap().wan(RTT, 10_000_000);
    }
    let started = Instant::now();
    bench.look(&cluster.client_properties(Door::Ssl, &Login::Anonymous).unwrap()).unwrap();
    assert!(started.elapsed() > 4 * RTT, "{:?}", started.elapsed());

    assert_eq!(session_lifetime(&cluster.door(Door::SaslPlaintext).unwrap()), SESSION);
}

/// What a broker says to a client that logs in.
fn session_lifetime(bootstrap: &str) -> Duration {
    let mut stream = TcpStream::connect(bootstrap.split(',').next().unwrap()).unwrap();
    let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("PLAIN"));
    let _: SaslHandshakeResponse = exchange(&mut stream, ApiKey::SaslHandshake, 1, &handshake);
    let token = format!("\0{}\0{}", BOB.name, BOB.password);
    let token = SaslAuthenticateRequest::default().with_auth_bytes(token.into());
    let answer: SaslAuthenticateResponse = exchange(&mut stream, ApiKey::SaslAuthenticate, 2, &token);
    assert_eq!(answer.error_code, 0);
    Duration::from_millis(answer.session_lifetime_ms as u64)
}

fn exchange<Q: Encodable, A: Decodable>(stream: &mut TcpStream, api: ApiKey, version: i16, request: &Q) -> A {
    let mut frame = BytesMut::new();
    let header = RequestHeader::default().with_request_api_key(api as i16).with_request_api_version(version);
    header.encode(&mut frame, api.request_header_version(version)).unwrap();
    request.encode(&mut frame, version).unwrap();
    stream.write_all(&[&(frame.len() as i32).to_be_bytes()[..], &frame].concat()).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, api.response_header_version(version)).unwrap();
    A::decode(&mut answer, version).unwrap()
}
