//! The relay: settles intents, publishes what became true.
//!
//! What it holds at once, in bytes, is at most `relay_bytes_max`: a quarter for the page that was listed last, one for what
//! records in hand brought from theirs, and two for the intent that each of these fetches and the value of its record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use sysd_core::event::{Event, EventId, EventSink};
use sysd_core::{
    Effect, Error, ErrorKind, Expect, Key, KeyBytes, Outcome, Record, Result, Scan, Store, Timestamp, Version, Write,
    timeout, tuple,
};

use super::intent::{Decision, Head, Intent, decide};
use super::rest::Rests;
use super::walk::{CHAIN_MAX, Walk};
use super::{Bug, Outbox, SPACE};

const PAGE_ROWS: usize = 256;

/// What one look at all intents came to.
#[derive(Debug, Default)]
pub struct Relayed {
    /// Events that were published.
    pub published: usize,
    /// Intents that were settled.
    pub settled: usize,
    /// Intents that were left: their writers are at it, or something failed.
    pub left: usize,
    /// Records, and rows that name none, of which something failed. They are left as they are, and the others go on.
    pub failed: usize,
    /// The first failure, with the key of the record, or of the row that can't be read.
    pub error: Option<Error>,
}

impl Relayed {
    fn fail(&mut self, error: Error) {
        self.failed += 1;
        self.error.get_or_insert(error);
    }
}

/// An intent as it was listed: under which version its row is, and what it says.
struct Listed {
    token: Version,
    intent: std::result::Result<Intent, Broken>,
}

/// An intent that can't be read.
struct Broken {
    error: Error,
    /// Where that much can be read.
    head: Option<Head>,
}

impl Broken {
    fn new(version: Version, bytes: &[u8], error: Error) -> Self {
        Self { error, head: Intent::head_of(version, bytes) }
    }
}

/// A record that has intents: those of one page.
pub(super) struct Group {
    /// What the keys of all its intents begin with.
    prefix: KeyBytes,
    space: String,
    partition: Vec<u8>,
    sort: Vec<u8>,
    listed: BTreeMap<Version, Listed>,
    bytes: usize,
}

/// What came of a record.
pub(super) struct Settled {
    prefix: KeyBytes,
    bytes: usize,
    relayed: Relayed,
    /// Whether the record is to rest, or else only what can't be read and is none of its history's.
    is_stopped: bool,
}

impl Group {
    /// Who rests where only intents that can't be read are left: the record does not, for more may come.
    fn rests_as(&self) -> KeyBytes {
        if self.listed.values().any(|listed| listed.intent.is_ok()) {
            self.prefix.clone()
        } else {
            broken_of(&self.prefix)
        }
    }
}

/// What can't be read of a record. No record's key is that of another with a byte behind.
fn broken_of(prefix: &KeyBytes) -> KeyBytes {
    let mut broken = prefix.clone();
    broken.push(0);
    broken
}

/// Records in hand.
struct Flights<F> {
    futures: FuturesUnordered<F>,
    prefixes: BTreeSet<KeyBytes>,
    /// Those that have ended since the last page was asked for: what that lists of them may have been published since.
    landed: BTreeSet<KeyBytes>,
    bytes: usize,
}

/// What a look adds to.
struct Look<'a> {
    rests: &'a mut Rests,
    relayed: Relayed,
}

impl<F: Future<Output = Settled> + Send> Flights<F> {
    fn new() -> Self {
        Self { futures: FuturesUnordered::new(), prefixes: BTreeSet::new(), landed: BTreeSet::new(), bytes: 0 }
    }

    /// Waits for one of them.
    async fn land(&mut self, look: &mut Look<'_>, now: impl Fn() -> Timestamp + Send) -> bool {
        let Some(one) = self.futures.next().await else { return false };
        self.note(one, look, now());
        true
    }

    fn note(&mut self, one: Settled, look: &mut Look<'_>, now: Timestamp) {
        self.prefixes.remove(&one.prefix);
        self.bytes -= one.bytes;
        look.rests.note(&one.prefix, one.is_stopped, now);
        look.rests.note(&broken_of(&one.prefix), one.relayed.failed > 0, now);
        self.landed.insert(one.prefix);
        look.relayed.published += one.relayed.published;
        look.relayed.settled += one.relayed.settled;
        look.relayed.left += one.relayed.left;
        look.relayed.failed += one.relayed.failed;
        if let Some(error) = one.relayed.error {
            look.relayed.error.get_or_insert(error);
        }
    }

