//! What is held, to look at.

use sysd_core::Timestamp;

use super::books::Books;
use super::holds::Hold;
use super::resolve::postings_of;
use crate::model::{AccountId, Postings, TransactionId};

/// A transaction that holds something, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldView {
    /// Its id.
    pub id: TransactionId,
    /// Its number in the journal.
    pub number: u64,
    /// When it ends by itself; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// What is still held.
    pub postings: Postings,
}

impl Books {
    /// A hold, if it holds anything now.
    pub fn hold(&self, id: TransactionId) -> Option<HoldView> {
        self.holds.get(id).map(|hold| self.view_of(id, hold))
    }

    /// The holds that hold something of such an account, by their numbers.
    ///
    /// # Cost
    /// Looks at every hold.
    pub fn holds_of(&self, is_wanted: impl Fn(AccountId) -> bool) -> Vec<HoldView> {
        let is_account = |index| self.accounts.row(index).is_some_and(|row| is_wanted(row.id));
        let all = self.holds.in_order().into_iter();
        let found = all.filter(|(_, hold)| hold.legs.iter().any(|leg| is_account(leg.account)));
        found.map(|(id, hold)| self.view_of(id, hold)).collect()
    }

    fn view_of(&self, id: TransactionId, hold: &Hold) -> HoldView {
        let postings = postings_of(&self.accounts, hold);
        HoldView { id, number: hold.number, expires_at: hold.expires_at, postings }
    }
}
