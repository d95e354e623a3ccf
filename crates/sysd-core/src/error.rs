//! Errors on two axes: what kind, and what effect.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use crate::key::{Key, KeyBuf};

/// The result of a storage call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the words that callers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument can never be right (an empty partition, a limit of zero). Fix the call; [`Error::field`] names the argument.
    Invalid,
    /// A key, value or batch is over [`Limits`](crate::Limits). Make it smaller; [`Error::field`] names the part.
    TooLarge,
    /// The backend asks for less traffic. Slow down, then try again.
    Throttled,
    /// The backend can't be reached or can't serve now. Try again later.
    Unavailable,
    /// No answer came within the deadline. A write that timed out may have happened.
    Timeout,
    /// Other writers kept winning until the attempts ran out. Try again, or spread the load over more keys.
    Contention,
    /// A newer writer has taken over. Stop writing, or take over again on purpose.
    Fenced,
    /// The store has reached the cap on its memory or disk. Free some, or raise the cap.
    Full,
    /// Credentials are missing, wrong or lack a right. Retrying does not help.
    Denied,
    /// Stored bytes can't be decoded. [`Error::key`] says where they lie; nothing was changed.
    Corrupt,
    /// The store is set up wrongly (a bad URL, a missing table, an eviction policy that loses data). An operator must act.
    Config,
    /// This backend can't do what was asked (a procedure without a Lua twin on Redis).
    Unsupported,
    /// The backend answered something that it should not have, or sysd has a bug. Please report it.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::Invalid,
        Self::TooLarge,
        Self::Throttled,
        Self::Unavailable,
        Self::Timeout,
        Self::Contention,
        Self::Fenced,
        Self::Full,
        Self::Denied,
        Self::Corrupt,
        Self::Config,
        Self::Unsupported,
        Self::Internal,
    ];

    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::Timeout | Self::Contention)
    }

    /// The name in metrics and logs, `snake_case`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Contention => "contention",
            Self::Fenced => "fenced",
            Self::Full => "full",
            Self::Denied => "denied",
            Self::Corrupt => "corrupt",
            Self::Config => "config",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a failed call may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing happened, and nothing will.
    None,
    /// It may have happened, or may still happen: a lost reply, a timeout after sending.
    Unknown,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nothing happened",
            Self::Unknown => "it may have happened",
        })
    }
}

/// Why a storage call could not answer.
///
/// A lost condition is not an error: see [`Outcome`](crate::Outcome).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    effect: Effect,
    field: Option<&'static str>,
    message: Cow<'static, str>,
    key: Option<KeyBuf>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with `effect`. The message says what to do, in one clause, and holds no secret.
    pub fn new(kind: ErrorKind, effect: Effect, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, effect, field: None, message: message.into(), key: None, source: None }))
    }

    /// An argument that can never be right: [`ErrorKind::Invalid`], nothing happened.
    pub fn invalid(field: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, Effect::None, message).with_field(field)
    }

    /// An argument over a limit: [`ErrorKind::TooLarge`], nothing happened.
    pub fn too_large(field: &'static str, size: usize, size_max: usize) -> Self {
        Self::new(ErrorKind::TooLarge, Effect::None, format!("{size} bytes are over the limit of {size_max}"))
            .with_field(field)
    }

    /// Stored bytes that can't be decoded: [`ErrorKind::Corrupt`], nothing happened.
    pub fn corrupt(key: Key<'_>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Corrupt, Effect::None, message).with_key(key)
    }

    /// Names the argument that is wrong.
    #[must_use]
    pub fn with_field(mut self, field: &'static str) -> Self {
        self.0.field = Some(field);
        self
    }

    /// Names the record that the error is about.
    #[must_use]
    pub fn with_key(mut self, key: Key<'_>) -> Self {
        self.0.key = Some(key.to_owned());
        self
    }

    /// Keeps the cause. The cause's text must hold no secret: it is printed by error reporters.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Changes the effect: an adapter knows it only where it knows what was sent.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// What this error says of a larger call: if `is_begun`, a part of that was carried out before, or may have been, and so
    /// the effect is unknown whatever this part's is. Else the error stays as it is.
    #[must_use]
    pub fn after_part(self, is_begun: bool) -> Self {
        if is_begun { self.with_effect(Effect::Unknown) } else { self }
    }

    /// The same error for another caller of the same call; without the source, which has one owner.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            effect: self.0.effect,
            field: self.0.field,
            message: self.0.message.clone(),
            key: self.0.key.clone(),
            source: None,
        }))
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the call may have done all the same.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The argument that is wrong, for [`ErrorKind::Invalid`] and [`ErrorKind::TooLarge`].
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// The record that the error is about, where one is.
    pub fn key(&self) -> Option<Key<'_>> {
        self.0.key.as_ref().map(KeyBuf::as_key)
    }

    /// The message without kind, effect and key.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same call may simply be sent again: the kind is transient and nothing happened.
    ///
    /// A caller whose operation is idempotent may retry a transient error whatever its effect.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_transient() && self.effect() == Effect::None
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("effect", &self.0.effect)
            .field("field", &self.0.field)
            .field("message", &self.0.message)
            .field("key", &self.0.key)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.kind)?;
        if let Some(field) = self.0.field {
            write!(f, " {field}")?;
        }
        write!(f, ": {}", self.0.message)?;
        if let Some(key) = &self.0.key {
            write!(f, " (record {key})")?;
        }
        if self.0.effect == Effect::Unknown {
            write!(f, "; {}", self.0.effect)?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Space;

    #[test]
    fn says_kind_field_record_and_effect() {
        let space = const { Space::conditional("users") };
        let error = Error::new(ErrorKind::Timeout, Effect::Unknown, "no answer in 2 s")
            .with_field("value")
            .with_key(Key::row(space, b"a\x00", b"b"));
        assert_eq!(error.to_string(), r"timeout value: no answer in 2 s (record users/a\x00/b); it may have happened");
    }

    #[test]
    fn an_error_after_a_part_that_was_carried_out_may_have_happened() {
        for (effect, is_begun, whole) in [
            (Effect::None, false, Effect::None),
            (Effect::None, true, Effect::Unknown),
            (Effect::Unknown, false, Effect::Unknown),
            (Effect::Unknown, true, Effect::Unknown),
        ] {
            let error = Error::new(ErrorKind::Denied, effect, "x").with_field("y").after_part(is_begun);
            assert_eq!((error.kind(), error.field(), error.effect()), (ErrorKind::Denied, Some("y"), whole));
        }
    }

    #[test]
    fn only_a_transient_error_without_effect_is_retryable() {
        for kind in ErrorKind::ALL {
            for effect in [Effect::None, Effect::Unknown] {
                let expected = effect == Effect::None
                    && matches!(
                        kind,
                        ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Contention
                    );
                assert_eq!(Error::new(kind, effect, "x").is_retryable(), expected, "{kind} {effect:?}");
            }
        }
    }
}