    /// Does this, and goes on with the records in hand meanwhile.
    async fn beside<T>(
        &mut self,
        look: &mut Look<'_>,
        now: impl Fn() -> Timestamp + Send,
        work: impl Future<Output = T> + Send,
    ) -> T {
        let mut work = pin!(work);
        loop {
            if self.futures.is_empty() {
                return work.await;
            }
            match select(work.as_mut(), self.futures.next()).await {
                Either::Left((output, _)) => return output,
                Either::Right((one, _)) => {
                    if let Some(one) = one {
                        self.note(one, look, now());
                    }
                }
            }
        }
    }
}

impl<S: Store> Outbox<S> {
    /// Relays for ever: run it beside the application, in one place or in several.
    ///
    /// A record whose events can't be published is left alone for a while, longer each time, and stops no other.
    ///
    /// # Cancel safety
    /// Dropped, it has published what it has; the next relay goes on.
    pub async fn relay(&self, sink: &impl EventSink) {
        self.relay_reporting(sink, |_| ()).await;
    }

    /// As [`relay`](Self::relay), and tells what each look came to: for counters and alarms.
    ///
    /// # Cancel safety
    /// As [`relay`](Self::relay).
    pub async fn relay_reporting(&self, sink: &impl EventSink, mut report: impl FnMut(&Relayed) + Send) {
        let mut rests = Rests::new(self.config.poll_every, self.config.rest_max);
        let settle = |partition: KeyBytes, group: Group| self.settle(partition, group, sink);
        let mut flights = Flights::new();
        loop {
            let mut look = Look { rests: &mut rests, relayed: Relayed::default() };
            let looked = match self.check_sink(sink.limits()) {
                Ok(()) => self.look(&mut flights, &settle, &mut look).await,
                Err(error) => Err(error),
            };
            if let Err(error) = looked {
                look.relayed.fail(error);
            }
            if look.relayed.settled == 0 {
                let wake_at = self.calls.now().saturating_add(self.config.poll_every);
                let sleep = self.config.clock.sleep_until(wake_at);
                flights.beside(&mut look, || self.calls.now(), sleep).await;
            }
            self.count(&look.relayed);
            if let Some(error) = &look.relayed.error {
                let failed = look.relayed.failed;
                tracing::warn!(outbox = self.name, failed, %error, "the relay could not settle all intents");
            }
            report(&look.relayed);
        }
    }

