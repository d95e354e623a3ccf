//! Sums by currency and side, which must come out even.

use std::collections::BTreeMap;

use super::model::{Finding, Party, Record, What};
use crate::model::Currency;

/// Rows and what they add up to, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sum {
    /// How many.
    pub rows: u64,
    /// The sum of their amounts.
    pub amount: i128,
}

impl Sum {
    fn add(&mut self, amount: i128) -> Option<()> {
        *self = Self { rows: self.rows.checked_add(1)?, amount: self.amount.checked_add(amount)? };
        Some(())
    }

    fn plus(self, other: Self) -> Option<Self> {
        Some(Self { rows: self.rows.checked_add(other.rows)?, amount: self.amount.checked_add(other.amount)? })
    }
}

/// What became of the rows of one side in one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SideTotals {
    /// All that could be read, bad ones among them if their currency and amount could.
    pub read: Sum,
    /// Bad ones.
    pub bad: Sum,
    /// Those that match.
    pub matched: Sum,
    /// Those whose amount differs.
    pub amount_differs: Sum,
    /// Those whose currency differs.
    pub currency_differs: Sum,
    /// Those that the other side lacks.
    pub missing: Sum,
    /// Those that are there once more than on the other side.
    pub duplicate: Sum,
    /// Those that could be matched in more than one way.
    pub ambiguous: Sum,
}

impl SideTotals {
    /// Matched, and in each way different, and bad.
    pub fn parts(&self) -> [Sum; 7] {
        let Self { read: _, bad, matched, amount_differs, currency_differs, missing, duplicate, ambiguous } = *self;
        [matched, amount_differs, currency_differs, missing, duplicate, ambiguous, bad]
    }

    /// All that are neither matched nor bad; `None` beyond all sums.
    pub fn differences(&self) -> Option<Sum> {
        self.parts()[1..6].iter().try_fold(Sum::default(), |sum, part| sum.plus(*part))
    }

    fn of(&mut self, what: Option<What>) -> &mut Sum {
        match what {
            None => &mut self.matched,
            Some(What::AmountDiffers { .. }) => &mut self.amount_differs,
            Some(What::CurrencyDiffers) => &mut self.currency_differs,
            Some(What::MissingHere | What::MissingThere) => &mut self.missing,
            Some(What::Duplicate { .. }) => &mut self.duplicate,
            Some(What::Ambiguous) => &mut self.ambiguous,
        }
    }
}

/// All sums of a run.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    /// Ours, by currency.
    pub ours: BTreeMap<Currency, SideTotals>,
    /// Theirs, by currency.
    pub theirs: BTreeMap<Currency, SideTotals>,
    /// Bad rows of ours and theirs of which not even currency and amount could be read.
    pub unreadable: [u64; 2],
    /// All rows of ours and theirs, counted where they were read.
    pub rows: [u64; 2],
}

/// Totals that are not even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Uneven {
    /// A sum is beyond all sums.
    #[error("a sum of {currency} is beyond i128::MAX minor units")]
    Overflow {
        /// Of what.
        currency: Currency,
    },
    /// What was read is not what came of it.
    #[error("{party}, {currency}: {} were read, {} were told of", currency.show(read.amount), currency.show(told.amount))]
    Currency {
        /// Which side.
        party: Party,
        /// Which currency.
        currency: Currency,
        /// What was read.
        read: Sum,
        /// What was told of.
        told: Sum,
    },
    /// Rows are not accounted for.
    #[error("{party}: {read} rows were read, {told} were told of")]
    Rows {
        /// Which side.
        party: Party,
        /// What was read.
        read: u64,
        /// What was told of.
        told: u64,
    },
}

const fn index(party: Party) -> usize {
    match party {
        Party::Ours => 0,
        Party::Theirs => 1,
    }
}

impl Totals {
    /// The sums of one side.
    pub fn of(&self, party: Party) -> &BTreeMap<Currency, SideTotals> {
        match party {
            Party::Ours => &self.ours,
            Party::Theirs => &self.theirs,
        }
    }

    fn of_mut(&mut self, party: Party) -> &mut BTreeMap<Currency, SideTotals> {
        match party {
            Party::Ours => &mut self.ours,
            Party::Theirs => &mut self.theirs,
        }
    }

    /// How many rows of a side were bad.
    pub fn bad_rows(&self, party: Party) -> u64 {
        let known: u64 = self.of(party).values().map(|totals| totals.bad.rows).sum();
        known.saturating_add(self.unreadable[index(party)])
    }

    /// Counts a row where it is read.
    pub(super) fn row(&mut self, party: Party) {
        self.rows[index(party)] += 1;
    }

    pub(super) fn read(&mut self, party: Party, record: &Record) -> Result<(), Uneven> {
        let currency = record.currency;
        let totals = self.of_mut(party).entry(currency).or_default();
        totals.read.add(record.amount).ok_or(Uneven::Overflow { currency })
    }

    pub(super) fn bad(&mut self, party: Party, known: Option<(Currency, i128)>) -> Result<(), Uneven> {
        let Some((currency, amount)) = known else {
            self.unreadable[index(party)] += 1;
            return Ok(());
        };
        let totals = self.of_mut(party).entry(currency).or_default();
        let overflow = Uneven::Overflow { currency };
        totals.read.add(amount).ok_or(overflow)?;
        totals.bad.add(amount).ok_or(overflow)
    }

    pub(super) fn found(&mut self, finding: &Finding) -> Result<(), Uneven> {
        let (what, ours, theirs) = match finding {
            Finding::Matched(found) => (None, &found.ours, &found.theirs),
            Finding::Differs(found) => (Some(found.what), &found.ours, &found.theirs),
        };
        for (party, records) in [(Party::Ours, ours), (Party::Theirs, theirs)] {
            for record in records {
                let currency = record.currency;
                let totals = self.of_mut(party).entry(currency).or_default();
                totals.of(what).add(record.amount).ok_or(Uneven::Overflow { currency })?;
            }
        }
        Ok(())
    }

    /// Whether every row that was read is matched, different or bad, once, and what they add up to likewise.
    ///
    /// # Errors
    /// The first [`Uneven`] sum.
    pub fn check(&self) -> Result<(), Uneven> {
        for party in [Party::Ours, Party::Theirs] {
            let mut rows = self.unreadable[index(party)];
            for (currency, totals) in self.of(party) {
                let sum = |sum: Sum, part: &Sum| sum.plus(*part);
                let overflow = Uneven::Overflow { currency: *currency };
                let told = totals.parts().iter().try_fold(Sum::default(), sum).ok_or(overflow)?;
                if told != totals.read {
                    return Err(Uneven::Currency { party, currency: *currency, read: totals.read, told });
                }
                rows = rows.checked_add(told.rows).ok_or(overflow)?;
            }
            let read = self.rows[index(party)];
            if rows != read {
                return Err(Uneven::Rows { party, read, told: rows });
            }
        }
        Ok(())
    }
}
