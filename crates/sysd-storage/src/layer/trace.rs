//! A span for every call.

use std::future::Future;

use sysd_core::{Effect, Error};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::{Answer, Interceptor, Operation};

/// Puts every call into a [`tracing`] span named `store`, at the level `INFO`.
///
/// | field | what is in it |
/// |---|---|
/// | `operation` | the method: `get`, `write_many`, … |
/// | `space` | the name of the space; of a batch, that of its first record |
/// | `answers` | how many were wanted: the length of a batch, else 1 |
/// | `outcome` | `ok`; `conflict` if a condition was lost; `error` if there was any; `dropped` if the caller gave up |
/// | `errors` | of a batch, how many |
/// | `kind`, `effect` | of the error, in a batch of the first whose effect is unknown, else of the first |
///
/// Never keys, values or messages.
///
/// # Cost
/// Where nobody listens, one comparison.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace;

/// Says that the call was dropped, unless it was answered.
struct Outcome {
    span: Span,
    is_answered: bool,
}

impl Outcome {
    fn answered(mut self, answer: &impl Answer) {
        let errors = answer.errors().count();
        let outcome = match (errors, answer.conflicts()) {
            (0, 0) => "ok",
            (0, _) => "conflict",
            _ => "error",
        };
        self.span.record("outcome", outcome);
        let unknown = answer.errors().find(|error| error.effect() == Effect::Unknown);
        if let Some(error) = unknown.or_else(|| answer.errors().next()) {
            self.span.record("errors", errors);
            self.span.record("kind", error.kind().name());
            self.span.record("effect", effect_name(error));
        }
        self.is_answered = true;
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.is_answered {
            self.span.record("outcome", "dropped");
        }
    }
}

pub(super) fn effect_name(error: &Error) -> &'static str {
    match error.effect() {
        Effect::None => "none",
        Effect::Unknown => "unknown",
    }
}

impl Interceptor for Trace {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        let span = tracing::info_span!(
            "store",
            operation = operation.method.name(),
            space = operation.space.name(),
            answers = operation.answers,
            outcome = Empty,
            errors = Empty,
            kind = Empty,
            effect = Empty,
        );
        if span.is_disabled() {
            return call.await;
        }
        let outcome = Outcome { span: span.clone(), is_answered: false };
        let answer = call.instrument(span).await;
        outcome.answered(&answer);
        answer
    }
}