    #[cfg(feature = "metrics")]
    fn count(&self, relayed: &Relayed) {
        let count = |name: &'static str, by: usize| {
            metrics::counter!(name, "outbox" => self.name.clone()).increment(by as u64);
        };
        count("sysd_outbox_published_total", relayed.published);
        count("sysd_outbox_failed_total", relayed.failed);
    }

    #[cfg(not(feature = "metrics"))]
    #[expect(clippy::unused_self, reason = "as above, without metrics")]
    const fn count(&self, _: &Relayed) {}

    /// Looks at all intents once, and settles those that can be.
    ///
    /// # Errors
    /// [`Config`](sysd_core::ErrorKind::Config) naming `event_bytes_max` or `event_key_bytes_max` if the sink takes less than these; else
    /// of reading the intents. What concerns one record only, or one row, is in the answer.
    ///
    /// # Cost
    /// A scan a shard and page; a record's intents cost two reads, and a publication and a write each.
    ///
    /// # Cancel safety
    /// Dropped, it has published what it has; the next relay goes on.
    pub async fn relay_once(&self, sink: &impl EventSink) -> Result<Relayed> {
        self.check_sink(sink.limits())?;
        let mut rests = Rests::new(self.config.poll_every, self.config.rest_max);
        let mut look = Look { rests: &mut rests, relayed: Relayed::default() };
        let settle = |partition: KeyBytes, group: Group| self.settle(partition, group, sink);
        let mut flights = Flights::new();
        let looked = self.look(&mut flights, &settle, &mut look).await;
        while flights.land(&mut look, || self.calls.now()).await {}
        looked.map(|()| look.relayed)
    }

    /// Lists all intents, page by page, and takes their records in hand. Some may be in hand still when it ends.
    async fn look<F: Future<Output = Settled> + Send>(
        &self,
        flights: &mut Flights<F>,
        settle: &(impl Fn(KeyBytes, Group) -> F + Send + Sync),
        look: &mut Look<'_>,
    ) -> Result<()> {
        let now = || self.calls.now();
        // What a quarter of the bytes is room for.
        let intents_max = self.config.relay_bytes_max / 4 / self.intent_bytes_max().max(1);
        let (page_rows, at_once) =
            (intents_max.clamp(1, PAGE_ROWS), self.config.records_at_once.clamp(1, intents_max.max(1)));
        for shard in 0..self.config.shards {
            let partition = self.partition(shard);
            let mut cursor: Option<Bytes> = None;
            loop {
                let mut scan = Scan::partition(SPACE, &partition, page_rows);
                if let Some(cursor) = &cursor {
                    scan = scan.after(cursor);
                }
                flights.landed.clear();
                let page = flights.beside(look, now, self.calls.scan(scan)).await?;
                let mut groups: VecDeque<Group> = VecDeque::new();
                for row in page.rows {
                    let key = Key::row(SPACE, &partition, &row.sort);
                    if let Err(error) = add(&mut groups, key, &row.record.value, row.record.version) {
                        look.relayed.left += 1;
                        look.relayed.fail(error);
                    }
                }
                for group in groups {
                    let is_full = |flights: &Flights<F>| {
                        let bytes = flights.bytes + group.bytes;
                        flights.futures.len() >= at_once || bytes > self.config.relay_bytes_max / 4
                    };
                    while is_full(flights) && flights.land(look, now).await {}
                    let is_stale = flights.prefixes.contains(&group.prefix) || flights.landed.contains(&group.prefix);
                    let is_resting = |who: &KeyBytes| look.rests.is_resting(who, now());
                    if is_stale || is_resting(&group.prefix) || is_resting(&group.rests_as()) {
                        look.relayed.left += group.listed.len();
                        continue;
                    }
                    flights.prefixes.insert(group.prefix.clone());
                    flights.bytes += group.bytes;
                    flights.futures.push(settle(partition.clone(), group));
                }
                match page.next {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn settle(&self, partition: KeyBytes, group: Group, sink: &impl EventSink) -> Settled {
        let (prefix, bytes, count) = (group.prefix.clone(), group.bytes, group.listed.len());
        let mut relayed = Relayed::default();
        let settled = self.try_settle(&partition, group, sink, &mut relayed).await;
        let is_stopped = settled.is_err();
        if let Err(error) = settled {
            relayed.fail(error);
        }
        relayed.left = count.saturating_sub(relayed.settled);
        Settled { prefix, bytes, relayed, is_stopped }
    }

    async fn try_settle(
        &self,
        partition: &[u8],
        group: Group,
        sink: &impl EventSink,
        relayed: &mut Relayed,
    ) -> Result<()> {
        let space = self.space(&group.space).ok_or_else(|| {
            let message = format!("the outbox was not given space {}, which has intents", group.space);
            Error::new(ErrorKind::Config, Effect::None, message)
        })?;
        let key = Key::row(space, &group.partition, &group.sort);
        // The order matters: first the intents were listed, then the record, then what its history names.
        let record = self.calls.get(key).await?.map(|record| record.version);
        let mut walk = Walk::new(record, group.listed.keys().copied(), CHAIN_MAX);
        // Of those of its history that can't be read, the oldest: what comes before it is not held up.
        let mut stop: Option<(Version, Error)> = None;
        while let Some(version) = walk.next() {
            let fetched;
            let intent = match group.listed.get(&version) {
                Some(listed) => Some(&listed.intent),
                None if self.config.has(Bug::ListedOnly) => None,
                None => {
                    fetched = self.intent(partition, &group.prefix, version).await?;
                    fetched.as_ref()
                }
            };
            let before = match intent {
                Some(Ok(intent)) => intent.before,
                Some(Err(Broken { error, head: None })) => return Err(error.share()),
                Some(Err(Broken { error, head: Some(head) })) => {
                    stop = Some((version, error.share()));
                    head.before
                }
                None => {
                    walk.end();
                    continue;
                }
            };
            let circle = |_| Error::corrupt(key, "its intents name each other in a circle");
            walk.step(before).map_err(circle)?;
        }
        let readable = group.listed.values().filter_map(|listed| listed.intent.as_ref().ok());
        let mut decision = decide(record, &walk, readable, self.calls.now());
        self.spoil(&mut decision);
        for version in &decision.publish {
            if stop.as_ref().is_some_and(|(stop, _)| stop == version) {
                break;
            }
            let fetched = match group.listed.get(version) {
                Some(_) => None,
                None => match self.intent(partition, &group.prefix, *version).await? {
                    Some(intent) => Some(intent.map_err(|broken| broken.error)?),
                    // Gone: another relay published it.
                    None => continue,
                },
            };
            let listed = || group.listed.get(version).and_then(|listed| listed.intent.as_ref().ok());
            let Some(intent) = fetched.as_ref().or_else(listed) else { continue };
            self.publish(key, intent, sink, relayed).await?;
        }
        // Where that was misread, what looks as if it had been overtaken may be of the history: it stays.
        if let Some((_, error)) = stop {
            return Err(error);
        }
        for (version, Listed { token, intent }) in &group.listed {
            let Ok(intent) = intent else { continue };
            if decision.forget.contains(version) {
                self.calls.write(&Write::delete(self.place(intent).key())).await?;
                relayed.settled += 1;
            } else if decision.carry_out.contains(version) {
                self.carry_out(key, intent, *token).await?;
            }
        }
        // One that can't be read is none of the history's: it is told, and the record goes on.
        if let Some(Broken { error, .. }) = group.listed.into_values().find_map(|listed| listed.intent.err()) {
            relayed.fail(error);
        }
        Ok(())
    }

    /// Publishes the events of an intent, each within its time, and removes it.
    async fn publish(&self, key: Key<'_>, intent: &Intent, sink: &impl EventSink, relayed: &mut Relayed) -> Result<()> {
        let remove = self.place(intent);
        if self.config.has(Bug::RemoveFirst) {
            self.calls.write(&Write::delete(remove.key())).await?;
        }
        for (event, index) in intent.events.iter().zip(0..) {
            let id = EventId { version: intent.version, index };
            let event = Event::new(id, &event.key, event.bytes.clone());
            let append = timeout(&self.config.clock, self.config.publish_wait_max, sink.append(&event)).await;
            let late = |_| Err(Error::new(ErrorKind::Timeout, Effect::Unknown, "the sink gave no answer in time"));
            append.unwrap_or_else(late).map_err(|error| error.with_key(key))?;
            relayed.published += 1;
        }
        self.calls.write(&Write::delete(remove.key())).await?;
        relayed.settled += 1;
        Ok(())
    }

    /// Deliberate mistakes.
    fn spoil(&self, decision: &mut Decision) {
        if self.config.has(Bug::AnyOrder) {
            decision.publish.sort_unstable();
        }
        if self.config.has(Bug::PublishAbandoned) {
            decision.publish.append(&mut decision.carry_out);
        }
        if self.config.has(Bug::TakeBack) {
            decision.forget.append(&mut decision.carry_out);
        }
    }

    /// Writes a record in its writer's stead, who from then on can't say that it did not happen.
    async fn carry_out(&self, key: Key<'_>, intent: &Intent, token: Version) -> Result<()> {
        if !intent.is_claimed {
            let place = self.place(intent);
            let claimed = Intent { is_claimed: true, ..intent.clone() };
            let claim = Write::put(place.key(), claimed.encode()).with_version(self.calls.mint());
            if let Outcome::Conflict { .. } = self.calls.write(&claim.expect(Expect::Is(token))).await?.outcome {
                return Ok(());
            }
        }
        let write = Write::put(key, intent.value.clone()).with_version(intent.version).expect(intent.expect());
        // Applied or not, the next look at the record says so.
        self.calls.write(&write).await.map(|_| ())
    }

    /// The intent of a record's version as it is now.
    async fn intent(
        &self,
        partition: &[u8],
        prefix: &KeyBytes,
        version: Version,
    ) -> Result<Option<std::result::Result<Intent, Broken>>> {
        let mut sort = prefix.clone();
        sort.extend_from_slice(&version.to_bytes());
        let key = Key::row(SPACE, partition, &sort);
        let found = self.calls.get(key).await?;
        let read = |record: Record| {
            Intent::decode(key, &record.value).map_err(|error| Broken::new(version, &record.value, error))
        };
        Ok(found.map(read))
    }
}

/// Adds a row to the group of its record: rows of one record follow each other.
fn add(groups: &mut VecDeque<Group>, key: Key<'_>, value: &Bytes, token: Version) -> Result<()> {
    let corrupt = || Error::corrupt(key, "not an intent of an outbox");
    let (prefix, version) = key.sort().split_last_chunk::<16>().ok_or_else(corrupt)?;
    let version = Version::from_bytes(*version);
    let intent = Intent::decode(key, value);
    let intent = intent.and_then(|intent| if intent.version == version { Ok(intent) } else { Err(corrupt()) });
    let intent = intent.map_err(|error| Broken::new(version, value, error));
    let listed = Listed { token, intent };
    match groups.back_mut() {
        Some(group) if group.prefix.as_slice() == prefix => {
            group.bytes += value.len();
            group.listed.insert(version, listed);
        }
        _ => {
            let (space, partition, sort): (String, Vec<u8>, Vec<u8>) = tuple::decode(prefix).map_err(|_| corrupt())?;
            let (prefix, listed) = (KeyBytes::from_slice(prefix), BTreeMap::from([(version, listed)]));
            groups.push_back(Group { prefix, space, partition, sort, listed, bytes: value.len() });
        }
    }
    Ok(())
}
