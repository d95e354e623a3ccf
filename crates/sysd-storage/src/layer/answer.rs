//! What every answer of a store has in common.

use sysd_core::{Error, Outcome, OutputBytes, Page, Record, Result, Trimmed};

/// The answer of any method of a store: one result, or those of a batch. Only this crate implements it.
pub trait Answer: sealed::Answer {
    /// Fails all that was asked: `wanted` answers, each with the error.
    fn failed(wanted: usize, error: Error) -> Self;

    /// Replaces the answer at a place, if there is one, by an error: for those who inject faults.
    fn spoil(&mut self, at: usize, error: Error);

    /// How many answers there are.
    fn count(&self) -> usize;

    /// The errors among them.
    fn errors(&self) -> impl Iterator<Item = &Error>;

    /// How many conditions were lost. A conflict is no error.
    fn conflicts(&self) -> usize;
}

mod sealed {
    use super::Result;

    pub trait Answer: Send {}
    impl<T: Value> Answer for Result<T> {}
    impl<T: Value> Answer for Vec<Result<T>> {}

    /// What a method answers when it can.
    pub trait Value: Send {
        fn is_conflict(&self) -> bool {
            false
        }
    }
}

impl sealed::Value for Option<Record> {}
impl sealed::Value for Page {}
impl sealed::Value for Trimmed {}
impl sealed::Value for OutputBytes {}

impl sealed::Value for Outcome {
    fn is_conflict(&self) -> bool {
        !self.is_applied()
    }
}

fn is_conflict<T: sealed::Value>(answer: &Result<T>) -> bool {
    answer.as_ref().is_ok_and(sealed::Value::is_conflict)
}

impl<T: sealed::Value> Answer for Result<T> {
    fn failed(_: usize, error: Error) -> Self {
        Err(error)
    }

    fn spoil(&mut self, at: usize, error: Error) {
        if at == 0 {
            *self = Err(error);
        }
    }

    fn count(&self) -> usize {
        1
    }

    fn errors(&self) -> impl Iterator<Item = &Error> {
        self.as_ref().err().into_iter()
    }

    fn conflicts(&self) -> usize {
        usize::from(is_conflict(self))
    }
}

impl<T: sealed::Value> Answer for Vec<Result<T>> {
    fn failed(wanted: usize, error: Error) -> Self {
        (0..wanted).map(|_| Err(error.share())).collect()
    }

    fn spoil(&mut self, at: usize, error: Error) {
        if let Some(answer) = self.get_mut(at) {
            *answer = Err(error);
        }
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn errors(&self) -> impl Iterator<Item = &Error> {
        self.iter().filter_map(|answer| answer.as_ref().err())
    }

    fn conflicts(&self) -> usize {
        self.iter().filter(|answer| is_conflict(answer)).count()
    }
}
