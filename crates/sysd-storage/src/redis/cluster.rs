//! The nodes of a Cluster, and who holds which slot.
//!
//! # Why not the client's own Cluster connection
//! Because it sends again by itself. After a dropped connection its `choose_response` puts the command back into its queue as
//! long as retries are left (16 unless set), whether or not the first was carried out; a procedure, or a put without a
//! condition, could then happen twice, the second time over somebody else's write. With retries set to none it no longer
//! follows redirections either. So calls are routed here:
//! - a call goes to the holder of its slot, once;
//! - `MOVED`, `ASK` and `NOSCRIPT` mean that nothing was done: the call is sent on, a few times at most;
//! - so does a connection that could not be made: the map is learned anew, and a new holder tried;
//! - whatever else goes wrong after the call went out is the caller's to judge, its effect unknown. The next call learns the
//!   map first.
//!
//! The map is learned as soon as somebody needs it, from several nodes at once, and from more when these do not answer, the first answer taken; callers share one attempt, which a
//! task of its own drives.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, Shared};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::{Mutex, RwLock};
use redis::{ErrorKind as RedisKind, RedisError, ServerError, ServerErrorKind, Value};

use super::address::Connector;
use super::call::Call;
use super::link::{Failure, Link};
use super::slots::{self, Address, Range, SLOTS};

/// How often a call is sent on at most.
const HOPS_MAX: usize = 5;
/// The map is not learned more often than this.
const LEARN_GAP: Duration = Duration::from_millis(50);
/// How many nodes are asked for the map at once, as long as none of them hangs.
const ASKED_AT_ONCE: usize = 4;
/// How many links are kept to nodes that the map does not know.
const STRANGERS_MAX: usize = 16;
const NOBODY: u16 = u16::MAX;

/// The nodes of a Cluster.
pub(super) struct Cluster {
    connector: Connector,
    seeds: Vec<Arc<Link>>,
    map: RwLock<Arc<Map>>,
    /// Links to nodes that redirections named and the map does not know: those that take their first slot. The oldest goes first.
    strangers: Mutex<VecDeque<Arc<Link>>>,
    learning: Mutex<Learning>,
    /// Something went wrong that a newer map may explain.
    is_stale: AtomicBool,
    /// Itself, for attempts to learn the map, which keep nobody alive.
    weak: Weak<Self>,
}

struct Map {
    /// Indexes into `nodes` by slot.
    holders: Box<[u16]>,
    nodes: Vec<Arc<Link>>,
    /// How many of `nodes`, from the first on, are masters.
    masters: usize,
}

#[derive(Default)]
struct Learning {
    attempt: Option<Current>,
    /// Numbers attempts.
    attempts: u64,
    learned_at: Option<Instant>,
}

/// The attempt under way.
struct Current {
    number: u64,
    attempt: Attempt,
    since: Instant,
}

type Attempt = Shared<BoxFuture<'static, Result<(), Failure>>>;

/// What to do about a refusal.
enum Next {
    Moved(Address),
    Ask(Address),
    LoadScript,
    Tell,
}

impl Cluster {
    /// Knows nothing yet: [`Cluster::learn`].
    pub(super) fn new(connector: Connector, seeds: Vec<Arc<Link>>) -> Arc<Self> {
        let holders = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
        let map = RwLock::new(Arc::new(Map { holders, nodes: Vec::new(), masters: 0 }));
        let (strangers, learning) = (Mutex::default(), Mutex::default());
        Arc::new_cyclic(|weak| Self {
            connector,
            seeds,
            map,
            strangers,
            learning,
            is_stale: AtomicBool::new(false),
            weak: Weak::clone(weak),
        })
    }

    /// The links to all masters.
    pub(super) fn masters(&self) -> Vec<Arc<Link>> {
        let map = Arc::clone(&self.map.read());
        map.nodes[..map.masters].to_vec()
    }

    /// The holder of a call's slot, as far as is known.
    pub(super) fn holder(&self, call: &Call) -> Option<Arc<Link>> {
        let map = self.map.read();
        let index = map.holders[usize::from(call.slot())];
        map.nodes.get(usize::from(index)).cloned()
    }

    /// Learns the map first if something speaks against it.
    pub(super) async fn freshen(&self) {
        if self.is_stale.load(Ordering::Relaxed) {
            // What is known may still do; the call will tell.
            let _ = self.learn(None).await;
        }
    }

