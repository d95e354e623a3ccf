//! Transactions and their postings.

use std::fmt;

use smallvec::SmallVec;
use sysd_core::Timestamp;

use super::account::AccountId;
use super::amount::{Currency, Side};
use super::entry::{Change, JournalEntry};

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

/// As it is quoted: `EUR/USD 1.0825`, what one of the first is in the second.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = usize::from(self.decimals);
        let digits = format!("{:0>width$}", self.mantissa, width = decimals + 1);
        let (whole, rest) = digits.split_at(digits.len() - decimals);
        write!(f, "{}/{} {whole}", self.from, self.to)?;
        if rest.is_empty() { Ok(()) } else { write!(f, ".{rest}") }
    }
}

impl Rate {
    /// Whether that much of `from` comes to that much of `to`, in minor units, rounded up or down. Nothing does.
    pub fn is_kept(&self, from: u128, to: u128) -> bool {
        if from == 0 {
            return false;
        }
        // Exactly so much: from * mantissa * 10^up / 10^down minor units of `to`.
        let (up, down) = (i32::from(self.to.exponent()), i32::from(self.from.exponent()) + i32::from(self.decimals));
        let product = times(from, self.mantissa);
        let (whole, has_rest) =
            if up >= down { (scaled_up(product, up - down), false) } else { cut(product, down - up) };
        match whole {
            Some(whole) => to == whole || has_rest && whole.checked_add(1) == Some(to),
            None => false,
        }
    }
}

/// 192 bits, the lowest first.
type Limbs = [u64; 3];

#[allow(clippy::cast_possible_truncation, reason = "the lowest bits are kept, the others carried")]
const fn times(a: u128, b: u64) -> Limbs {
    let b = b as u128;
    let low = (a as u64) as u128 * b;
    let high = (a >> 64) * b + (low >> 64);
    [low as u64, high as u64, (high >> 64) as u64]
}

fn whole(limbs: Limbs) -> Option<u128> {
    (limbs[2] == 0).then_some(u128::from(limbs[1]) << 64 | u128::from(limbs[0]))
}

/// `None` if it is more than any amount.
fn scaled_up(limbs: Limbs, digits: i32) -> Option<u128> {
    let power = 10_u128.checked_pow(u32::try_from(digits).ok()?);
    match whole(limbs)? {
        0 => Some(0),
        some => some.checked_mul(power?),
    }
}

