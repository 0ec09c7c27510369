//! SASL on a connection: SaslHandshake, SaslAuthenticate, and the same again before the session ends (KIP-368).

use std::time::{Duration, Instant};

use bodley_protocol::ErrorCode;
use bodley_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use bytes::Bytes;

use super::connection::Connection;
use super::error::{KafkaError, words};
use super::security::{Next, Sasl};

/// No mechanism has more turns.
const MAX_TURNS: usize = 4;
/// A session is renewed when this part of its life is over at the earliest, and at the latest; at random in between, so that connections
/// don't renew all at once.
const RENEW_AFTER: (f64, f64) = (0.85, 0.95);
/// Brokers refuse to be asked more often than once a second.
const LEAST_SESSION: Duration = Duration::from_millis(1100);

/// When a renewal is tried again for which there was no token.
const AGAIN: Duration = Duration::from_secs(1);

/// A session that ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    /// When it should be renewed: no other request may come later.
    pub(super) renew_at: Instant,
    /// When brokers allow it.
    allowed_at: Instant,
    /// When it ends.
    ends_at: Instant,
}

impl Session {
    /// `None`: it does not end.
    fn new(began: Instant, session_lifetime_ms: i64) -> Option<Self> {
        let renew_at = began + renewal(session_lifetime_ms)?;
        let ends_at =
            began.checked_add(Duration::from_millis(session_lifetime_ms as u64)).unwrap_or(renew_at);
        Some(Self { renew_at, allowed_at: began + LEAST_SESSION, ends_at })
    }
}

impl Connection {
    /// Proves who we are, if that is asked for. Nothing may be in flight.
    pub(super) async fn authenticate(&mut self) -> Result<(), KafkaError> {
        let options = self.shared_options();
        let Some(sasl) = &options.sasl else { return Ok(()) };
        let token =
            |source| KafkaError::Token { broker: self.broker.clone(), mechanism: sasl.mechanism(), source };
        // Before anything is sent: without a token a session that there is goes on.
        let (mut message, mut exchange) = sasl.begin(&self.host).await.map_err(token)?;
        // From here on the broker takes nothing else until it is done.
        self.half_way = true;
        self.choose(sasl).await?;
        for _ in 0..MAX_TURNS {
            let began = Instant::now();
            let answer = self.say(sasl, message).await?;
            match exchange.take(&answer.auth_bytes) {
                Next::Send(next) => message = next,
                Next::Refused(what) => return Err(self.refused(sasl, what)),
                Next::Done => {
                    self.session = Session::new(began, answer.session_lifetime_ms);
                    self.half_way = false;
                    return Ok(());
                }
            }
        }
        Err(self.refused(sasl, "it does not come to an end".into()))
    }

    /// Whether the session should be renewed before more is sent. Requests wait for it; what is in flight is to be drained.
    pub fn is_renewal_due(&self) -> bool {
        self.session.is_some_and(|session| Instant::now() >= session.renew_at)
    }

    /// Renews the session when that is due and nothing is in flight. One that is shorter than brokers allow, as with a token that ends soon, is
    /// over before: then requests wait. Where there is no token just now, the session goes on to its end.
    pub async fn renew_if_due(&mut self) -> Result<(), KafkaError> {
        if !self.is_renewal_due() || self.in_flight() > 0 {
            return Ok(());
        }
        if let Some(session) = self.session {
            tokio::time::sleep_until(session.allowed_at.into()).await;
        }
        let after = self.options().request_timeout;
        match tokio::time::timeout(after, self.authenticate()).await {
            Ok(Ok(())) => {
                tracing::debug!("{}: session renewed", self.broker);
                Ok(())
            }
            Ok(Err(error @ KafkaError::Token { .. })) if self.goes_on() => {
                tracing::warn!("{}: the session is not renewed yet: {error}", self.broker);
                Ok(())
            }
            Ok(Err(error)) => {
                self.dead = true;
                Err(error)
            }
            Err(_) => {
                self.dead = true;
                Err(KafkaError::Timeout {
                    broker: self.broker.clone(),
                    what: "renew the session".into(),
                    after,
                })
            }
        }
    }

