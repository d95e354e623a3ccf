//! What shards store: derived ids, the ids of their own accounts, the sign that says of which set a shard is.
//!
//! **Ids.** Each id has a home among the shards. What is recorded there under it says what it is of: a transaction that lies in its home
//! alone; a claim, for one that lies in another shard alone; or the decision of one across shards, which is posted under the id in all of its
//! shards. The holds and voids of an attempt have ids that are derived from the id by a permutation of 128 bits, another one for each
//! purpose, attempt and shard: two transactions never have the same one, and who finds a hold finds the transaction. It is a Feistel network
//! of eight rounds (Luby, Rackoff: "How to Construct Pseudorandom Permutations from Pseudorandom Functions", 1988) around the finalizer of
//! SplitMix64.
//!
//! **Accounts.** `ff 54 52`, a kind, the shard whose account it is, the other shard, the currency as it is stored. No UUID of RFC 9562 is
//! such an id: the first letter of a code stands where those have their variant.

use bytes::Bytes;

use super::logic::split::Layout;
use super::{Placement, ShardId};
use crate::model::{
    Account, AccountId, AccountKind, Action, Currency, Date, Posting, Side, Transaction, TransactionId,
};

const PREFIX: u128 = 0x00ff_5452;
const SIGN: u8 = 0;
const IN_TRANSIT: u8 = 1;
const NOTE_DEBIT: u8 = 2;
const NOTE_CREDIT: u8 = 3;
/// What notes are counted in.
pub(super) const NOTES: &str = "TRANSIT";
const SIGN_FORMAT: u8 = 1;
const ROUNDS: u64 = 8;

/// What a derived id is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Holds a part.
    Hold,
    /// Ends the hold.
    Void,
}

/// One of the permutations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Derivation {
    pub(super) purpose: Purpose,
    pub(super) attempt: u8,
    pub(super) shard: ShardId,
}

const fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn halves(id: u128) -> (u64, u64) {
    let half = |half: u128| u64::try_from(half & u128::from(u64::MAX)).unwrap_or_default();
    (half(id >> 64), half(id))
}

const fn whole(high: u64, low: u64) -> u128 {
    (high as u128) << 64 | low as u128
}

