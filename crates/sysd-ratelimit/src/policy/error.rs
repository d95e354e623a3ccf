//! What is wrong with a policy, and where.

use std::fmt;

/// Why there is no policy. It reads `FILE:LINE:COLUMN: FIELD: what is wrong; what to do`, as far as these are known.
///
/// It says again nothing that may be an API key in a wrong place: no name of a field that is not known, no value of a list or of what a
/// rule counts by. The line says where to look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{field}{problem}", place = Place(self), field = Named(&self.field))]
pub struct PolicyError {
    pub(super) file: Option<String>,
    pub(super) line: Option<u64>,
    pub(super) column: Option<u64>,
    pub(super) field: String,
    pub(super) problem: String,
    pub(super) kind: PolicyErrorKind,
}

/// What sort of mistake it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyErrorKind {
    /// The file could not be read, or its name does not say in which language it is.
    Unreadable,
    /// The text is not TOML or YAML, or has a field that is not known, is missing, or holds something of another type.
    Malformed,
    /// A field holds what no policy can.
    Invalid,
}

impl PolicyError {
    pub(super) fn unreadable(file: String, problem: String) -> Self {
        let kind = PolicyErrorKind::Unreadable;
        Self { file: Some(file), line: None, column: None, field: String::new(), problem, kind }
    }

    /// The file, by the name that was given; `None` for what came from no file.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line, from 1 on.
    pub fn line(&self) -> Option<u64> {
        self.line
    }

    /// The column in characters, from 1 on.
    pub fn column(&self) -> Option<u64> {
        self.column
    }

    /// The field, like `rules[0].rate`: lists count from 0. Of one that is not known, what holds it. Empty for the file as a whole.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong, and what to do.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What sort of mistake it is.
    pub fn kind(&self) -> PolicyErrorKind {
        self.kind
    }
}

impl From<Fault> for PolicyError {
    fn from(fault: Fault) -> Self {
        let field = fault.path.to_string();
        let kind = PolicyErrorKind::Invalid;
        Self { file: None, line: None, column: None, field, problem: fault.problem, kind }
    }
}

struct Place<'a>(&'a PolicyError);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyError { file, line, column, .. } = self.0;
        let Some(file) = file else { return Ok(()) };
        f.write_str(file)?;
        for number in [line, column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        f.write_str(": ")
    }
}

struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// A field that holds what no policy can; where it lies in the file is found later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) path: FieldPath,
    pub(super) problem: String,
}

/// The way from the top of a policy to a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldPath {
    pub(super) steps: Vec<PathStep>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathStep {
    Field(String),
    Item(usize),
}

impl FieldPath {
    pub(super) fn of(field: &str) -> Self {
        Self::default().field(field)
    }

    pub(super) fn field(&self, name: &str) -> Self {
        self.and(PathStep::Field(name.to_owned()))
    }

    pub(super) fn item(&self, at: usize) -> Self {
        self.and(PathStep::Item(at))
    }

    fn and(&self, step: PathStep) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self { steps }
    }

    pub(super) fn fault(self, problem: impl Into<String>) -> Fault {
        Fault { path: self, problem: problem.into() }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                PathStep::Field(name) if at == 0 => f.write_str(name)?,
                PathStep::Field(name) => write!(f, ".{name}")?,
                PathStep::Item(item) => write!(f, "[{item}]")?,
            }
        }
        Ok(())
    }
}