/// Without its last decimal digits, and whether one of those is not zero.
fn cut(mut limbs: Limbs, mut digits: i32) -> (Option<u128>, bool) {
    let mut has_rest = false;
    while digits > 0 && limbs != [0; 3] {
        let step = digits.min(19);
        let divisor = 10_u128.pow(step.unsigned_abs());
        let mut rest = 0_u128;
        for limb in limbs.iter_mut().rev() {
            let part = rest << 64 | u128::from(*limb);
            // The rest is less than the divisor, so a digit of the quotient fits.
            *limb = u64::try_from(part / divisor).unwrap_or(u64::MAX);
            rest = part % divisor;
        }
        has_rest |= rest != 0;
        digits -= step;
    }
    (whole(limbs), has_rest)
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

    /// The same without a rate.
    pub(crate) fn without_rate(self) -> Self {
        Self { rate: None, ..self }
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
    /// The transaction that this one takes back; only one ever can. The books keep that link, and do not compare what is posted: a
    /// reversal may leave a fee. [`Transaction::reversal_of`] makes one that takes all of it back.
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

    /// Takes back all that was posted by what is recorded there, in the same accounts. `None` if that posted nothing (a hold, which is
    /// [voided](Self::void) instead; a void; a hold that ended).
    ///
    /// ```
    /// use sysd_ledger::{Books, Transaction, TransactionId};
    /// # use sysd_core::Timestamp;
    /// # use sysd_ledger::{Account, AccountId, AccountKind, Command, Currency, Event, JournalConfig, Ledger, Reply};
    /// # use sysd_storage::{Memory, Replica, ReplicaConfig};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let store = Memory::new();
    /// # let (replica, driver) = Replica::<Books>::open(store.clone(), "shop", ReplicaConfig::default()).await?;
    /// # tokio::spawn(driver);
    /// # let (ledger, _writer) = Ledger::that_may_forget(replica, store, "shop", JournalConfig::default())?;
    /// # let euro = Currency::iso("EUR")?;
    /// # let (bank, ann) = (AccountId(1), AccountId(2));
    /// # ledger.open_account(Account::new(bank, euro, AccountKind::Asset)).await?;
    /// # ledger.open_account(Account::new(ann, euro, AccountKind::Liability)).await?;
    /// ledger.transact(Transaction::transfer(TransactionId(1), euro, 50_00, ann, bank)).await?;
    ///
    /// let entry = ledger.transaction(TransactionId(1)).await?.ok_or("it was never recorded")?;
    /// let reversal = Transaction::reversal_of(&entry, TransactionId(2)).ok_or("it posted nothing")?;
    /// assert!(matches!(ledger.transact(reversal).await?, Reply::Recorded(_)));
    /// // Nobody can do it once more.
    /// let again = Transaction::reversal_of(&entry, TransactionId(3)).ok_or("it posted nothing")?;
    /// assert!(matches!(ledger.transact(again).await?, Reply::Rejected(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn reversal_of(entry: &JournalEntry, id: TransactionId) -> Option<Self> {
        let reversed = entry.transaction()?;
        let posted = entry.changes.iter().filter(|change| change.posted > 0);
        let postings: Postings = posted
            .map(|change| {
                let Change { account, currency, side, posted, .. } = *change;
                Posting { account, amount: posted, currency, side: side.opposite() }
            })
            .collect();
        (!postings.is_empty()).then(|| Self { reverses: Some(reversed.id), ..Self::new(id, postings) })
    }

    /// The same, held instead of posted.
    #[must_use]
    pub fn held_until(mut self, expires_at: Option<Timestamp>) -> Self {
        self.action = Action::Hold { expires_at };
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// Decimal digits, the lowest first: as it is done on paper.
    fn product(a: &[u8], b: &[u8]) -> Vec<u8> {
        let mut sums = vec![0_u32; a.len() + b.len() + 1];
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                sums[i + j] += u32::from(*x) * u32::from(*y);
            }
        }
        let mut carry = 0;
        let mut digit = |sum: u32| {
            carry += sum;
            let digit = u8::try_from(carry % 10).unwrap();
            carry /= 10;
            digit
        };
        sums.into_iter().map(&mut digit).collect()
    }

    fn digits(number: u128) -> Vec<u8> {
        number.to_string().bytes().rev().map(|digit| digit - b'0').collect()
    }

    fn power(exponent: u32) -> Vec<u8> {
        let mut digits = vec![0; exponent as usize];
        digits.push(1);
        digits
    }

    /// As numbers of one length, the highest digit first, so that they compare as numbers do.
    fn comparable(digits: &[u8]) -> Vec<u8> {
        let mut all = digits.to_vec();
        all.resize(700, 0);
        all.reverse();
        all
    }

    /// Whether `to - 1` is less than what is exact, and `to + 1` more.
    fn naive(rate: &Rate, from: u128, to: u128) -> bool {
        let unit = power(u32::from(rate.from.exponent()) + u32::from(rate.decimals));
        let rated = product(&digits(from), &digits(rate.mantissa.into()));
        let exact = comparable(&product(&rated, &power(rate.to.exponent().into())));
        let is_not_more = to == 0 || comparable(&product(&digits(to - 1), &unit)) < exact;
        let after = product(&digits(to), &unit);
        // One unit more.
        let mut above = after;
        above.resize(700, 0);
        let mut at = unit.len() - 1;
        while above[at] == 9 {
            above[at] = 0;
            at += 1;
        }
        above[at] += 1;
        from > 0 && is_not_more && comparable(&above) > exact
    }

    fn rate() -> impl Strategy<Value = Rate> {
        let currency =
            |code: &'static str| (0..=38_u8).prop_map(move |exponent| Currency::custom(code, exponent).unwrap());
        let decimals = prop_oneof![0..20_u8, any::<u8>()];
        let mantissa = prop_oneof![any::<u64>(), 0..1_000_u64, (0..19_u32).prop_map(|power| 10_u64.pow(power))];
        (currency("A"), currency("B"), mantissa, decimals).prop_map(|(from, to, mantissa, decimals)| Rate {
            from,
            to,
            mantissa,
            decimals,
        })
    }

    fn amount() -> impl Strategy<Value = u128> {
        let power = (0..38_u32, 0..300_u128).prop_map(|(power, times)| 10_u128.pow(power).saturating_mul(times));
        prop_oneof![any::<u128>(), any::<u64>().prop_map(u128::from), 0..200_u128, power]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]
        #[test]
        fn a_rate_is_kept_as_on_paper(rate in rate(), from in amount(), to in amount(), by in 0..5_u128) {
            prop_assert_eq!(rate.is_kept(from, to), naive(&rate, from, to));
            // Near what is right.
            let (up, down) = (i32::from(rate.to.exponent()), i32::from(rate.from.exponent()) + i32::from(rate.decimals));
            let product = times(from, rate.mantissa);
            let whole = if up >= down { scaled_up(product, up - down) } else { cut(product, down - up).0 };
            if let Some(near) = whole {
                let near = near.saturating_add(by).saturating_sub(2);
                prop_assert_eq!(rate.is_kept(from, near), naive(&rate, from, near));
            }
        }
    }

    #[test]
    fn a_rate_is_written_as_it_is_quoted() {
        let (from, to) = (Currency::iso("EUR").unwrap(), Currency::iso("JPY").unwrap());
        let written = |mantissa, decimals| Rate { from, to, mantissa, decimals }.to_string();
        assert_eq!(written(161_734, 3), "EUR/JPY 161.734");
        assert_eq!(written(161, 0), "EUR/JPY 161");
        assert_eq!(written(5, 3), "EUR/JPY 0.005");
        assert_eq!(written(u64::MAX, 255).len(), "EUR/JPY 0.".len() + 255);
    }

    #[test]
    fn coins_of_eighteen_decimals_are_exchanged() {
        let coin = |code| Currency::custom(code, 18).unwrap();
        // A thousand of one at 3,123.456789 are 3,123,456.789 of the other.
        let rate = Rate { from: coin("ETH"), to: coin("DAI"), mantissa: 3_123_456_789, decimals: 6 };
        let unit = 10_u128.pow(18);
        let got = 3_123_456_789 * unit / 1_000;
        assert!(rate.is_kept(1_000 * unit, got) && naive(&rate, 1_000 * unit, got));
        assert!(!rate.is_kept(1_000 * unit, got + 1) && !rate.is_kept(1_000 * unit, got - 1));
        // The most there can be.
        let one = Rate { mantissa: 1, decimals: 0, ..rate };
        assert!(one.is_kept(u128::MAX, u128::MAX) && !one.is_kept(u128::MAX, u128::MAX - 1));
        let none = Rate { mantissa: 0, ..one };
        assert!(none.is_kept(5, 0) && !none.is_kept(5, 1) && !none.is_kept(0, 0));
    }
}
