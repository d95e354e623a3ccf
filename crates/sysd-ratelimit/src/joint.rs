//! One request under the rules of several keys.

use std::future::Future;
use std::sync::Arc;

use futures::future::join_all;
use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Effect, Error, ErrorKind, Key, Limits, Procedure, Result, Store, StoreExt as _};

use crate::model::{Decision, JointDecision, Rule, fit_record, told_apart};
use crate::procedure::{GiveAll, JointVerdict, TakeAll};
use crate::schema;
use crate::service::partition;
use crate::untold::{Untold, UntoldError, What};

/// A key, and what the request takes from the rules that count by it. The rules of one key have names of their own.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Who or what is counted.
    pub key: &'a [u8],
    /// The rules, each with its cost.
    pub rules: Vec<(&'a Rule, u32)>,
}

impl Ask<'_> {
    /// Why its rules can't be decided together; one that is there twice would be taken from once.
    fn problem(&self, limits: &Limits) -> Option<Error> {
        let rules = || self.rules.iter().map(|(rule, _)| *rule);
        // A key of which nothing is asked is passed over.
        if let Err(problem) = told_apart(rules())
            && !self.rules.is_empty()
        {
            return Some(Error::invalid("asks", problem.to_string()));
        }
        let too_large = fit_record(rules(), limits).err()?;
        Some(Error::new(ErrorKind::TooLarge, Effect::None, too_large.to_string()).with_field("asks"))
    }
}

/// What happens to a request that a rule can't be asked about, for an outage of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "policy", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum OnError {
    /// It passes: the limit fails open.
    #[default]
    Allow,
    /// It is refused: the limit fails closed.
    Deny,
}

/// Whether an error is an outage: the store can't be reached, is slow, crowded or full, and the same question may find it well. Any
/// other is a mistake: of the program, of the set-up, or in what is stored; to let requests pass would be to have no limit.
pub fn is_outage(error: &Error) -> bool {
    error.kind().is_transient() || error.kind() == ErrorKind::Full
}

/// What the rules of several keys came to.
#[derive(Debug)]
pub struct JointOutcome {
    /// The decision of the rules that could be asked, in the order of the keys and of their rules; of a request that a rule denies too those
    /// of all keys. `None` if none could be asked.
    pub decision: Option<JointDecision>,
    /// The keys whose rules could not be asked, by their place, and why.
    pub errors: Vec<(usize, Error)>,
    /// The keys that what a denied request had taken from them could not be given back to, by their place, and why. It may be lost to
    /// them until the rules' own time has passed; no answer changes with it.
    pub not_given_back: Vec<(usize, Error)>,
    /// Whether the request may go on.
    pub is_allowed: bool,
}

/// Rules of several keys on one store.
///
/// The rules of one key lie in one record and are decided at once. A request that asks several keys takes from one after the other, in
/// the order given; where one denies, what those before it took is given back, and those after it are only looked at, so that the
/// answer says how long to wait for all. So put first the keys that deny most, or that only the client itself counts by: what a key
/// denies takes nothing from those behind it, not even for a moment.
///
/// ```
/// use sysd_ratelimit::{Ask, FixedWindow, JointLimiter, Rule, TokenBucket};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let each = Rule::new("each client", TokenBucket::new("10/s".parse()?, 10)?)?;
/// let all = Rule::new("all clients", FixedWindow::new("1/h".parse()?))?;
/// let limiter = JointLimiter::new(Memory::new(), "api");
/// let ask = |key| [Ask { key, rules: vec![(&each, 1)] }, Ask { key: b"all", rules: vec![(&all, 1)] }];
/// assert!(limiter.check(&ask(b"ann")).await?.is_allowed());
///
/// let denied = limiter.check(&ask(b"bob")).await?;
/// assert_eq!(denied.bound_by(), 1);
/// let look = limiter.check(&[Ask { key: b"bob", rules: vec![(&each, 0)] }]).await?;
/// assert_eq!(look.decision().remaining(), 10, "bob's were given back");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - No rule ever admits more than its algorithm says, by all processes together.
/// - A request that a rule denies has taken nothing in the end. What keys before that took is given back; meanwhile another request may
///   find too little and be denied: too much for a moment, never too little. A bucket that would have been full for a part of that
///   time is given back less, by so much (see [`GiveAll`]).
/// - A reply that is lost, a process that dies between the two, a future that is dropped: what was taken stays taken. That may cost
///   a client tokens, and never gives any. A giving back that failed is told: by [`JointOutcome::not_given_back`],
///   [`last_error`](Self::last_error), a warning of `tracing`, and the counter `sysd_ratelimit_give_back_errors_total` (feature `metrics`).
#[derive(Debug, Clone)]
pub struct JointLimiter<S> {
    store: S,
    prefix: KeyBytes,
    untold: Arc<Untold>,
}

