//! Dead letters, and looking at the queue.

use std::ops::Bound;

use bytes::Bytes;
use sysd_core::queue::{DeadLetter, Depth};
use sysd_core::{Expect, Key, Outcome, Record, Result, Scan, Store, Timestamp, Write};

use super::Shared;
use super::config::Bug;
use super::schema::{self, Fate, Grave, JobRow, Mark, SPACE};
use super::state::Ticket;

/// How many rows of a page are read at once where payloads are not wanted.
const PAGE_ROWS: usize = 256;

impl<S: Store> Shared<S> {
    pub(super) async fn dead_letters(&self, after: Option<&DeadLetter>, letters_max: usize) -> Result<Vec<DeadLetter>> {
        let partition = self.schema.graves();
        let mut cursor = after.map(|letter| Bytes::copy_from_slice(&self.schema.grave(letter.at, &letter.id).sort));
        let (mut letters, mut passed_over) = (Vec::new(), 0);
        while letters.len() < letters_max {
            // What was put back lies together, and is small.
            let limit = (letters_max - letters.len()).max(passed_over.min(PAGE_ROWS));
            let mut scan = Scan::partition(SPACE, &partition, limit);
            if let Some(cursor) = &cursor {
                scan = scan.after(cursor);
            }
            let page = self.calls.scan(scan).await?;
            passed_over = page.rows.len();
            for row in page.rows {
                let key = Key::row(SPACE, &partition, &row.sort);
                let letter = match Grave::decode(key, &row.record.value) {
                    Ok(grave) => grave.map(|grave| grave.letter),
                    Err(error) => {
                        let letter = Grave::broken(&row.sort, &row.record.value);
                        if letter.is_none() {
                            tracing::warn!(%error, "a dead letter of a queue can't be read");
                        }
                        letter
                    }
                };
                passed_over -= usize::from(letter.is_some());
                letters.extend(letter);
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        letters.truncate(letters_max);
        Ok(letters)
    }

    /// First the dead letter says when its job is due again, so that whoever goes on writes the same row; then the mark, the row,
    /// and of the dead letter is left that it was put back.
    pub(super) async fn replay(&self, letter: &DeadLetter) -> Result<bool> {
        let mut is_begun = false;
        let replayed = self.put_back(letter, &mut is_begun).await;
        // From its first write on, an error does not say that nothing happened.
        replayed.map_err(|error| error.after_part(is_begun))
    }

    async fn put_back(&self, letter: &DeadLetter, is_begun: &mut bool) -> Result<bool> {
        let place = self.schema.grave(letter.at, &letter.id);
        let Some(record) = self.calls.get(place.key()).await? else { return Ok(false) };
        let mut version = record.version;
        let Some(mut grave) = Grave::decode(place.key(), &record.value)? else { return Ok(false) };
        if grave.replay_at.is_none() {
            // Later than the row that it had, so that the two differ: it was buried when that was due, or later.
            let later = Timestamp::from_micros_saturating(letter.at.as_micros().saturating_add(1));
            grave.replay_at = Some(self.calls.now().max(later));
            let next = self.calls.mint();
            let write = Write::put(place.key(), grave.encode()).with_version(next).expect(Expect::Is(version));
            match self.calls.write(&write).await?.outcome {
                Outcome::Applied => (version, *is_begun) = (next, true),
                Outcome::Conflict { found: None } => return Ok(false),
                Outcome::Conflict { found: Some(record) } => {
                    let Some(newer) = Grave::decode(place.key(), &record.value)? else { return Ok(false) };
                    (grave, version) = (newer, record.version);
                }
            }
        }
        let due = grave.replay_at.unwrap_or_else(|| self.calls.now());
        let ticket = Ticket { lane: grave.letter.lane, due, id: grave.letter.id.clone() };
        let is_ours = !grave.is_marked || self.reopen_mark(&ticket, letter.at).await?;
        if is_ours {
            *is_begun |= grave.is_marked;
            let row = self.schema.row(self.schema.shard_of(&ticket.id), &ticket);
            let job = JobRow { attempts: 0, is_marked: grave.is_marked, payload: grave.letter.payload.clone() };
            let write = Write::put(row.key(), job.encode()).with_version(self.calls.mint());
            self.calls.write(&write.expect(Expect::Absent)).await?;
            *is_begun = true;
        }
        let close = if self.config.has(Bug::ForgetReplay) {
            Write::delete(place.key())
        } else {
            // Whoever is slow to carry the burial out finds its place taken.
            let until = self.calls.now().saturating_add(self.config.remember_for);
            Write::put(place.key(), Grave::REPLAYED).with_version(self.calls.mint()).expires_at(until)
        };
        self.calls.write(&close.expect(Expect::Is(version))).await?;
        Ok(is_ours)
    }

    /// Says that the job that was given up at `at` is open again, in this row; `false` if it has gone on since.
    async fn reopen_mark(&self, ticket: &Ticket, at: Timestamp) -> Result<bool> {
        let place = self.schema.mark(&ticket.id);
        let read = |record: &Record| Mark::decode(place.key(), &record.value);
        let Some(record) = self.calls.get(place.key()).await? else { return Ok(false) };
        let mark = read(&record)?;
        // A row that was due later is one that it was put back as, and given up in again: that has a dead letter of its own.
        if mark.fate != Fate::Dead || mark.due > at {
            return Ok(mark.names(ticket));
        }
        let open = Mark::open(ticket.lane, ticket.due);
        let write = Write::put(place.key(), open.encode()).with_version(self.calls.mint());
        match self.calls.write(&write.expect(Expect::Is(record.version))).await?.outcome {
            Outcome::Applied => Ok(true),
            Outcome::Conflict { found: None } => Ok(false),
            Outcome::Conflict { found: Some(record) } => Ok(read(&record)?.names(ticket)),
        }
    }

    pub(super) async fn depth(&self, jobs_max: usize) -> Result<Depth> {
        let mut depth = Depth { is_all: true, ..Depth::default() };
        let now = self.calls.now();
        let mut oldest: Option<Timestamp> = None;
        let mut left = jobs_max;
        for shard in 0..self.shards {
            let seen = self.read(shard).await?;
            let partition = self.schema.rows(shard);
            let mut cursor: Option<Bytes> = None;
            loop {
                if left == 0 {
                    depth.is_all = false;
                    break;
                }
                let from = cursor.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let scan = Scan::partition(SPACE, partition, left.min(PAGE_ROWS)).range(from, Bound::Unbounded);
                let page = self.calls.scan(scan).await?;
                left -= page.rows.len().min(left);
                for row in &page.rows {
                    let ticket = schema::ticket_of(&row.sort);
                    let Some(ticket) = ticket.filter(|_| JobRow::decode(&row.record.value).is_ok()) else {
                        depth.unreadable += 1;
                        continue;
                    };
                    match seen.state.entries.get(&ticket.id) {
                        Some(entry) if !entry.status.is_leased() => {}
                        Some(_) if !seen.state.is_free(&ticket, now) => depth.leased += 1,
                        _ if ticket.due > now => depth.delayed += 1,
                        _ => {
                            depth.waiting += 1;
                            oldest = Some(oldest.map_or(ticket.due, |oldest| oldest.min(ticket.due)));
                        }
                    }
                }
                match page.next {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
        }
        depth.oldest = oldest.map_or_else(<_>::default, |oldest| now.saturating_since(oldest));
        Ok(depth)
    }
}
