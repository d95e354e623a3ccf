//! The relay: settles intents, publishes what became true.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use sysd_core::event::{Event, EventId, EventSink};
use sysd_core::{Error, Expect, Key, KeyBytes, Outcome, Result, Scan, Store, Version, Write, tuple};

use super::intent::{Decision, Intent, decide};
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
    /// The first failure; its record was left for the next time.
    pub error: Option<Error>,
}

/// A record that has intents: which (their versions), as they were first seen.
struct Group {
    space: String,
    partition: Vec<u8>,
    sort: Vec<u8>,
    seen: Vec<Version>,
}

type Intents = BTreeMap<Version, (Intent, Version)>;

impl<S: Store> Outbox<S> {
    /// Relays for ever: run it beside the application, in one place or in several.
    ///
    /// # Cancel safety
    /// Dropped, it has published what it has; the next relay goes on.
    pub async fn relay(&self, sink: &impl EventSink) {
        loop {
            let did = self.relay_once(sink).await;
            if let Err(error) | Ok(Relayed { error: Some(error), .. }) = &did {
                tracing::warn!(outbox = self.name, %error, "the relay could not settle all intents");
            }
            if did.is_err() || did.is_ok_and(|did| did.settled == 0) {
                let wake_at = self.calls.now().saturating_add(self.config.poll_every);
                self.config.clock.sleep_until(wake_at).await;
            }
        }
    }

    /// Looks at all intents once, and settles those that can be.
    ///
    /// # Errors
    /// [`Config`](sysd_core::ErrorKind::Config) naming `event_bytes_max` or `event_key_bytes_max` if the sink takes less than these; else
    /// of reading the intents. What concerns one record only is in the answer.
    ///
    /// # Cost
    /// A scan a shard; a record's intents cost a read, a scan, and a publication and a write each.
    pub async fn relay_once(&self, sink: &impl EventSink) -> Result<Relayed> {
        self.check_sink(sink.limits())?;
        let mut relayed = Relayed::default();
        for shard in 0..self.config.shards {
            let partition = self.partition(shard);
            let mut cursor: Option<Bytes> = None;
            loop {
                let mut scan = Scan::partition(SPACE, &partition, PAGE_ROWS);
                if let Some(cursor) = &cursor {
                    scan = scan.after(cursor);
                }
                let page = self.calls.scan(scan).await?;
                let mut groups: Vec<Group> = Vec::new();
                for row in &page.rows {
                    add(&mut groups, Key::row(SPACE, &partition, &row.sort))?;
                }
                let some = stream::iter(groups.into_iter().map(|group| self.settle(&partition, group, sink)));
                let some: Vec<_> = some.buffer_unordered(self.config.records_at_once.max(1)).collect().await;
                for one in some {
                    relayed.published += one.published;
                    relayed.settled += one.settled;
                    relayed.left += one.left;
                    relayed.error = relayed.error.or(one.error);
                }
                match page.next {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
        }
        Ok(relayed)
    }

    async fn settle(&self, partition: &[u8], group: Group, sink: &impl EventSink) -> Relayed {
        let mut relayed = Relayed::default();
        if let Err(error) = self.try_settle(partition, &group, sink, &mut relayed).await {
            relayed.error = Some(error);
        }
        relayed.left = group.seen.len().saturating_sub(relayed.settled);
        relayed
    }

    async fn try_settle(
        &self,
        partition: &[u8],
        group: &Group,
        sink: &impl EventSink,
        relayed: &mut Relayed,
    ) -> Result<()> {
        let space = self.space(&group.space).ok_or_else(|| {
            let message = format!("the outbox was not given space {}, which has intents", group.space);
            Error::new(sysd_core::ErrorKind::Config, sysd_core::Effect::None, message)
        })?;
        let key = Key::row(space, &group.partition, &group.sort);
        // The order matters: intents, the record, intents again.
        let (early, record, late);
        if self.config.has(Bug::EarlyScan) {
            late = self.intents(partition, group).await?;
            early = late.keys().copied().collect();
            record = self.calls.get(key).await?;
        } else {
            early = group.seen.clone();
            record = self.calls.get(key).await?;
            late = self.intents(partition, group).await?;
        }
        let late: Intents = late;
        let by_version = late.iter().map(|(version, (intent, _))| (*version, intent)).collect();
        let mut decision = decide(record.map(|record| record.version), &early, &by_version, self.calls.now());
        self.spoil(&mut decision, &late);
        for version in &decision.publish {
            let Some((intent, _)) = late.get(version) else { continue };
            let remove = self.place(intent);
            if self.config.has(Bug::RemoveFirst) {
                self.calls.write(&Write::delete(remove.key())).await?;
            }
            for (event, index) in intent.events.iter().zip(0..) {
                let id = EventId { version: *version, index };
                sink.append(&Event::new(id, &event.key, event.bytes.clone())).await?;
                relayed.published += 1;
            }
            self.calls.write(&Write::delete(remove.key())).await?;
            relayed.settled += 1;
        }
        for version in &decision.forget {
            let Some((intent, _)) = late.get(version) else { continue };
            self.calls.write(&Write::delete(self.place(intent).key())).await?;
            relayed.settled += 1;
        }
        for version in &decision.carry_out {
            let Some((intent, token)) = late.get(version) else { continue };
            self.carry_out(key, intent, *token).await?;
        }
        Ok(())
    }

    /// Deliberate mistakes.
    fn spoil(&self, decision: &mut Decision, late: &Intents) {
        if self.config.has(Bug::AnyOrder) {
            decision.publish = late.keys().copied().filter(|version| decision.publish.contains(version)).collect();
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

    /// The intents of a record as they are now.
    async fn intents(&self, partition: &[u8], group: &Group) -> Result<Intents> {
        let prefix = Self::prefix(&group.space, &group.partition, &group.sort);
        let end = tuple::prefix_end(&prefix).unwrap_or_else(|| KeyBytes::from_slice(&[0xFF; 64]));
        let mut intents = Intents::new();
        let mut cursor: Option<Bytes> = None;
        loop {
            let from = cursor.as_deref().map_or(Bound::Included(prefix.as_slice()), Bound::Excluded);
            if cursor.as_deref().is_some_and(|cursor| cursor >= end.as_slice()) {
                return Ok(intents);
            }
            let scan = Scan::partition(SPACE, partition, PAGE_ROWS).range(from, Bound::Excluded(&end));
            let page = self.calls.scan(scan).await?;
            for row in page.rows {
                let intent = Intent::decode(Key::row(SPACE, partition, &row.sort), &row.record.value)?;
                intents.insert(intent.version, (intent, row.record.version));
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(intents),
            }
        }
    }
}

/// Adds a row to the group of its record: rows of one record follow each other.
fn add(groups: &mut Vec<Group>, key: Key<'_>) -> Result<()> {
    let corrupt = || Error::corrupt(key, "not an intent of an outbox");
    let sort = key.sort();
    let (_, version) = sort.split_last_chunk::<16>().ok_or_else(corrupt)?;
    let prefix = &sort[..sort.len() - 16];
    let (space, partition, record_sort): (String, Vec<u8>, Vec<u8>) = tuple::decode(prefix).map_err(|_| corrupt())?;
    let version = Version::from_bytes(*version);
    match groups.last_mut() {
        Some(group) if group.space == space && group.partition == partition && group.sort == record_sort => {
            group.seen.push(version);
        }
        _ => groups.push(Group { space, partition, sort: record_sort, seen: vec![version] }),
    }
    Ok(())
}
