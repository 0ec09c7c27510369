//! A stand-in for the IAM authentication of Amazon MSK: SASL's mechanism AWS_MSK_IAM before a real cluster, checked by
//! credentials that tests make up. [`ClusterOptions::iam`](crate::ClusterOptions::iam) puts it before the nodes as [`Door::Iam`](crate::Door::Iam).

mod document;
mod front;
mod session;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub(crate) use front::Fronts;

/// The region that clients have to sign for.
pub const REGION: &str = "eu-central-1";
const SKEW: Duration = Duration::from_secs(300);

/// Credentials of AWS's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCredentials {
    /// The id of the key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: String,
    /// What comes with keys that are lent for a while.
    pub session_token: Option<String>,
    /// When they are of no use any more.
    pub expires: Option<SystemTime>,
}

impl AwsCredentials {
    /// Credentials that nobody had before, for ever.
    pub fn random() -> Self {
        let random =
            |count: usize| std::iter::repeat_with(fastrand::alphanumeric).take(count).collect::<String>();
        Self {
            access_key_id: format!("AKIA{}", random(16).to_uppercase()),
            secret_access_key: format!("{}/+{}", random(20), random(18)),
            session_token: None,
            expires: None,
        }
    }

    /// Credentials that nobody had before, with a session token, lent for so long.
    pub fn lent(lifetime: Duration) -> Self {
        let mut lent = Self::random();
        lent.access_key_id.replace_range(..4, "ASIA");
        let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(320).collect();
        lent.session_token = Some(format!("IQoJ/{token}+/=="));
        lent.expires = Some(SystemTime::now() + lifetime);
        lent
    }
}

/// A client that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The id of its key.
    pub access_key_id: String,
    /// What it calls itself.
    pub user_agent: String,
    /// The host that it signed for.
    pub host: String,
    /// Whether it was in already and went on with a new session.
    pub again: bool,
}

/// Who is known, and who came. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Iam(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: Vec<AwsCredentials>,
    session_lifetime: Option<Duration>,
    admissions: Vec<Admission>,
    refusals: Vec<String>,
    expired_sessions: u64,
}

impl Iam {
    /// One that knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it know credentials.
    pub fn know(&self, credentials: AwsCredentials) {
        self.state().known.push(credentials);
    }

    /// Makes it forget all credentials. Sessions go on until they end.
    pub fn forget_all(&self) {
        self.state().known.clear();
    }

    /// The credentials with this id, if it knows them.
    pub(crate) fn find(&self, id: &str) -> Option<AwsCredentials> {
        self.state().known.iter().find(|known| known.access_key_id == id).cloned()
    }

    /// How long sessions last that begin from now on; with none, as long as the connection. A session never outlasts its credentials.
    pub fn set_session_lifetime(&self, lifetime: Option<Duration>) {
        self.state().session_lifetime = lifetime;
    }

    /// Who was let in, in order.
    pub fn admissions(&self) -> Vec<Admission> {
        self.state().admissions.clone()
    }

    /// Why clients were not let in, in order.
    pub fn refusals(&self) -> Vec<String> {
        self.state().refusals.clone()
    }

    /// How many connections were closed because a request came after the session's end.
    pub fn expired_sessions(&self) -> u64 {
        self.state().expired_sessions
    }

    /// Judges what a client sent: how long its session lasts, or why there is none.
    fn admit(&self, token: &[u8], again: bool) -> Result<Option<Duration>, String> {
        let now = SystemTime::now();
        let mut state = self.state();
        let judged = document::judge(token, &state.known, now);
        let (admission, expires) = match judged {
            Ok((document, expires)) => (document.admission(again), expires),
            Err(why) => {
                state.refusals.push(why.clone());
                return Err(why);
            }
        };
        state.admissions.push(admission);
        let left = expires.map(|at| at.duration_since(now).unwrap_or_default());
        Ok(state.session_lifetime.into_iter().chain(left).min())
    }

    fn count_expired(&self) {
        self.state().expired_sessions += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
