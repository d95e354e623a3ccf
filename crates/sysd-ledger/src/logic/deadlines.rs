//! Holds whose deadline has come.
//!
//! The rule: no command is decided while a hold is there whose deadline has come. Before each command such holds end, but no more than
//! [`ENDS_MAX`] of them, and none after [`LEGS_MAX`] postings were freed, so that no command takes long, however many holds have one
//! deadline. If more are due, a command that depends on what is held is answered [`Reply::HoldsDue`] and does nothing else; whoever asked lets time pass and asks again.

use sysd_core::Timestamp;

use super::books::{Books, Command, TAIL_BYTES_MAX};
use super::bugs::Bug;
use super::resolve::{Balances, Changes, frees};
use super::tail::Recorded;
use crate::model::{AccountUpdate, Rejection, Reply, Side, TransactionId};

/// So many holds end before a command. Part of what a log says: never change it.
const ENDS_MAX: usize = 1_000;

/// After so many postings of such holds no more of them end before a command. Part of what a log says: never change it.
const LEGS_MAX: usize = 4_000;

impl Books {
    /// Ends holds whose deadline has come, the oldest first. Answers whether those were all.
    #[inline]
    pub(super) fn end_holds(&mut self, now: Timestamp) -> bool {
        self.holds.next_ended(now).is_none() || self.has(Bug::ForgetDeadlines) || self.end_some(now)
    }

    fn end_some(&mut self, now: Timestamp) -> bool {
        let ends_max = if self.has(Bug::EndAll) { usize::MAX } else { ENDS_MAX };
        let mut legs = 0;
        for _ in 0..ends_max {
            let Some(id) = self.holds.next_ended(now) else { return true };
            // Their entries wait for the store, too.
            if self.tail.bytes() > TAIL_BYTES_MAX {
                return false;
            }
            if legs >= LEGS_MAX && !self.has(Bug::EndAll) {
                break;
            }
            legs += self.end_hold(now, id);
        }
        self.holds.next_ended(now).is_none() || self.has(Bug::DecideEarly)
    }

    /// Answers how many postings were freed.
    fn end_hold(&mut self, now: Timestamp, id: TransactionId) -> usize {
        let (mut changes, mut balances) = (Changes::new(), Balances::new());
        if let Some(hold) = self.holds.set(id, None) {
            changes = frees(&hold);
            for change in &changes {
                if let Some(row) = self.accounts.row_mut(change.account) {
                    let held = match change.side {
                        Side::Debit => &mut row.balance.debits_held,
                        Side::Credit => &mut row.balance.credits_held,
                    };
                    *held = held.saturating_sub(change.freed);
                    balances.push((row.id, row.balance));
                }
            }
        }
        self.numbers.push_unnamed(id, now);
        self.write(now, Recorded::HoldEnded(id), &changes, &balances);
        changes.len()
    }

    /// What a command is answered while holds are due; `None`: it does not depend on them.
    pub(super) fn not_yet(&self, command: &Command) -> Option<Reply> {
        match command {
            // None of these looks at what is held while the journal is behind: what is new is rejected for that.
            Command::Transact(_) | Command::Group(_) | Command::Batch(_) | Command::Tick if self.is_behind() => None,
            Command::Update(_, AccountUpdate::Close) if self.is_behind() => {
                Some(Rejection::JournalBehind { bytes: self.tail.bytes() }.into())
            }
            Command::Transact(_)
            | Command::Group(_)
            | Command::Batch(_)
            | Command::Tick
            | Command::Update(_, AccountUpdate::Close) => Some(Reply::HoldsDue),
            Command::Looked(_, inner) => self.not_yet(inner),
            Command::Open(_)
            | Command::Update(..)
            | Command::ClosePeriod(_)
            | Command::Wrote { .. }
            | Command::Forget { .. } => None,
        }
    }

    fn is_behind(&self) -> bool {
        self.tail.bytes() > TAIL_BYTES_MAX
    }
}
