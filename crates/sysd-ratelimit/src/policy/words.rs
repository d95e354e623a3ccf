//! What the parsers say, in a policy's words.
//!
//! Nothing of what the file holds is said again: what stands in a wrong place, as a field's name or as a value, may be an API key.

use serde_saphyr::Error as YamlError;

/// What a parser says.
pub(super) struct Said {
    pub(super) problem: String,
    /// The last step of the way to it is a field that a policy does not have.
    pub(super) is_unknown_field: bool,
}

impl From<String> for Said {
    fn from(problem: String) -> Self {
        Self { problem, is_unknown_field: false }
    }
}

fn unknown_field(known: &str) -> Said {
    Said { problem: format!("no field of a policy; here it may be {known}"), is_unknown_field: true }
}

fn unknown_word(known: &str) -> Said {
    format!("no word that is known here; write {known}").into()
}

fn expected(what: &str) -> Said {
    format!("expected {}", plain(what)).into()
}

/// Without the words of Rust and of parsers.
fn plain(expected: &str) -> &str {
    match expected {
        "a boolean" | "boolean" => "true or false",
        "a string" | "string scalar" | "string or table" => "a text",
        "a sequence" | "sequence start" => "a list",
        "mapping start" => "fields with values",
        "i32" | "integer" | "floating point" => "a whole number",
        _ if expected.starts_with("struct ") => "fields with values",
        _ => expected,
    }
}

/// Of TOML that was parsed and does not fit; what the parser itself says is in plain words already, and holds nothing of the text.
pub(super) fn of_toml(message: &str) -> Said {
    // What is expected is ours, and stands at the end; before it is the file's.
    let known = message.rsplit_once(", expected ").map(|(_, known)| known);
    match (message.split(' ').next(), known) {
        (Some("missing"), _) => message.to_owned().into(),
        (Some("unknown"), Some(known)) if message.starts_with("unknown field") => unknown_field(known),
        (Some("unknown"), Some(known)) => unknown_word(known),
        (_, Some(known)) => expected(known),
        (_, None) => NOT_HERE.to_owned().into(),
    }
}

const NOT_HERE: &str = "nothing that a policy can have here";
const TWICE: &str = "there twice; leave one away";
const NO_YAML: &str = "no YAML; look for an indentation that is off, or for a bracket or quote that is not closed";
const TOO_CLEVER: &str = "a tag, an anchor or an include, which a policy can't have here; write the value itself";

/// What the parser of TOML itself says.
pub(super) fn of_toml_syntax(message: &str) -> Said {
    let is_twice = message == "duplicate key";
    if is_twice { TWICE.to_owned() } else { format!("no TOML: {message}") }.into()
}

pub(super) fn of_yaml(error: &YamlError) -> Said {
    let one_of = |known: &[&str]| {
        let known: Vec<_> = known.iter().map(|word| format!("`{word}`")).collect();
        if known.len() == 1 { known.concat() } else { format!("one of {}", known.join(", ")) }
    };
    let problem = match error {
        YamlError::SerdeUnknownField { expected, .. } => return unknown_field(&one_of(expected)),
        YamlError::SerdeUnknownVariant { expected, .. } => return unknown_word(&one_of(expected)),
        YamlError::SerdeInvalidType { expected: what, .. } | YamlError::SerdeInvalidValue { expected: what, .. } => {
            return expected(what);
        }
        YamlError::Unexpected { expected: what, .. } | YamlError::InvalidScalar { ty: what, .. } => {
            return expected(what);
        }
        YamlError::AliasError { error, .. } => return of_yaml(error),
        YamlError::SerdeMissingField { field, .. } => return format!("missing field `{field}`").into(),
        YamlError::DuplicateMappingKey { .. } => TWICE,
        YamlError::InvalidBooleanStrict { .. } => "expected true or false",
        YamlError::NullIntoString { .. } => "nothing; expected a text",
        YamlError::NonFiniteFloat { .. } => "expected a whole number",
        YamlError::MultipleDocuments { .. } => "more than one document; leave one",
        YamlError::Eof { .. } => "it ends too early; look for what is not closed",
        YamlError::ExternalMessage { .. }
        | YamlError::ContainerEndMismatch { .. }
        | YamlError::UnexpectedSequenceEnd { .. }
        | YamlError::UnexpectedMappingEnd { .. }
        | YamlError::FoldedBlockScalarMustIndentContent { .. }
        | YamlError::IndentationError { .. } => NO_YAML,
        YamlError::UnsupportedTag { .. }
        | YamlError::TaggedStructFieldName { .. }
        | YamlError::TaggedEnumMismatch { .. }
        | YamlError::UnknownAnchor { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. }
        | YamlError::MergeKeyNotAllowed { .. }
        | YamlError::MergeValueNotMapOrSeqOfMaps { .. }
        | YamlError::UnsupportedIncludeForm { .. }
        | YamlError::Budget { .. } => TOO_CLEVER,
        _ => NOT_HERE,
    };
    problem.to_owned().into()
}
