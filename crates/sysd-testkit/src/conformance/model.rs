//! Random histories of every call against a map.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use sysd_core::entropy::{SeededEntropy, below};
use sysd_core::{
    Clock as _, ErrorKind, Expect, Keep, Key, Order, Outcome, Record, Scan, Store as _, StoreExt as _, Timestamp, Trim,
    Version, Write,
};

use super::case::{Case, Verdict, ensure, ensure_eq, record};
use super::procedures::{random, run_alone};
use super::tally::Tally;
use super::{PLAIN, TRUTH};

const HISTORIES: u64 = 24;
const STEPS: usize = 100;
const SORTS: [&[u8]; 8] = [b"", b"\x00", b"\x00\x00", b"a", b"a\x00", b"b", b"\xFF", b"\xFF\xFF"];

type Name = (Vec<u8>, Vec<u8>);

/// What the store should hold.
struct Model {
    records: BTreeMap<Name, Record>,
    /// Versions that were given once.
    versions: VecDeque<Version>,
    now: Timestamp,
}

impl Model {
    fn live(&self, key: Key<'_>) -> Option<Record> {
        let found = self.records.get(&(key.partition().to_vec(), key.sort().to_vec()));
        found.filter(|record| !record.is_expired(self.now)).cloned()
    }

    fn leave(&mut self, key: Key<'_>, record: Option<Record>) {
        let name = (key.partition().to_vec(), key.sort().to_vec());
        if let Some(record) = record {
            self.versions.push_front(record.version);
            self.versions.truncate(16);
            self.records.insert(name, record);
        } else {
            self.records.remove(&name);
        }
    }

    fn write(&mut self, write: &Write<'_>) -> Outcome {
        let live = self.live(write.key);
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => live.is_none(),
            Expect::Is(version) => live.as_ref().is_some_and(|record| record.version == version),
        };
        if holds {
            self.leave(write.key, record(write));
            return Outcome::Applied;
        }
        write.lost_to(live)
    }

    /// The live rows of a partition, in order.
    fn rows(&self, partition: &[u8]) -> Vec<(Vec<u8>, Record)> {
        let ours = |(name, record): &(&Name, &Record)| {
            name.0 == partition && !name.1.is_empty() && !record.is_expired(self.now)
        };
        self.records.iter().filter(ours).map(|(name, record)| (name.1.clone(), record.clone())).collect()
    }

    fn scan(&self, scan: &Scan<'_>) -> Vec<(Vec<u8>, Record)> {
        let mut rows = self.rows(scan.partition);
        rows.retain(|(sort, _)| scan.contains(sort));
        if scan.order == Order::Descending {
            rows.reverse();
        }
        rows.truncate(scan.limit);
        rows
    }

    fn trim(&mut self, partition: &[u8], keep: Keep) {
        let rows = self.rows(partition);
        let goes = match keep {
            Keep::First(count) => &rows[count.min(rows.len())..],
            Keep::Last(count) => &rows[..rows.len() - count.min(rows.len())],
        };
        for (sort, _) in goes {
            self.records.remove(&(partition.to_vec(), sort.clone()));
        }
    }
}

/// Numbers for one history.
struct Dice(SeededEntropy);

impl Dice {
    fn roll(&self, bound: usize) -> usize {
        usize::try_from(below(&self.0, bound as u64)).unwrap_or_default()
    }

    fn key<'a>(&self, partition: &'a [u8]) -> Key<'a> {
        Key::row(TRUTH, partition, SORTS[self.roll(SORTS.len())])
    }

    fn bound(&self) -> Bound<&'static [u8]> {
        let sort = SORTS[self.roll(SORTS.len())];
        [Bound::Unbounded, Bound::Included(sort), Bound::Excluded(sort)][self.roll(3)]
    }

    fn write<'a>(&self, key: Key<'a>, model: &Model) -> Write<'a> {
        let held = model.live(key).map(|record| record.version);
        let known = model.versions.get(self.roll(16)).copied();
        let version = if self.roll(2) == 0 { held.or(known) } else { known };
        let expect = [Expect::Any, Expect::Absent, version.map_or(Expect::Any, Expect::Is)][self.roll(3)];
        let write = match self.roll(5) {
            0 => Write::delete(key),
            length => Write::put(key, Bytes::from(vec![7; [0, 1, 24, 300][length - 1]])),
        };
        let write = match (self.roll(12), held) {
            // Sent again after a lost reply.
            (0, Some(held)) => write.with_version(held),
            _ => write.with_version(Version::mint(&self.0)),
        };
        let lives_us = [1, 2, 3, 1_500][self.roll(4)];
        let write = if self.roll(2) == 0 {
            write.expires_at(model.now.saturating_add(Duration::from_micros(lives_us)))
        } else {
            write
        };
        write.expect(expect)
    }
}