impl<S: Store> JointLimiter<S> {
    /// The limiter `name` on `store`. It shares its states with a [`RuleLimiter`](crate::RuleLimiter) of the same name.
    pub fn new(store: S, name: &str) -> Self {
        Self { store, prefix: tuple::encode(&(name,)), untold: Arc::new(Untold::new(What::GiveBack, name)) }
    }

    /// The last error in giving back what a denied request had taken.
    pub fn last_error(&self) -> Option<UntoldError> {
        self.untold.last()
    }

    /// Takes from the rules of every key, or from none and denies.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), of the first key that could not be asked, unless one before it denies; what
    /// was taken before is given back. [`Invalid`](sysd_core::ErrorKind::Invalid) if no rule is asked, or rules of a key are no
    /// [`RuleSet`](crate::RuleSet).
    ///
    /// # Cost
    /// An update of each key, one after the other. Where one denies, at the same time one more for each key before it and a look at each
    /// behind it: a denied request has asked each key at most twice.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken from some keys; it never gives.
    pub async fn check(&self, asks: &[Ask<'_>]) -> Result<JointDecision> {
        let outcome = self.check_or(asks, |_, _| OnError::Deny).await;
        let Some((at, error)) = outcome.errors.into_iter().next() else {
            let nothing = || Error::invalid("asks", "no rule was asked; give at least one key with one rule");
            return outcome.decision.ok_or_else(nothing);
        };
        // Those of the keys before it, which stand where the caller looks for them.
        let before: usize = asks[..at].iter().map(|ask| ask.rules.len()).sum();
        let each = outcome.decision.as_ref().map_or(&[][..], |joint| &joint.each()[..before.min(joint.each().len())]);
        if each.iter().all(Decision::is_allowed) { Err(error) } else { Ok(JointDecision::of(each.to_vec())) }
    }

    /// The same, where `on_error` chooses what becomes of a request when a key's rules can't be asked; it is given the key's place.
    ///
    /// It is asked about outages only ([`is_outage`]). Other errors refuse the request whatever it would say, as they don't pass: stored
    /// bytes that are no state, missing rights, a key that is too long. So are, before any is asked, rules of a key that are no
    /// [`RuleSet`](crate::RuleSet), too many or one of them twice, or that the store can't hold in one record.
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn check_or(
        &self,
        asks: &[Ask<'_>],
        on_error: impl Fn(usize, &Error) -> OnError + Send + Sync,
    ) -> JointOutcome {
        let limits = self.store.limits();
        let mut problems = asks.iter().enumerate().filter_map(|(at, ask)| Some((at, ask.problem(limits)?)));
        if let Some(problem) = problems.next() {
            let (errors, not_given_back) = (vec![problem], Vec::new());
            return JointOutcome { decision: None, errors, not_given_back, is_allowed: false };
        }
        let takes = asks.iter().map(|ask| (ask.key, TakeAll::new(ask.rules.iter().copied())));
        let outcome = Joint::new(&self.prefix, takes).check_or(&self.store, on_error).await;
        outcome.not_given_back.iter().for_each(|(_, error)| self.untold.note(error));
        outcome
    }
}

/// Where states lie, and how they are asked.
pub(crate) trait Records: Sync {
    /// Runs a procedure on a record.
    fn ask<P: Procedure>(&self, key: Key<'_>, procedure: &P) -> impl Future<Output = Result<P::Output>> + Send;

    /// Gives back to a record that has been asked.
    fn give(&self, key: Key<'_>, give: &GiveAll) -> impl Future<Output = Result<u8>> + Send;
}

/// A store, as it is.
impl<S: Store> Records for S {
    async fn ask<P: Procedure>(&self, key: Key<'_>, procedure: &P) -> Result<P::Output> {
        self.run(key, procedure).await
    }

    async fn give(&self, key: Key<'_>, give: &GiveAll) -> Result<u8> {
        self.run(key, give).await
    }
}

/// What one key is asked.
struct Asked {
    /// Its place.
    at: usize,
    partition: KeyBytes,
    take: TakeAll,
    /// What its rules said last; `None` if they could not be asked.
    decisions: Option<Vec<Decision>>,
}

impl Asked {
    /// What its rules said of a take that was given back, as if it had only looked.
    fn untake(&mut self) {
        if let Some(decisions) = &mut self.decisions {
            for (decision, cost) in decisions.iter_mut().zip(self.take.costs()) {
                *decision = decision.untaken(cost);
            }
        }
    }

    async fn run(&self, records: &impl Records, take: &TakeAll) -> Result<JointVerdict> {
        records.ask(Key::lone(schema::RULES, &self.partition), take).await
    }
}

/// A request under way.
pub(crate) struct Joint {
    asked: Vec<Asked>,
    errors: Vec<(usize, Error)>,
    not_given_back: Vec<(usize, Error)>,
    is_allowed: bool,
}

impl Joint {
    /// To ask these keys, of a limiter with this prefix.
    pub(crate) fn new<'a>(prefix: &KeyBytes, takes: impl Iterator<Item = (&'a [u8], TakeAll)>) -> Self {
        let asked = takes.enumerate().filter(|(_, (_, take))| !take.is_empty());
        let asked =
            asked.map(|(at, (key, take))| Asked { at, partition: partition(prefix, key), take, decisions: None });
        Self { asked: asked.collect(), errors: Vec::new(), not_given_back: Vec::new(), is_allowed: true }
    }

    /// As [`JointLimiter::check_or`].
    pub(crate) async fn check_or(
        mut self,
        records: &impl Records,
        on_error: impl Fn(usize, &Error) -> OnError + Send + Sync,
    ) -> JointOutcome {
        let mut taken = Vec::new();
        for place in 0..self.asked.len() {
            let asked = &mut self.asked[place];
            match asked.run(records, &asked.take).await {
                Ok(verdict) => {
                    asked.decisions = Some(asked.take.decision(&verdict).each().to_vec());
                    self.is_allowed = verdict.is_allowed();
                    taken.extend(GiveAll::of(&asked.take, &verdict).map(|give| (place, give)));
                    if !self.is_allowed {
                        self.look_behind(records, place, &taken).await;
                    }
                }
                Err(error) => {
                    self.is_allowed = is_outage(&error) && on_error(asked.at, &error) == OnError::Allow;
                    self.errors.push((asked.at, error));
                    if !self.is_allowed {
                        self.not_given_back = self.give_back(records, &taken).await;
                    }
                }
            }
            if !self.is_allowed {
                for (place, _) in taken {
                    self.asked[place].untake();
                }
                break;
            }
        }
        self.outcome()
    }

    /// Gives back what was taken before the key at this place denied, and meanwhile looks at those behind it: who waits as long as the
    /// answer says is admitted by all.
    async fn look_behind(&mut self, records: &impl Records, place: usize, taken: &[(usize, GiveAll)]) {
        let looks = self.asked[place + 1..].iter().map(|asked| async move {
            let look = asked.take.clone().look();
            let verdict = asked.run(records, &look).await?;
            Ok::<_, Error>(look.decision(&verdict).each().to_vec())
        });
        let (answers, not_given_back) = futures::join!(join_all(looks), self.give_back(records, taken));
        self.not_given_back = not_given_back;
        for (asked, answer) in self.asked[place + 1..].iter_mut().zip(answers) {
            match answer {
                Ok(decisions) => asked.decisions = Some(decisions),
                Err(error) => self.errors.push((asked.at, error)),
            }
        }
    }

    /// Once: a second that follows a lost reply would give what was never taken. What is not given back costs the client tokens, as a lost
    /// reply does, and changes no answer: it is told beside it.
    async fn give_back(&self, records: &impl Records, taken: &[(usize, GiveAll)]) -> Vec<(usize, Error)> {
        let give = |(place, give): &(usize, GiveAll)| {
            let (asked, give) = (&self.asked[*place], give.clone());
            async move {
                let answer = records.give(Key::lone(schema::RULES, &asked.partition), &give).await;
                Some((asked.at, answer.err()?))
            }
        };
        join_all(taken.iter().map(give)).await.into_iter().flatten().collect()
    }

    fn outcome(self) -> JointOutcome {
        let mut errors = self.errors;
        errors.sort_by_key(|(at, _)| *at);
        let each: Vec<_> = self.asked.into_iter().filter_map(|asked| asked.decisions).flatten().collect();
        let decision = (!each.is_empty()).then(|| JointDecision::of(each));
        JointOutcome { decision, errors, not_given_back: self.not_given_back, is_allowed: self.is_allowed }
    }
}