    /// Puts the renewal off, if the session has not ended.
    fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        match &mut self.session {
            Some(session) if now < session.ends_at => {
                session.renew_at = (now + AGAIN).min(session.ends_at);
                true
            }
            _ => false,
        }
    }

    /// Agrees on the mechanism.
    async fn choose(&mut self, sasl: &Sasl) -> Result<(), KafkaError> {
        let mechanism = sasl.mechanism();
        let request = SaslHandshakeRequest::default().with_mechanism(mechanism.to_owned().into());
        let version = self.version::<SaslHandshakeRequest>(1)?;
        let answer: SaslHandshakeResponse = self.exchange(version, &request).await?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => Ok(()),
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let offered: Vec<String> =
                    answer.mechanisms.iter().take(10).filter_map(|offered| words(offered)).collect();
                let what = format!("this listener offers only {}: set sasl.mechanism", offered.join(", "));
                Err(self.refused(sasl, what))
            }
            ErrorCode::ILLEGAL_SASL_STATE => {
                let what =
                    "this listener does not use SASL: security.protocol is PLAINTEXT or SSL here".into();
                Err(self.refused(sasl, what))
            }
            code => Err(self.refused(sasl, code.to_string())),
        }
    }

    async fn say(&mut self, sasl: &Sasl, message: Vec<u8>) -> Result<SaslAuthenticateResponse, KafkaError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
        let version = self.version::<SaslAuthenticateRequest>(2)?;
        let answer: SaslAuthenticateResponse = match self.exchange(version, &request).await {
            // Some servers say nothing and go; so does one that ends, or a line that breaks.
            Err(KafkaError::Closed { .. }) => {
                let what = "it closes the connection, which can mean wrong credentials".into();
                let (broker, mechanism) = (self.broker.clone(), sasl.mechanism());
                return Err(KafkaError::Auth { broker, mechanism, what, passing: true });
            }
            answer => answer?,
        };
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => Ok(answer),
            code => {
                let said = answer.error_message.as_deref().and_then(words);
                let said = said.unwrap_or_else(|| code.to_string());
                Err(self.refused(sasl, format!("{said} ({})", advice(sasl))))
            }
        }
    }

    fn refused(&mut self, sasl: &Sasl, what: String) -> KafkaError {
        self.dead = true;
        // Amazon MSK has no other sign for its limit of new connections per second. A token that ends while it is on its way is
        // followed by a new one.
        let passing = match sasl {
            Sasl::AwsMskIam { .. } => self.session.is_some() || what.contains("Too many connects"),
            Sasl::OAuthBearer { .. } => self.session.is_some(),
            Sasl::Plain { .. } | Sasl::Scram { .. } => false,
        };
        KafkaError::Auth { broker: self.broker.clone(), mechanism: sasl.mechanism(), what, passing }
    }
}

fn advice(sasl: &Sasl) -> &'static str {
    match sasl {
        Sasl::Plain { .. } | Sasl::Scram { .. } => "check user name and password",
        Sasl::OAuthBearer { .. } => {
            "check that the token is for this cluster: its issuer, audience and scope, its extensions, and both clocks"
        }
        Sasl::AwsMskIam { .. } => {
            "check the AWS identity, its kafka-cluster:Connect permission, the region and this machine's clock"
        }
    }
}

/// When to renew a session, from its begin on; `None`: it does not end.
fn renewal(session_lifetime_ms: i64) -> Option<Duration> {
    let lifetime = Duration::from_millis(u64::try_from(session_lifetime_ms).ok().filter(|ms| *ms > 0)?);
    let part = RENEW_AFTER.0 + (RENEW_AFTER.1 - RENEW_AFTER.0) * fastrand::f64();
    Some(lifetime.mul_f64(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_renewed_in_time() {
        assert_eq!(renewal(0), None);
        assert_eq!(renewal(-1), None);
        let short = Session::new(Instant::now(), 50).unwrap();
        assert!(short.renew_at + Duration::from_secs(1) < short.allowed_at);
        for _ in 0..100 {
            let after = renewal(60_000).unwrap();
            assert!(after >= Duration::from_secs(51) && after <= Duration::from_secs(57), "{after:?}");
        }
        assert!(renewal(i64::MAX).unwrap() > Duration::from_secs(1 << 40));
    }
}
