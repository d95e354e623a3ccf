//! Dead letters, and looking at the queue.

use std::ops::Bound;

use bytes::Bytes;
use sysd_core::queue::{DeadLetter, Depth};
use sysd_core::{Expect, Outcome, Result, Scan, Store, Timestamp, Write};

use super::Shared;
use super::schema::{self, Fate, Grave, JobRow, Mark, SPACE};
use super::state::Ticket;

/// How many rows of a page are read at once where payloads are not wanted.
const PAGE_ROWS: usize = 256;

impl<S: Store> Shared<S> {
    pub(super) async fn dead_letters(&self, after: Option<&DeadLetter>, letters_max: usize) -> Result<Vec<DeadLetter>> {
        let partition = self.schema.graves();
        let mut cursor = after.map(|letter| Bytes::copy_from_slice(&self.schema.grave(letter.at, &letter.id).sort));
        let mut letters = Vec::new();
        while letters.len() < letters_max {
            let mut scan = Scan::partition(SPACE, &partition, letters_max - letters.len());
            if let Some(cursor) = &cursor {
                scan = scan.after(cursor);
            }
            let page = self.calls.scan(scan).await?;
            for row in page.rows {
                let key = sysd_core::Key::row(SPACE, &partition, &row.sort);
                letters.push(Grave::decode(key, &row.record.value)?.letter);
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(letters)
    }

    /// First the dead letter says when its job is due again, so that whoever goes on writes the same row; then the mark, the row,
    /// and the dead letter goes.
    pub(super) async fn replay(&self, letter: &DeadLetter) -> Result<bool> {
        let place = self.schema.grave(letter.at, &letter.id);
        let Some(record) = self.calls.get(place.key()).await? else { return Ok(false) };
        let mut grave = Grave::decode(place.key(), &record.value)?;
        let mut version = record.version;
        let mut due = grave.replay_at.unwrap_or_else(|| self.calls.now());
        if grave.replay_at.is_none() {
            grave.replay_at = Some(due);
            let next = self.calls.mint();
            let write = Write::put(place.key(), grave.encode()).with_version(next).expect(Expect::Is(version));
            version = match self.calls.write(&write).await?.outcome {
                Outcome::Applied => next,
                Outcome::Conflict { found: None } => return Ok(false),
                Outcome::Conflict { found: Some(record) } => {
                    due = Grave::decode(place.key(), &record.value)?.replay_at.unwrap_or(due);
                    record.version
                }
            };
        }
        let ticket = Ticket { lane: grave.letter.lane, due, id: grave.letter.id.clone() };
        if !grave.is_marked || self.reopen_mark(&ticket).await? {
            let row = self.schema.row(self.schema.shard_of(&ticket.id), &ticket);
            let job = JobRow { attempts: 0, is_marked: grave.is_marked, payload: grave.letter.payload.clone() };
            let write = Write::put(row.key(), job.encode()).with_version(self.calls.mint());
            self.calls.write(&write.expect(Expect::Absent)).await?;
        }
        self.calls.write(&Write::delete(place.key()).expect(Expect::Is(version))).await?;
        Ok(true)
    }

    /// Says that a job that was given up is open again; `false` if it is open or done under a later row.
    async fn reopen_mark(&self, ticket: &Ticket) -> Result<bool> {
        let place = self.schema.mark(&ticket.id);
        let Some(record) = self.calls.get(place.key()).await? else { return Ok(false) };
        let mark = Mark::decode(place.key(), &record.value)?;
        if mark.fate != Fate::Dead {
            return Ok(mark.fate == Fate::Open && mark.due == ticket.due);
        }
        let open = Mark { fate: Fate::Open, lane: ticket.lane, due: ticket.due };
        let write = Write::put(place.key(), open.encode()).with_version(self.calls.mint());
        let outcome = self.calls.write(&write.expect(Expect::Is(record.version))).await?.outcome;
        match outcome {
            Outcome::Applied => Ok(true),
            Outcome::Conflict { found: None } => Ok(false),
            Outcome::Conflict { found: Some(record) } => {
                let mark = Mark::decode(place.key(), &record.value)?;
                Ok(mark.fate == Fate::Open && mark.due == ticket.due)
            }
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
                    let key = sysd_core::Key::row(SPACE, partition, &row.sort);
                    let ticket = schema::ticket_of(&row.sort).ok_or_else(|| schema::corrupt(key))?;
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
