//! Leases: named locks with a deadline, and a fencing token that rises.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::{Entropy, KeyBytes, Result, Timestamp};

/// Rises with every acquisition of a name: what a resource compares, to turn away those whose lease has run out.
///
/// A lease alone protects nothing: its holder may be paused past the deadline and go on believing. Send the token with
/// every write, and let the resource refuse a token lower than the highest that it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(u64);

impl FencingToken {
    /// From a number.
    pub const fn from_u64(token: u64) -> Self {
        Self(token)
    }

    /// As a number, below 2^53.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// Who holds a lease: minted once a process, or once a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderId(u128);

impl HolderId {
    /// A fresh id. It is never zero, which stands for nobody.
    pub fn mint(entropy: &(impl Entropy + ?Sized)) -> Self {
        Self((u128::from(entropy.next_u64()) << 64 | u128::from(entropy.next_u64())).max(1))
    }

    /// From a number; `None` for zero.
    pub const fn from_u128(id: u128) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// As a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Of what.
    pub name: KeyBytes,
    /// By whom.
    pub holder: HolderId,
    /// The token of this acquisition; renewals keep it.
    pub token: FencingToken,
    /// Until when, by the holder's own clock, counted from before the call: not later than the store sees it.
    pub until: Timestamp,
}

/// What came of an acquisition. Being refused is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "being refused is a value, not an error: look at it"]
pub enum Acquired {
    /// It is held.
    Held(Lease),
    /// Somebody else holds it.
    Taken {
        /// Under this token.
        token: FencingToken,
        /// For so long, unless it is renewed or released.
        left: Duration,
    },
}

impl Acquired {
    /// The lease, if it is held.
    pub fn held(self) -> Option<Lease> {
        match self {
            Self::Held(lease) => Some(lease),
            Self::Taken { .. } => None,
        }
    }
}

/// Why a lease is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseLost {
    /// Its time ran out; nobody has taken it since.
    Expired,
    /// It was released.
    Released,
    /// Somebody has acquired it since, under this token.
    TakenOver {
        /// The newer token.
        token: FencingToken,
    },
}

/// What came of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a lost lease is a value, not an error: look at it"]
pub enum Renewed {
    /// It is held, longer than before.
    Held(Lease),
    /// It is not held any more.
    Lost(LeaseLost),
}

/// Named locks with a deadline.
///
/// # Guarantees
/// - At any moment by the clock that decides ([`Limits::clock`](crate::Limits::clock)), at most one holder holds a name. A lease is held before its deadline
///   and not at it.
/// - Tokens of one name rise with every acquisition.
/// - Whoever asks again after a lost reply is told of its own acquisition: same token.
///
/// # Cancel safety
/// A call that is dropped may have happened. An acquisition that nobody knows of ends with its deadline.
pub trait Leases: Send + Sync + 'static {
    /// Acquires `name` for `hold`, if nobody else holds it. Who holds it already gets the same token, for no shorter time.
    fn acquire(&self, name: &[u8], holder: HolderId, hold: Duration) -> impl Future<Output = Result<Acquired>> + Send;

    /// Holds on for `hold` from now.
    fn renew(&self, lease: &Lease, hold: Duration) -> impl Future<Output = Result<Renewed>> + Send;

    /// Lets go; answers why it was not held any more, if so. Releasing twice is releasing.
    fn release(&self, lease: &Lease) -> impl Future<Output = Result<Option<LeaseLost>>> + Send;
}
