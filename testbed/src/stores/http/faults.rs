//! What requests meet with instead of an honest answer.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Answer, Head};

/// What becomes of a request. "Does it" means that the handler gets the request and that it has its effect.
#[derive(Clone)]
pub enum Action {
    /// Answers this; the handler does not get the request.
    Answer(Answer),
    /// The same without reading the request's body, and then closes the connection.
    AnswerEarly(Answer),
    /// Closes the connection; the handler does not get the request.
    Cut,
    /// Does it and answers this.
    DoThenAnswer(Answer),
    /// Does it and closes the connection without an answer.
    DoThenCut,
    /// Does it and sends so many bytes of the answer's body; then closes the connection.
    CutBody(usize),
    /// Does it and lets the client wait so long for the answer. A client that gives up sooner does not know what happened.
    Stall(Duration),
    /// Waits so long and then does it, whether the client is still there or not.
    Late(Duration),
    /// Does it and pauses so long behind so many bytes of the answer's body.
    StallBody(usize, Duration),
    /// Does it and changes the answer.
    Edit(Arc<dyn Fn(&mut Answer) + Send + Sync>),
    /// Does it in a way that the handler knows by this name ([`Request::twist`](super::Request::twist)).
    Twist(&'static str),
}

impl Action {
    /// Does it and changes the answer.
    pub fn edit(change: impl Fn(&mut Answer) + Send + Sync + 'static) -> Self {
        Self::Edit(Arc::new(change))
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => write!(f, "Answer({})", answer.status),
            Self::AnswerEarly(answer) => write!(f, "AnswerEarly({})", answer.status),
            Self::Cut => write!(f, "Cut"),
            Self::DoThenAnswer(answer) => write!(f, "DoThenAnswer({})", answer.status),
            Self::DoThenCut => write!(f, "DoThenCut"),
            Self::CutBody(at) => write!(f, "CutBody({at})"),
            Self::Stall(pause) => write!(f, "Stall({pause:?})"),
            Self::Late(pause) => write!(f, "Late({pause:?})"),
            Self::StallBody(at, pause) => write!(f, "StallBody({at}, {pause:?})"),
            Self::Edit(_) => write!(f, "Edit"),
            Self::Twist(name) => write!(f, "Twist({name})"),
        }
    }
}

/// A listing leaves out what is there: the last entries of its page, or all of it.
pub const SHORT_LISTING: &str = "short listing";
/// A listing says entries twice, over the borders of its pages.
pub const REPEATED_LISTING: &str = "repeated listing";

type Predicate = Arc<dyn Fn(&Head) -> bool + Send + Sync>;

/// Which requests meet with what. It fires at every request that it fits, unless told otherwise.
#[derive(Clone)]
pub struct Rule {
    operation: Option<&'static str>,
    predicates: Vec<Predicate>,
    from: u64,
    times: u64,
    chance: f64,
    action: Action,
}

impl Rule {
    /// Fits requests of an operation, as the handler calls it.
    pub fn on(operation: &'static str, action: Action) -> Self {
        Self { operation: Some(operation), ..Self::always(action) }
    }

    /// Fits every request.
    pub fn always(action: Action) -> Self {
        let (operation, predicates) = (None, Vec::new());
        Self { operation, predicates, from: 1, times: u64::MAX, chance: 1.0, action }
    }

    /// Fits only if this holds as well.
    pub fn when(mut self, predicate: impl Fn(&Head) -> bool + Send + Sync + 'static) -> Self {
        self.predicates.push(Arc::new(predicate));
        self
    }

    /// Fits only if the decoded path has this in it.
    pub fn path(self, part: &str) -> Self {
        let part = part.to_owned();
        self.when(move |head| head.path.contains(&part))
    }

    /// Fires at the `n`th request that it fits, from 1 on, and at no other.
    pub fn nth(self, n: u64) -> Self {
        self.from(n).times(1)
    }

    /// Begins at the `n`th request that it fits, from 1 on.
    pub fn from(mut self, n: u64) -> Self {
        self.from = n;
        self
    }

    /// Fires so many times at most.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Fires with this probability, from 0 to 1. Which requests it hits depends on the seed, the operation, the path, and the how-many-eth of these
    /// it is, but not on the order among others.
    pub fn chance(mut self, probability: f64) -> Self {
        self.chance = probability;
        self
    }

    fn fits(&self, operation: &str, head: &Head) -> bool {
        self.operation.is_none_or(|name| name == operation) && self.predicates.iter().all(|holds| holds(head))
    }
}

struct Active {
    id: u64,
    rule: Rule,
    fitted: u64,
    fired: u64,
}

#[derive(Default)]
struct State {
    seed: u64,
    next: u64,
    rules: Vec<Active>,
    seen: HashMap<(&'static str, String), u64>,
    delay: Duration,
    fired: u64,
}

/// The script of a server. Clones are the same one. The first rule that fires counts; those behind it still count the request.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

/// Names a rule of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

impl Faults {
    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.rules.push(Active { id, rule, fitted: 0, fired: 0 });
        RuleId(id)
    }

    /// Takes a rule away.
    pub fn remove(&self, rule: RuleId) {
        self.state().rules.retain(|active| active.id != rule.0);
    }

    /// Takes all rules away, and the delay.
    pub fn clear(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.delay = Duration::ZERO;
    }

    /// Sets the seed of [`Rule::chance`], and begins to count anew for it.
    pub fn seed(&self, seed: u64) {
        let mut state = self.state();
        state.seed = seed;
        state.seen.clear();
    }

    /// From now on every answer comes so much later.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// How many times a rule has fired; 0 when it was taken away.
    pub fn fired(&self, rule: RuleId) -> u64 {
        self.state().rules.iter().find(|active| active.id == rule.0).map_or(0, |active| active.fired)
    }

    /// How many times rules have fired, those included that were taken away.
    pub fn all_fired(&self) -> u64 {
        self.state().fired
    }

    pub(super) fn current_delay(&self) -> Duration {
        self.state().delay
    }

    /// What this request meets with; none: the honest answer.
    pub(super) fn meet(&self, operation: &'static str, head: &Head) -> Option<Action> {
        let mut state = self.state();
        if state.rules.is_empty() {
            return None;
        }
        let seen = state.seen.entry((operation, head.path.clone())).or_default();
        *seen += 1;
        let (seen, seed) = (*seen, state.seed);
        let mut found = None;
        for active in &mut state.rules {
            if !active.rule.fits(operation, head) {
                continue;
            }
            active.fitted += 1;
            let Rule { from, times, chance, action, .. } = &active.rule;
            let open = found.is_none() && active.fitted >= *from && active.fired < *times;
            if open && dice((seed, active.id, operation, &head.path, seen)) < *chance {
                active.fired += 1;
                found = Some(action.clone());
            }
        }
        state.fired += u64::from(found.is_some());
        found
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From 0 to 1, without 1.
fn dice(of: impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}
