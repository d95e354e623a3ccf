//! Procedures: tiny state, one record, atomic on every backend.

use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{Key, Record, Result, Timestamp};

/// The state that a procedure leaves; up to 64 bytes lie inline.
pub type StateBytes = SmallVec<[u8; 64]>;

/// An encoded output; up to 64 bytes lie inline.
pub type OutputBytes = SmallVec<[u8; 64]>;

/// Encoded arguments; up to 64 bytes lie inline.
pub type ArgumentBytes = SmallVec<[u8; 64]>;

/// Stored state that a procedure can't read, or an output that can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("procedure {procedure} can't decode its {what}")]
pub struct Undecodable {
    /// [`Procedure::name`].
    pub procedure: &'static str,
    /// What it was: `state`, `output`, `arguments`.
    pub what: &'static str,
}

impl Undecodable {
    /// The storage error for it, naming the record.
    pub fn at(self, key: Key<'_>) -> crate::Error {
        crate::Error::corrupt(key, self.to_string())
    }
}

/// What a procedure does to its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// Leaves it as it is, expiry included.
    Keep,
    /// Replaces it.
    Put {
        /// The new state.
        state: StateBytes,
        /// How long it lives from now, at least a microsecond; `None`: for ever.
        ttl: Option<Duration>,
    },
    /// Removes it.
    Delete,
}

/// What a procedure decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<O> {
    /// What it does to its record.
    pub change: StateChange,
    /// What it answers.
    pub output: O,
}

/// A pure function of one record's state and the time, run atomically by the store.
///
/// `apply` must be deterministic, quick (it runs under a lock on memory, on Redis's only thread) and may be called several
/// times for one update. It sees `None` where the record is absent or expired.
///
/// # The Lua twin
/// Redis runs [`Procedure::script`] in place of `apply`, so it must be its equal: same state bytes, same output bytes, same
/// time to live. See [`Script`].
///
/// ```
/// use sysd_core::{OutputBytes, Procedure, StateBytes, StateChange, Step, Timestamp, Undecodable};
///
/// /// Counts its calls.
/// struct Count;
///
/// impl Procedure for Count {
///     type Output = u64;
///
///     fn name(&self) -> &'static str {
///         "count"
///     }
///
///     fn apply(&self, state: Option<&[u8]>, _now: Timestamp) -> Result<Step<u64>, Undecodable> {
///         let count = state.map_or(Ok(0), |state| self.decode_output(state))? + 1;
///         let change = StateChange::Put { state: StateBytes::from_slice(&count.to_be_bytes()), ttl: None };
///         Ok(Step { change, output: count })
///     }
///
///     fn encode_output(&self, output: &u64, out: &mut OutputBytes) {
///         out.extend_from_slice(&output.to_be_bytes());
///     }
///
///     fn decode_output(&self, bytes: &[u8]) -> Result<u64, Undecodable> {
///         let error = Undecodable { procedure: self.name(), what: "output" };
///         Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| error)?))
///     }
/// }
/// ```
pub trait Procedure: Send + Sync {
    /// What it answers.
    type Output;

    /// Its name in errors, metrics and logs.
    fn name(&self) -> &'static str;

    /// Decides. `now` may step back between calls.
    ///
    /// # Errors
    /// [`Undecodable`] if `state` is not what this procedure writes: the store then reports
    /// [`Corrupt`](crate::ErrorKind::Corrupt) with the key and changes nothing.
    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<Self::Output>, Undecodable>;

    /// Encodes an output for its way through the store.
    fn encode_output(&self, output: &Self::Output, out: &mut OutputBytes);

    /// Decodes what [`Procedure::encode_output`] or the Lua twin made.
    ///
    /// # Errors
    /// [`Undecodable`] if it is something else.
    fn decode_output(&self, bytes: &[u8]) -> Result<Self::Output, Undecodable>;

    /// The Lua twin, if there is one. Without it the procedure does not run on Redis.
    fn script(&self) -> Option<&'static Script> {
        None
    }

    /// Encodes the arguments for the Lua twin, which gets them as one byte string.
    fn encode_arguments(&self, _out: &mut ArgumentBytes) {}
}

