//! One connection's way through authentication, as Kafka's brokers handle it (SaslServerAuthenticator, KIP-368).

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ProduceRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslAuthenticateResponse,
    SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::Iam;

const MECHANISM: &str = "AWS_MSK_IAM";
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Nobody has said anything yet.
    New,
    /// The mechanism is settled, by this version of SaslHandshake.
    Settled { version: i16, again: bool },
    /// In, until then.
    In { until: Option<Instant> },
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The broker gets it and answers.
    Pass,
    /// The broker gets it and does not answer.
    PassUnanswered,
    /// This is the answer, a frame without its length.
    Answer(Bytes),
    /// This is the answer, and the end.
    Refuse(Bytes),
    /// The connection is closed without an answer.
    Close,
}

#[derive(Debug)]
pub(super) struct Session {
    iam: Iam,
    stage: Stage,
}

struct Request {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    body: Bytes,
}

impl Session {
    pub(super) fn new(iam: Iam) -> Self {
        Self { iam, stage: Stage::New }
    }

    /// Judges a frame of the client, without its length. An error closes the connection as well.
    pub(super) fn judge(&mut self, frame: &Bytes) -> Result<Verdict> {
        if let Stage::Settled { version: 0, again } = self.stage {
            return Ok(self.raw_token(frame, again)); // not a request: the token as it is
        }
        let request = Request::parse(frame.clone())?;
        match (self.stage, request.api) {
            (Stage::New, ApiKey::ApiVersions) => Ok(Verdict::Pass),
            (Stage::New, ApiKey::SaslHandshake) => self.handshake(request, false),
            (Stage::In { .. }, ApiKey::SaslHandshake) => self.handshake(request, true),
            (Stage::Settled { again, .. }, ApiKey::SaslAuthenticate) => self.authenticate(request, again),
            (Stage::In { until }, api) => {
                if until.is_some_and(|until| Instant::now() > until) {
                    self.iam.count_expired();
                    return Ok(Verdict::Close);
                }
                let silent = api == ApiKey::Produce && request.wants_no_answer()?;
                Ok(if silent { Verdict::PassUnanswered } else { Verdict::Pass })
            }
            (Stage::New | Stage::Settled { .. }, _) => Ok(Verdict::Close),
        }
    }

    fn handshake(&mut self, mut request: Request, again: bool) -> Result<Verdict> {
        let wanted = SaslHandshakeRequest::decode(&mut request.body, request.version)?.mechanism;
        let known = wanted.as_str() == MECHANISM;
        let error = if known { 0 } else { UNSUPPORTED_SASL_MECHANISM };
        let answer = SaslHandshakeResponse::default()
            .with_error_code(error)
            .with_mechanisms(vec![StrBytes::from_static_str(MECHANISM)]);
        let answer = request.answer(&answer)?;
        if !known {
            return Ok(Verdict::Refuse(answer));
        }
        self.stage = Stage::Settled { version: request.version, again };
        Ok(Verdict::Answer(answer))
    }

    fn authenticate(&mut self, mut request: Request, again: bool) -> Result<Verdict> {
        let token = SaslAuthenticateRequest::decode(&mut request.body, request.version)?.auth_bytes;
        let answer = SaslAuthenticateResponse::default();
        match self.iam.admit(&token, again) {
            Ok(lifetime) => {
                self.enter(lifetime);
                let answer = answer.with_auth_bytes(receipt());
                let lifetime = lifetime.map_or(0, |l| l.as_millis() as i64);
                // Version 0 has no field for it.
                let answer =
                    if request.version == 0 { answer } else { answer.with_session_lifetime_ms(lifetime) };
                Ok(Verdict::Answer(request.answer(&answer)?))
            }
            Err(why) => {
                let answer = answer
                    .with_error_code(SASL_AUTHENTICATION_FAILED)
                    .with_error_message(Some(StrBytes::from_string(format!("Access denied: {why}"))));
                Ok(Verdict::Refuse(request.answer(&answer)?))
            }
        }
    }

    fn raw_token(&mut self, token: &[u8], again: bool) -> Verdict {
        match self.iam.admit(token, again) {
            Ok(lifetime) => {
                self.enter(lifetime);
                Verdict::Answer(receipt())
            }
            Err(_) => Verdict::Close,
        }
    }

    fn enter(&mut self, lifetime: Option<Duration>) {
        self.stage = Stage::In { until: lifetime.map(|lifetime| Instant::now() + lifetime) };
    }
}

impl Request {
    fn parse(mut frame: Bytes) -> Result<Self> {
        let (Some(&[a, b]), Some(&[c, d])) =
            (frame.first_chunk(), frame.get(2..).and_then(|f| f.first_chunk()))
        else {
            bail!("a short request")
        };
        let (api, version) = (i16::from_be_bytes([a, b]), i16::from_be_bytes([c, d]));
        let Ok(api) = ApiKey::try_from(api) else { bail!("unknown API {api}") };
        let header = RequestHeader::decode(&mut frame, api.request_header_version(version))?;
        Ok(Self { api, version, correlation_id: header.correlation_id, body: frame })
    }

    fn wants_no_answer(mut self) -> Result<bool> {
        Ok(ProduceRequest::decode(&mut self.body, self.version)?.acks == 0)
    }

    fn answer<M: Encodable>(&self, message: &M) -> Result<Bytes> {
        let mut frame = BytesMut::new();
        let header = ResponseHeader::default().with_correlation_id(self.correlation_id);
        header.encode(&mut frame, self.api.response_header_version(self.version))?;
        message.encode(&mut frame, self.version)?;
        Ok(frame.freeze())
    }
}