/// One random call on store and model.
async fn step(case: &Case<'_>, partitions: &[Vec<u8>; 2], dice: &Dice, model: &mut Model) -> Verdict {
    let partition = &partitions[dice.roll(2)];
    match dice.roll(12) {
        0 => {
            let key = dice.key(partition);
            ensure_eq!(case.store.get(key).await?, model.live(key), "get {key}");
        }
        1 => {
            let keys: Vec<_> = (0..dice.roll(6)).map(|_| dice.key(&partitions[dice.roll(2)])).collect();
            for (key, found) in keys.iter().zip(case.store.get_many(&keys).await) {
                ensure_eq!(found?, model.live(*key), "get_many {key}");
            }
        }
        2..=4 => {
            let write = dice.write(dice.key(partition), model);
            let outcome = case.store.write(write.clone()).await?;
            ensure_eq!(outcome, model.write(&write), "{write:?}");
        }
        5 => write_many(case, partition, dice, model).await?,
        6 | 7 => scan(case, partition, dice, model).await?,
        8 => {
            let keep = [Keep::First(dice.roll(5)), Keep::Last(dice.roll(5))][dice.roll(2)];
            case.store.trim_all(Trim { space: TRUTH, partition, keep }).await?;
            model.trim(partition, keep);
        }
        9 => {
            let key = Key::row(PLAIN, partition, SORTS[dice.roll(SORTS.len())]);
            case.apply(Write::put(key, "plain")).await?;
        }
        _ => update(case, dice.key(partition), random(&dice.0), model).await?,
    }
    Ok(())
}

async fn write_many(case: &Case<'_>, partition: &[u8], dice: &Dice, model: &mut Model) -> Verdict {
    // Of different records: among writes of one record in a batch the order is not defined.
    let writes: Vec<_> = SORTS
        .iter()
        .filter(|_| dice.roll(2) == 0)
        .map(|sort| dice.write(Key::row(TRUTH, partition, sort), model))
        .collect();
    for (write, outcome) in writes.iter().zip(case.store.write_many(&writes).await) {
        ensure_eq!(outcome?, model.write(write), "in a batch, {write:?}");
    }
    Ok(())
}

async fn scan(case: &Case<'_>, partition: &[u8], dice: &Dice, model: &Model) -> Verdict {
    let order = [Order::Ascending, Order::Descending][dice.roll(2)];
    let scan = Scan::partition(TRUTH, partition, 1 + dice.roll(10)).range(dice.bound(), dice.bound()).order(order);
    match case.store.scan_rows(scan).await {
        Ok(rows) => {
            let rows: Vec<_> = rows.into_iter().map(|row| (row.sort.to_vec(), row.record)).collect();
            ensure_eq!(rows, model.scan(&scan), "{scan:?}");
        }
        Err(error) => {
            ensure_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("range")), "{scan:?}");
            ensure!(scan.start != Bound::Unbounded && scan.end != Bound::Unbounded, "{scan:?} was refused");
        }
    }
    Ok(())
}

async fn update(case: &Case<'_>, key: Key<'_>, procedure: Tally, model: &mut Model) -> Verdict {
    let before = model.live(key);
    let left = before.clone().map(|record| (record.value.to_vec(), record.expires_at));
    let (expected, next) = run_alone(&procedure, &left, model.now);
    match (case.store.run(key, &procedure).await, expected) {
        (Ok(seen), Some(expected)) => ensure_eq!(seen, expected, "{procedure:?} on {key}"),
        (Err(error), None) => ensure_eq!(error.kind(), ErrorKind::Corrupt, "{procedure:?} on {key}"),
        (answer, _) => ensure!(false, "{procedure:?} on {key} answered {answer:?}"),
    }
    // The store mints the version: learn it.
    let found = case.store.get(key).await?;
    let shown = found.as_ref().map(|record| (record.value.to_vec(), record.expires_at));
    ensure_eq!(shown, next, "left at {key} by {procedure:?}");
    match &procedure {
        Tally::Look | Tally::Clear => {}
        Tally::Set(..) | Tally::Add(..) => {
            let stale = found.as_ref().filter(|record| model.versions.contains(&record.version));
            let unchanged = before == found;
            ensure!(stale.is_none() || unchanged, "{procedure:?} on {key} left an old version");
        }
    }
    model.leave(key, found);
    Ok(())
}

pub(super) async fn histories(case: &Case<'_>) -> Verdict {
    for seed in 0..HISTORIES {
        let partitions = [case.partition([b'p', b'}', seed.to_be_bytes()[7]]), case.partition([seed.to_be_bytes()[7]])];
        let dice = Dice(SeededEntropy::new(seed));
        let mut model = Model { records: BTreeMap::new(), versions: VecDeque::new(), now: case.clock.now() };
        for at in 0..STEPS {
            let verdict = step(case, &partitions, &dice, &mut model).await;
            if let Err(failure) = verdict {
                ensure!(false, "history {seed}, call {at}: {failure}");
            }
            case.advance([0, 0, 1, 1, 2, 1_500][dice.roll(6)]);
            model.now = case.clock.now();
        }
    }
    Ok(())
}
