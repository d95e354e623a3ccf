//! Transactions and their postings.

use std::fmt;

use smallvec::SmallVec;
use sysd_core::Timestamp;

use super::account::AccountId;
use super::amount::{Currency, Side};

/// Names a transaction, for ever: the same id is never posted twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub u128);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A day of the books: days since 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Date(pub i32);

impl Date {
    /// The day of a time, in UTC.
    pub fn of(time: Timestamp) -> Self {
        const DAY_US: u64 = 86_400_000_000;
        // The last timestamp is in the year 2255.
        Self(i32::try_from(time.as_micros() / DAY_US).unwrap_or(i32::MAX))
    }
}

/// A line of a transaction: an amount in one column of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Where.
    pub account: AccountId,
    /// How much, in minor units: 1 to [`AMOUNT_MAX`](super::amount::AMOUNT_MAX).
    pub amount: u128,
    /// Of what; must be the account's.
    pub currency: Currency,
    /// In which column.
    pub side: Side,
}

/// The lines of a transaction.
pub type Postings = SmallVec<[Posting; 2]>;

/// What becomes of the rest of a hold of which a part is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rest {
    /// It is free again, and the hold ends.
    Release,
    /// It stays held, for another posting.
    Keep,
}

/// What a transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Posts its postings at once.
    Post,
    /// Posts as much as is there, at most its amount: of two postings, the one that takes from a limited account decides.
    /// What that is stands in the receipt; nothing at all is a rejection.
    PostUpTo,
    /// Holds its postings: they count against what is there, until they are posted or voided, or expire.
    Hold {
        /// When it ends by itself; `None`: never.
        expires_at: Option<Timestamp>,
    },
    /// Posts what is held: all of it if there are no postings, else those, each at most what is held of it.
    PostHeld {
        /// The hold.
        hold: TransactionId,
        /// What becomes of the rest.
        rest: Rest,
    },
    /// Ends a hold; nothing is posted. It has no postings.
    Void {
        /// The hold.
        hold: TransactionId,
    },
}

/// What the books keep with a transaction; of it they look at the rate alone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Details {
    memo: String,
    metadata: Vec<(String, String)>,
    rate: Option<Rate>,
}

/// At which rate one currency was exchanged for another: one major unit of `from` is `mantissa` divided by ten to the power of `decimals`
/// major units of `to`.
///
/// An exchange is a transaction in both currencies, balanced in each by an account of whoever exchanges: a trading account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// What was given.
    pub from: Currency,
    /// What was got for it.
    pub to: Currency,
    /// The digits of the rate.
    pub mantissa: u64,
    /// How many of them are decimals.
    pub decimals: u8,
}

impl Rate {
    /// Whether that much of `from` comes to that much of `to`, in minor units, rounded up or down. Nothing does.
    pub fn is_kept(&self, from: u128, to: u128) -> bool {
        if from == 0 {
            return false;
        }
        let power = |exponent: u8| 10_u128.checked_pow(exponent.into());
        // Both in parts of a minor unit of `to`.
        let unit = power(self.from.exponent()).zip(power(self.decimals)).and_then(|(a, b)| a.checked_mul(b));
        let exact = power(self.to.exponent())
            .and_then(|power| power.checked_mul(self.mantissa.into()))
            .and_then(|rate| rate.checked_mul(from));
        let Some((unit, exact)) = unit.zip(exact) else { return false };
        to.checked_mul(unit).is_some_and(|got| got.abs_diff(exact) < unit)
    }
}

/// Details that can't be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memo and metadata have {bytes} bytes; at most {max} are kept, link to the rest", max = Details::BYTES_MAX)]
pub struct DetailsError {
    /// How many there are.
    pub bytes: usize,
}

impl Details {
    /// The most bytes of memo, keys and values together, and two for each key.
    pub const BYTES_MAX: usize = 16 << 10;

    /// A text for people, and keys with their values.
    ///
    /// # Errors
    /// [`DetailsError`] if it is more than [`Details::BYTES_MAX`].
    pub fn new(memo: impl Into<String>, metadata: Vec<(String, String)>) -> Result<Self, DetailsError> {
        let memo = memo.into();
        let bytes = memo.len() + metadata.iter().map(|(key, value)| 2 + key.len() + value.len()).sum::<usize>();
        if bytes > Self::BYTES_MAX { Err(DetailsError { bytes }) } else { Ok(Self { memo, metadata, rate: None }) }
    }

    /// The same, with the rate of an exchange: the books see that the postings keep it.
    #[must_use]
    pub fn with_rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// The rate of an exchange.
    pub const fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// The text.
    pub fn memo(&self) -> &str {
        &self.memo
    }

    /// The keys with their values.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }
}

/// What is written into the books at once, whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its id.
    pub id: TransactionId,
    /// What it does.
    pub action: Action,
    /// Its lines: debits and credits are equal in every currency, and no account has two.
    pub postings: Postings,
    /// The transaction that this one takes back; only one ever can.
    pub reverses: Option<TransactionId>,
    /// The day for which it counts; `None`: the day on which it is recorded, in UTC.
    pub effective: Option<Date>,
    /// What goes with it.
    pub details: Option<Box<Details>>,
}

impl Transaction {
    /// The most postings of one.
    pub const POSTINGS_MAX: usize = 1_000;

    /// Posts these.
    pub fn new(id: TransactionId, postings: impl IntoIterator<Item = Posting>) -> Self {
        let postings = postings.into_iter().collect();
        Self { id, action: Action::Post, postings, reverses: None, effective: None, details: None }
    }

    /// Moves an amount from one account to another: credits the first and debits the second.
    pub fn transfer(id: TransactionId, currency: Currency, amount: u128, credit: AccountId, debit: AccountId) -> Self {
        let posting = |account, side| Posting { account, amount, currency, side };
        Self::new(id, [posting(debit, Side::Debit), posting(credit, Side::Credit)])
    }

    /// Posts all that is held.
    pub fn post_held(id: TransactionId, hold: TransactionId) -> Self {
        Self { action: Action::PostHeld { hold, rest: Rest::Release }, ..Self::new(id, []) }
    }

    /// Ends a hold.
    pub fn void(id: TransactionId, hold: TransactionId) -> Self {
        Self { action: Action::Void { hold }, ..Self::new(id, []) }
    }

    /// The same, held instead of posted.
    #[must_use]
    pub fn held_until(mut self, expires_at: Option<Timestamp>) -> Self {
        self.action = Action::Hold { expires_at };
        self
    }
}