fn receipt() -> Bytes {
    let id = uuid::Uuid::from_u128(fastrand::u128(..));
    format!(r#"{{"version":"2020_10_22","request-id":"{id}"}}"#).into()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest};

    use super::super::{AwsCredentials, document};
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn frame<M: Encodable>(api: ApiKey, version: i16, message: &M) -> Bytes {
        let mut frame = BytesMut::new();
        let header =
            RequestHeader::default().with_request_api_key(api as i16).with_request_api_version(version);
        header.with_correlation_id(7).encode(&mut frame, api.request_header_version(version)).unwrap();
        message.encode(&mut frame, version).unwrap();
        frame.freeze()
    }

    fn handshake(mechanism: &'static str, version: i16) -> Bytes {
        let message = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        frame(ApiKey::SaslHandshake, version, &message)
    }

    fn authenticate(token: String, version: i16) -> Bytes {
        let message = SaslAuthenticateRequest::default().with_auth_bytes(token.into());
        frame(ApiKey::SaslAuthenticate, version, &message)
    }

    fn metadata() -> Bytes {
        frame(ApiKey::Metadata, 12, &MetadataRequest::default())
    }

    fn token(credentials: &AwsCredentials) -> String {
        document::tests::signed(credentials, SystemTime::now()).to_string()
    }

    fn known(lifetime: Option<Duration>) -> (Iam, AwsCredentials) {
        let (iam, credentials) = (Iam::new(), AwsCredentials::random());
        iam.know(credentials.clone());
        iam.set_session_lifetime(lifetime);
        (iam, credentials)
    }

    fn accepted(verdict: Verdict, version: i16) -> SaslAuthenticateResponse {
        let Verdict::Answer(mut answer) = verdict else { panic!("{verdict:?}") };
        let header = ApiKey::SaslAuthenticate.response_header_version(version);
        ResponseHeader::decode(&mut answer, header).unwrap();
        SaslAuthenticateResponse::decode(&mut answer, version).unwrap()
    }

    #[test]
    fn nothing_but_authentication_comes_first() {
        let (iam, _) = known(None);
        let mut session = Session::new(iam);
        let versions = frame(ApiKey::ApiVersions, 3, &ApiVersionsRequest::default());
        assert!(matches!(session.judge(&versions).unwrap(), Verdict::Pass));
        assert!(matches!(session.judge(&metadata()).unwrap(), Verdict::Close));
        assert!(matches!(session.judge(&authenticate(String::new(), 2)).unwrap(), Verdict::Close));
        assert!(matches!(session.judge(&handshake("PLAIN", 1)).unwrap(), Verdict::Refuse(_)));
        assert!(matches!(session.judge(&handshake(MECHANISM, 1)).unwrap(), Verdict::Answer(_)));
        assert!(matches!(session.judge(&versions).unwrap(), Verdict::Close));
    }

    #[test]
    fn every_version_lets_in() {
        for version in 0..=2 {
            let (iam, credentials) = known(Some(Duration::from_secs(9)));
            let mut session = Session::new(iam);
            session.judge(&handshake(MECHANISM, 1)).unwrap();
            let answer =
                accepted(session.judge(&authenticate(token(&credentials), version)).unwrap(), version);
            assert_eq!(answer.session_lifetime_ms, if version == 0 { 0 } else { 9000 });
            assert!(answer.auth_bytes.starts_with(b"{\"version\":\"2020_10_22\""));
            assert!(matches!(session.judge(&metadata()).unwrap(), Verdict::Pass));
        }
        let (iam, credentials) = known(None);
        let mut session = Session::new(iam);
        session.judge(&handshake(MECHANISM, 0)).unwrap();
        assert!(matches!(session.judge(&token(&credentials).into()).unwrap(), Verdict::Answer(_)));
        assert!(matches!(session.judge(&metadata()).unwrap(), Verdict::Pass));
    }

    #[test]
    fn sessions_end_and_begin_again() {
        let (iam, credentials) = known(Some(SOON));
        let mut session = Session::new(iam.clone());
        let lasting = |time| iam.set_session_lifetime(Some(time));
        let enter = |session: &mut Session| {
            session.judge(&handshake(MECHANISM, 1)).unwrap();
            accepted(session.judge(&authenticate(token(&credentials), 2)).unwrap(), 2);
        };
        enter(&mut session);
        std::thread::sleep(2 * SOON);
        lasting(std::time::Duration::from_secs(60));
        enter(&mut session);
        assert!(matches!(session.judge(&metadata()).unwrap(), Verdict::Pass));
        lasting(SOON);
        enter(&mut session);
        assert_eq!(iam.admissions().iter().map(|a| a.again).collect::<Vec<_>>(), [false, true, true]);
        std::thread::sleep(2 * SOON);
        assert!(matches!(session.judge(&metadata()).unwrap(), Verdict::Close));
        assert_eq!(iam.expired_sessions(), 1);
    }

    #[test]
    fn a_wrong_token_gets_an_answer_and_no_more() {
        let (iam, _) = known(None);
        let mut session = Session::new(iam.clone());
        session.judge(&handshake(MECHANISM, 1)).unwrap();
        let verdict = session.judge(&authenticate(token(&AwsCredentials::random()), 2)).unwrap();
        let Verdict::Refuse(mut answer) = verdict else { panic!("{verdict:?}") };
        ResponseHeader::decode(&mut answer, 1).unwrap();
        let answer = SaslAuthenticateResponse::decode(&mut answer, 2).unwrap();
        assert_eq!(answer.error_code, SASL_AUTHENTICATION_FAILED);
        assert_eq!(iam.refusals().len(), 1);
    }
}
