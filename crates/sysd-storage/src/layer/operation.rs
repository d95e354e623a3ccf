//! Which call goes through a layer.

use sysd_core::{Effect, Key, Scan, Space, Trim, Write};

/// A method of [`Store`](sysd_core::Store).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads a record.
    Get,
    /// Reads records.
    GetMany,
    /// Writes a record.
    Write,
    /// Writes records.
    WriteMany,
    /// Reads rows.
    Scan,
    /// Removes rows.
    Trim,
    /// Runs a procedure.
    Update,
}

impl Method {
    /// Every method, in the order of the trait.
    pub const ALL: [Self; 7] =
        [Self::Get, Self::GetMany, Self::Write, Self::WriteMany, Self::Scan, Self::Trim, Self::Update];

    /// The name in metrics and spans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::GetMany => "get_many",
            Self::Write => "write",
            Self::WriteMany => "write_many",
            Self::Scan => "scan",
            Self::Trim => "trim",
            Self::Update => "update",
        }
    }

    /// Whether it changes nothing.
    pub const fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::GetMany | Self::Scan)
    }

    /// What a call that was given up after it was sent may have done.
    pub const fn effect_unanswered(self) -> Effect {
        if self.is_read() { Effect::None } else { Effect::Unknown }
    }
}

/// One call, as an [`Interceptor`](super::Interceptor) sees it: neither keys nor values are in it, so none can leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which method.
    pub method: Method,
    /// The space, that of a batch's first record.
    pub space: Space,
    /// How many answers are wanted: the length of a batch, else 1.
    pub answers: usize,
}

impl Operation {
    pub(super) const fn get(key: Key<'_>) -> Self {
        Self { method: Method::Get, space: key.space(), answers: 1 }
    }

    /// `None` for a batch of nothing, which asks nothing.
    pub(super) fn get_many(keys: &[Key<'_>]) -> Option<Self> {
        Some(Self { method: Method::GetMany, space: keys.first()?.space(), answers: keys.len() })
    }

    pub(super) const fn write(write: &Write<'_>) -> Self {
        Self { method: Method::Write, space: write.key.space(), answers: 1 }
    }

    /// `None` for a batch of nothing.
    pub(super) fn write_many(writes: &[Write<'_>]) -> Option<Self> {
        Some(Self { method: Method::WriteMany, space: writes.first()?.key.space(), answers: writes.len() })
    }

    pub(super) const fn scan(scan: &Scan<'_>) -> Self {
        Self { method: Method::Scan, space: scan.space, answers: 1 }
    }

    pub(super) const fn trim(trim: &Trim<'_>) -> Self {
        Self { method: Method::Trim, space: trim.space, answers: 1 }
    }

    pub(super) const fn update(key: Key<'_>) -> Self {
        Self { method: Method::Update, space: key.space(), answers: 1 }
    }
}