    /// Something went wrong that a newer map may explain.
    pub(super) fn doubt(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    /// Sends a call to where it belongs.
    pub(super) async fn send(&self, call: &Call) -> Result<Value, Failure> {
        if self.is_stale.load(Ordering::Relaxed) {
            self.freshen().boxed().await;
        }
        if let Some(link) = self.holder(call).filter(|link| link.is_up()) {
            let answer = link.send(&call.command).await;
            if let Ok(Value::ServerError(_)) | Err(_) = &answer {
                return self.settle(call, link, answer).boxed().await;
            }
            return answer;
        }
        self.send_slowly(call).boxed().await
    }

    async fn send_slowly(&self, call: &Call) -> Result<Value, Failure> {
        let mut holder = self.holder(call);
        if holder.is_none() {
            self.learn(None).await?;
            holder = self.holder(call);
        }
        let link = holder.ok_or_else(nobody)?;
        let answer = link.send(&call.command).await;
        self.settle(call, link, answer).await
    }

    /// Sends a call on, as long as it is certain that nothing was done.
    pub(super) async fn settle(
        &self,
        call: &Call,
        mut link: Arc<Link>,
        mut answer: Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        let start = Instant::now();
        let (mut command, mut is_asking) = (call.command.clone(), false);
        for _ in 0..HOPS_MAX {
            match &answer {
                Ok(Value::ServerError(refusal)) => match self.next(refusal, &link) {
                    Next::Moved(address) => {
                        // Without a newer map the next call is only a hop longer.
                        let _ = self.learn(None).await;
                        (link, is_asking) = (self.link(&address)?, false);
                    }
                    Next::Ask(address) => (link, is_asking) = (self.link(&address)?, true),
                    Next::LoadScript => command = call.loading(),
                    Next::Tell => return answer,
                },
                Ok(_) => return answer,
                Err(failure) if failure.was_sent => {
                    self.doubt();
                    return answer;
                }
                Err(_) => {
                    self.learn(Some(&link)).await?;
                    match self.holder(call) {
                        Some(holder) if holder.address != link.address => (link, is_asking) = (holder, false),
                        _ => {
                            self.doubt();
                            return answer;
                        }
                    }
                }
            }
            if start.elapsed() > self.connector.response_timeout {
                return answer;
            }
            answer = if is_asking { link.send_asking(&command).await } else { link.send(&command).await };
        }
        answer
    }

    fn next(&self, refusal: &ServerError, link: &Link) -> Next {
        let address = || {
            let (_, address) = refusal.details()?.split_once(' ')?;
            Address::parse(address, &link.address.host)
        };
        match refusal.kind() {
            Some(ServerErrorKind::Moved) => address().map_or(Next::Tell, Next::Moved),
            Some(ServerErrorKind::Ask) => address().map_or(Next::Tell, Next::Ask),
            Some(ServerErrorKind::NoScript) => Next::LoadScript,
            Some(ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly) => {
                self.doubt();
                Next::Tell
            }
            _ => Next::Tell,
        }
    }

    /// The link to a node, also to one that the map does not know.
    fn link(&self, address: &Address) -> Result<Arc<Link>, Failure> {
        let map = Arc::clone(&self.map.read());
        if let Some(known) = map.nodes.iter().chain(&self.seeds).find(|link| link.address == *address) {
            return Ok(Arc::clone(known));
        }
        let mut strangers = self.strangers.lock();
        if let Some(known) = strangers.iter().find(|link| link.address == *address) {
            return Ok(Arc::clone(known));
        }
        let link = Arc::new(self.connector.link(address).map_err(Failure::unsent)?);
        if strangers.len() == STRANGERS_MAX {
            strangers.pop_front();
        }
        strangers.push_back(Arc::clone(&link));
        Ok(link)
    }

    /// Learns who holds which slot, unless that was done a moment ago. `suspect` is not asked.
    ///
    /// # Errors
    /// If no node answers in time. What was known stays.
    pub(super) async fn learn(&self, suspect: Option<&Link>) -> Result<(), Failure> {
        match self.attempt(suspect) {
            Some(attempt) => attempt.await,
            None => Ok(()),
        }
    }

    /// The end of an attempt; of one in whose stead another is under way, the answer is nobody's map.
    fn finish(&self, number: u64, ranges: Result<Vec<Range>, RedisError>) -> Result<(), Failure> {
        let mut learning = self.learning.lock();
        if learning.attempt.as_ref().is_none_or(|current| current.number != number) {
            return ranges.map(|_| ()).map_err(Failure::unsent);
        }
        learning.attempt = None;
        let map = self.draw(&ranges.map_err(Failure::unsent)?)?;
        *self.map.write() = Arc::new(map);
        learning.learned_at = Some(Instant::now());
        self.is_stale.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The attempt under way, or a new one; none where the map was learned a moment ago.
    ///
    /// A task drives it to its end, as one drives an attempt to connect ([`Link`]): were it the callers, those that are dropped or
    /// not polled would keep the others waiting, and the map old. The task ends with the attempt, after `connection_timeout` at
    /// most.
    fn attempt(&self, suspect: Option<&Link>) -> Option<Attempt> {
        let mut learning = self.learning.lock();
        if let Some(Current { attempt, since, .. }) = &learning.attempt {
            // One whose task is gone with its runtime would only time out.
            if since.elapsed() < self.connector.connection_timeout {
                return Some(attempt.clone());
            }
        }
        if learning.learned_at.is_some_and(|at| at.elapsed() < LEARN_GAP) {
            return None;
        }
        let mut asked = self.map.read().nodes.clone();
        for seed in &self.seeds {
            if !asked.iter().any(|link| link.address == seed.address) {
                asked.push(Arc::clone(seed));
            }
        }
        asked.retain(|link| suspect.is_none_or(|suspect| link.address != suspect.address));
        // Those that need no new connection first.
        asked.sort_by_key(|link| !link.is_up());
        learning.attempts += 1;
        let (number, cluster) = (learning.attempts, Weak::clone(&self.weak));
        let ranges = ask_for_ranges(asked, self.connector.connection_timeout);
        let attempt = async move {
            let ranges = ranges.await;
            cluster.upgrade().map_or(Ok(()), |cluster| cluster.finish(number, ranges))
        };
        let attempt = attempt.boxed().shared();
        drop(tokio::spawn(attempt.clone()));
        learning.attempt = Some(Current { number, attempt: attempt.clone(), since: Instant::now() });
        Some(attempt)
    }

    /// The map that these ranges make; links that are known stay as they are.
    fn draw(&self, ranges: &[Range]) -> Result<Map, Failure> {
        let old = Arc::clone(&self.map.read());
        let strangers = self.strangers.lock().clone();
        let known: HashMap<&Address, &Arc<Link>> =
            strangers.iter().chain(&self.seeds).chain(&old.nodes).map(|link| (&link.address, link)).collect();
        let link = |address: &Address| match known.get(address) {
            Some(link) => Ok(Arc::clone(link)),
            None => self.connector.link(address).map(Arc::new).map_err(Failure::unsent),
        };
        let mut map =
            Map { holders: vec![NOBODY; usize::from(SLOTS)].into_boxed_slice(), nodes: Vec::new(), masters: 0 };
        for range in ranges {
            let known = map.nodes.iter().position(|link| link.address == range.master);
            let index = known.unwrap_or(map.nodes.len());
            if known.is_none() {
                map.nodes.push(link(&range.master)?);
            }
            let index = u16::try_from(index).unwrap_or(NOBODY);
            map.holders[usize::from(range.first)..=usize::from(range.last)].fill(index);
        }
        map.masters = map.nodes.len();
        for address in ranges.iter().flat_map(|range| &range.replicas) {
            if !map.nodes.iter().any(|link| link.address == *address) {
                map.nodes.push(link(address)?);
            }
        }
        self.strangers.lock().retain(|stranger| !map.nodes.iter().any(|link| link.address == stranger.address));
        Ok(map)
    }
}

fn nobody() -> Failure {
    Failure::unsent((RedisKind::ClusterConnectionNotFound, "nobody holds this slot"))
}

/// Asks several nodes at once, more of them as time passes, and takes the first answer that makes sense.
async fn ask_for_ranges(asked: Vec<Arc<Link>>, deadline: Duration) -> Result<Vec<Range>, RedisError> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let command = &command;
    let ask = |link: Arc<Link>| async move {
        match link.send(command).await {
            Ok(Value::ServerError(refusal)) if refusal.kind() == Some(ServerErrorKind::ResponseError) => {
                Err((RedisKind::InvalidClientConfig, "this server is no Cluster; give it a redis:// URL").into())
            }
            Ok(Value::ServerError(refusal)) => Err(refusal.into()),
            Ok(answer) => slots::read_ranges(&answer, &link.address.host)
                .ok_or_else(|| (RedisKind::ClusterConnectionNotFound, "the node knows no holder of any slot").into()),
            Err(failure) => Err(failure.error),
        }
    };
    // Those that hang keep nobody from being asked: each few have their share of the time before more are asked beside them.
    let shares = u32::try_from(asked.len().div_ceil(ASKED_AT_ONCE).max(1)).unwrap_or(u32::MAX);
    let share = (deadline / shares).max(Duration::from_millis(1));
    let answers = async {
        let mut waiting = asked.into_iter();
        let mut answers: FuturesUnordered<_> = waiting.by_ref().take(ASKED_AT_ONCE).map(ask).collect();
        let mut last = (RedisKind::ClusterConnectionNotFound, "there is no node to ask").into();
        loop {
            match tokio::time::timeout(share, answers.next()).await {
                Ok(Some(Ok(ranges))) => return Ok(ranges),
                Ok(Some(Err(error))) => {
                    last = error;
                    answers.extend(waiting.next().map(ask));
                }
                Ok(None) => return Err(last),
                Err(_) => answers.extend(waiting.by_ref().take(ASKED_AT_ONCE).map(ask)),
            }
        }
    };
    tokio::time::timeout(deadline, answers)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}