/// The Lua twin of a procedure, shipped by the crate that owns it.
///
/// The source is the body of a Lua 5.1 function of `state, now, arguments`:
/// - `state`: the record's state as a string, `nil` where it is absent or expired;
/// - `now`: microseconds since 1970, a number that is exact (below 2^53);
/// - `arguments`: the byte string of [`Procedure::encode_arguments`].
///
/// It returns `action, output, new_state, ttl_us`: `action` is `'keep'`, `'put'`, `'delete'`, or `'undecodable'` (then
/// `output` says what); `output` is a byte string; `new_state` and `ttl_us` (a number of microseconds, `nil`: for ever) go
/// with `'put'`. It calls no `redis.*` function. Numbers are doubles: pack them with `struct`, never with `tostring`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Script {
    /// The name, for errors.
    pub name: &'static str,
    /// The Lua text.
    pub source: &'static str,
}

/// A [`Procedure`] with its output as bytes: what stores run, object-safe. Implemented for every procedure.
pub trait ErasedProcedure: Send + Sync {
    /// As [`Procedure::name`].
    fn name(&self) -> &'static str;

    /// As [`Procedure::apply`], the output appended to `output`.
    ///
    /// # Errors
    /// As [`Procedure::apply`].
    fn apply(&self, state: Option<&[u8]>, now: Timestamp, output: &mut OutputBytes)
    -> Result<StateChange, Undecodable>;

    /// As [`Procedure::script`].
    fn script(&self) -> Option<&'static Script>;

    /// As [`Procedure::encode_arguments`].
    fn encode_arguments(&self, out: &mut ArgumentBytes);
}

impl<P: Procedure> ErasedProcedure for P {
    fn name(&self) -> &'static str {
        Procedure::name(self)
    }

    #[inline]
    fn apply(
        &self,
        state: Option<&[u8]>,
        now: Timestamp,
        output: &mut OutputBytes,
    ) -> Result<StateChange, Undecodable> {
        let step = Procedure::apply(self, state, now)?;
        self.encode_output(&step.output, output);
        Ok(step.change)
    }

    fn script(&self) -> Option<&'static Script> {
        Procedure::script(self)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        Procedure::encode_arguments(self, out);
    }
}

/// What a procedure's step does to a record, for stores that write by compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordChange {
    /// Nothing to write.
    Keep,
    /// Put these bytes with this expiry.
    Put {
        /// The new value.
        value: Bytes,
        /// Its expiry.
        expires_at: Option<Timestamp>,
    },
    /// Delete the record.
    Delete,
}

/// Runs a procedure on a record that was read: the pure part of an update by compare-and-set.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the procedure can't decode the record; [`Invalid`](crate::ErrorKind::Invalid)
/// naming `ttl` if it asks for a time to live of zero or beyond [`Timestamp::MAX`].
pub fn apply_to_record(
    procedure: &dyn ErasedProcedure,
    key: Key<'_>,
    record: Option<&Record>,
    now: Timestamp,
    output: &mut OutputBytes,
) -> Result<RecordChange> {
    let state = record.filter(|record| !record.is_expired(now)).map(|record| record.value.as_ref());
    match procedure.apply(state, now, output).map_err(|error| error.at(key))? {
        StateChange::Keep => Ok(RecordChange::Keep),
        StateChange::Delete => Ok(RecordChange::Delete),
        StateChange::Put { state, ttl } => Ok(RecordChange::Put {
            value: Bytes::copy_from_slice(&state),
            expires_at: ttl.map(|ttl| expiry(now, ttl)).transpose()?,
        }),
    }
}

/// When something that lives for `ttl` from `now` expires.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) naming `ttl` if that is now or beyond [`Timestamp::MAX`].
#[inline]
pub fn expiry(now: Timestamp, ttl: Duration) -> Result<Timestamp> {
    match now.checked_add(ttl) {
        Some(at) if at > now => Ok(at),
        Some(_) => Err(crate::Error::invalid("ttl", "a time to live is at least one microsecond")),
        None => {
            Err(crate::Error::invalid("ttl", "it ends beyond the year 2255; leave it out to keep the record for ever"))
        }
    }
}