impl Derivation {
    /// What a round adds to a half.
    fn round(self, round: u64, half: u64) -> u64 {
        let purpose = match self.purpose {
            Purpose::Hold => 1,
            Purpose::Void => 2,
        };
        let tweak = purpose << 32 | u64::from(self.attempt) << 16 | u64::from(self.shard.0);
        mixed(half ^ mixed(tweak.wrapping_add(round.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
    }

    pub(super) fn derive(self, id: TransactionId) -> TransactionId {
        let (mut high, mut low) = halves(id.0);
        for round in 1..=ROUNDS {
            (high, low) = (low, high ^ self.round(round, low));
        }
        TransactionId(whole(high, low))
    }

    /// Of which id `derived` is.
    pub(super) fn invert(self, derived: TransactionId) -> TransactionId {
        let (mut high, mut low) = halves(derived.0);
        for round in (1..=ROUNDS).rev() {
            (high, low) = (low ^ self.round(round, high), high);
        }
        TransactionId(whole(high, low))
    }
}

fn spread(count: u16, id: u128) -> u16 {
    let (high, low) = halves(id);
    let hash = u128::from(mixed(low ^ mixed(high.wrapping_add(0x9E37_79B9_7F4A_7C15))));
    u16::try_from((hash * u128::from(count)) >> 64).unwrap_or_default()
}

/// Where an account of the application lies; `None`: its id names no shard.
pub(super) fn shard_of(placement: Placement, count: u16, account: AccountId) -> Option<ShardId> {
    let at = match placement {
        Placement::Hashed => spread(count, account.0),
        Placement::Named => u16::try_from(account.0 >> 112).ok()?,
    };
    (at < count).then_some(ShardId(at))
}

/// Where an id is at home; `None`: it names no shard.
pub(super) fn home_of(placement: Placement, count: u16, id: TransactionId) -> Option<ShardId> {
    let at = match placement {
        Placement::Hashed => spread(count, id.0),
        // Not its first bytes, which in a UUID of version 7 are the time: that lets books tell that an id is new.
        Placement::Named => u16::try_from(id.0 & 0xffff).ok()?,
    };
    (at < count).then_some(ShardId(at))
}

/// An account of the shards themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// What is on its way to the peer, or from there: as much as the peer's account for this shard has in the other column.
    InTransit { shard: ShardId, peer: ShardId, currency: Currency },
    /// One of two that let a hold carry something besides money.
    Note { shard: ShardId, peer: ShardId, side: Side, currency: Currency },
}

fn own_id(kind: u8, shard: ShardId, peer: ShardId, currency: u64) -> AccountId {
    let head = PREFIX << 40 | u128::from(kind) << 32 | u128::from(shard.0) << 16 | u128::from(peer.0);
    AccountId(head << 64 | u128::from(currency))
}

/// Whether only shards may open such an account, and post to it.
pub(super) const fn is_reserved(account: AccountId) -> bool {
    account.0 >> 104 == PREFIX
}

impl Own {
    pub(super) fn id(self) -> AccountId {
        match self {
            Self::InTransit { shard, peer, currency } => own_id(IN_TRANSIT, shard, peer, currency.to_bits()),
            Self::Note { shard, peer, side, currency } => {
                let kind = if side == Side::Debit { NOTE_DEBIT } else { NOTE_CREDIT };
                own_id(kind, shard, peer, currency.to_bits())
            }
        }
    }

    pub(super) fn of(account: AccountId) -> Option<Self> {
        if !is_reserved(account) {
            return None;
        }
        let (head, bits) = halves(account.0);
        let currency = Currency::from_bits(bits)?;
        let half_word = |shift: u32| ShardId(u16::try_from(head >> shift & 0xffff).unwrap_or_default());
        let (shard, peer) = (half_word(16), half_word(0));
        match u8::try_from(head >> 32 & 0xff).ok()? {
            IN_TRANSIT => Some(Self::InTransit { shard, peer, currency }),
            NOTE_DEBIT => Some(Self::Note { shard, peer, side: Side::Debit, currency }),
            NOTE_CREDIT => Some(Self::Note { shard, peer, side: Side::Credit, currency }),
            _ => None,
        }
    }

    pub(super) const fn peer(self) -> ShardId {
        match self {
            Self::InTransit { peer, .. } | Self::Note { peer, .. } => peer,
        }
    }

    /// As it is opened.
    pub(super) fn account(self) -> Account {
        let (Self::InTransit { currency, .. } | Self::Note { currency, .. }) = self;
        Account::new(self.id(), currency, AccountKind::Asset)
    }
}

/// The shards' own among the accounts of these.
pub(super) fn own(postings: &[Posting]) -> impl Iterator<Item = Own> {
    postings.iter().filter_map(|posting| Own::of(posting.account))
}

/// What says at an id's home that it is of a transaction that lies in another shard alone.
pub(super) fn claim(id: TransactionId, home: ShardId, shard: ShardId, notes: Currency) -> Transaction {
    let posting = |side| {
        let account = Own::Note { shard: home, peer: shard, side, currency: notes }.id();
        Posting { account, amount: note_amount(None), currency: notes, side }
    };
    Transaction::new(id, [Side::Debit, Side::Credit].map(posting))
}

/// For which shard a transaction claims its id; `None`: it is no claim.
pub(super) fn claimed_for(recorded: &Transaction) -> Option<ShardId> {
    match (recorded.action, recorded.postings.first().and_then(|posting| Own::of(posting.account))) {
        (Action::Post, Some(Own::Note { peer, .. })) => Some(peer),
        _ => None,
    }
}

/// What a note says, as an amount: 1 nothing, then the days from the first one on.
pub(super) fn note_amount(effective: Option<Date>) -> u128 {
    let after_first = |day: Date| u128::from(day.0.abs_diff(i32::MIN));
    effective.map_or(1, |day| 2 + after_first(day))
}

/// The day of a note.
pub(super) fn note_day(amount: u128) -> Option<Date> {
    let after_first = i64::try_from(amount.checked_sub(2)?).ok()?;
    i32::try_from(i64::from(i32::MIN).checked_add(after_first)?).ok().map(Date)
}

/// The account that says which shard of which set this is.
pub(super) fn sign_id(notes: Currency) -> AccountId {
    own_id(SIGN, ShardId(0), ShardId(0), notes.to_bits())
}

/// A format, how many there are, which this is, where accounts lie and ids are at home, the set's name.
pub(super) fn sign(layout: Layout, name: &str, shard: ShardId) -> Account {
    let Layout { count, accounts, ids, notes } = layout;
    let mut metadata = vec![SIGN_FORMAT];
    metadata.extend_from_slice(&count.to_be_bytes());
    metadata.extend_from_slice(&shard.0.to_be_bytes());
    metadata.extend([accounts, ids].map(|placement| match placement {
        Placement::Hashed => 0,
        Placement::Named => 1,
    }));
    metadata.extend_from_slice(name.as_bytes());
    Account { metadata: Bytes::from(metadata), ..Account::new(sign_id(notes), notes, AccountKind::Asset) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn notes() -> Currency {
        Currency::custom(NOTES, 0).unwrap()
    }

    const HOLD: Derivation = Derivation { purpose: Purpose::Hold, attempt: 0, shard: ShardId(0) };

    /// What is stored stays as it is.
    #[test]
    fn the_formats_are_pinned() {
        let derived = |derivation: Derivation| derivation.derive(TransactionId(1)).0;
        assert_eq!(derived(HOLD), DERIVED[0]);
        assert_eq!(derived(Derivation { attempt: 3, ..HOLD }), DERIVED[1]);
        assert_eq!(derived(Derivation { shard: ShardId(0x507), ..HOLD }), DERIVED[2]);
        assert_eq!(derived(Derivation { purpose: Purpose::Void, ..HOLD }), DERIVED[3]);
        let places = (0..16).map(|id| shard_of(Placement::Hashed, 5, AccountId(id)).unwrap().0);
        assert_eq!(places.collect::<Vec<_>>(), PLACES);
        let homes = (0..16).map(|id| home_of(Placement::Hashed, 5, TransactionId(id)).unwrap().0);
        assert_eq!(homes.collect::<Vec<_>>(), PLACES);
        assert_eq!(home_of(Placement::Named, 5, ShardId(4).place_id(u128::MAX)), Some(ShardId(4)));
        assert_eq!(home_of(Placement::Named, 5, TransactionId(5)), None);
        let euro = Currency::iso("EUR").unwrap();
        let account = Own::InTransit { shard: ShardId(1), peer: ShardId(2), currency: euro };
        assert_eq!(account.id().0, 0xff54_5201_0001_0002_4555_5200_0000_0002);
        let layout = Layout { count: 3, accounts: Placement::Named, ids: Placement::Hashed, notes: notes() };
        let sign = sign(layout, "bank", ShardId(2));
        assert_eq!(sign.id.0, 0xff54_5200_0000_0000_5452_414e_5349_5400);
        assert_eq!(sign.metadata, b"\x01\x00\x03\x00\x02\x01\x00bank".as_slice());
    }

    /// Worked out by a second implementation.
    const DERIVED: [u128; 4] = [
        0x63c7_2fad_d49b_9f84_483c_eacb_f378_4add,
        0x13e5_4938_8e5e_c44f_0aca_29b1_2980_e266,
        0xd359_e97e_9250_6c4d_af2c_6ed4_555d_2979,
        0xad6a_1944_71bd_f090_7b1b_9db4_6d6b_2771,
    ];
    const PLACES: [u16; 16] = [1, 3, 1, 2, 0, 3, 4, 0, 0, 1, 0, 2, 4, 1, 0, 1];

    #[test]
    fn a_note_says_its_day() {
        assert_eq!(note_day(note_amount(None)), None);
        for day in [i32::MIN, -1, 0, 20_000, i32::MAX] {
            assert_eq!(note_day(note_amount(Some(Date(day)))), Some(Date(day)));
        }
        assert_eq!(note_day(u128::MAX), None);
    }

    #[test]
    fn accounts_are_spread_evenly() {
        for stride in [1_u128, 1 << 64, (1 << 64) + 1] {
            let mut counts = [0_u32; 8];
            for at in 0..8_000 {
                counts[usize::from(shard_of(Placement::Hashed, 8, AccountId(at * stride)).unwrap().0)] += 1;
            }
            assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn a_derived_id_leads_back(id: u128, attempt: u8, shard: u16, other: u128) {
            for purpose in [Purpose::Hold, Purpose::Void] {
                let derivation = Derivation { purpose, attempt, shard: ShardId(shard) };
                let derived = derivation.derive(TransactionId(id));
                prop_assert_eq!(derivation.invert(derived), TransactionId(id));
                prop_assert_eq!(derivation.derive(derivation.invert(TransactionId(other))), TransactionId(other));
            }
        }

        #[test]
        fn an_account_of_the_shards_is_known_by_its_id(shard: u16, peer: u16, is_debit: bool) {
            let (shard, peer) = (ShardId(shard), ShardId(peer));
            let side = if is_debit { Side::Debit } else { Side::Credit };
            let own = [
                Own::InTransit { shard, peer, currency: Currency::iso("JPY").unwrap() },
                Own::Note { shard, peer, side, currency: notes() },
            ];
            for own in own {
                prop_assert!(is_reserved(own.id()));
                prop_assert_eq!(Own::of(own.id()), Some(own));
                // The variant of RFC 9562 is `10`.
                prop_assert_ne!(own.id().0 >> 62 & 0b11, 0b10);
            }
        }
    }
}
