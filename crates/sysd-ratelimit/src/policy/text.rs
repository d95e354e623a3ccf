//! Policies as TOML and YAML, and where in them a field lies.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::de::DeTable;

use super::compile::compile;
use super::config::PolicyConfig;
use super::error::{FieldPath, PathStep, PolicyError, PolicyErrorKind};
use super::words::{self, Said};
use super::{Arc, Policy};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Toml,
    Yaml,
}

/// Line and column, from 1 on.
type Place = (u64, u64);

/// What a parser says.
struct Malformed {
    path: FieldPath,
    place: Option<Place>,
    problem: String,
}

impl Malformed {
    fn new(mut path: FieldPath, place: Option<Place>, said: Said) -> Self {
        if said.is_unknown_field {
            // It is not said again.
            path.steps.pop();
        }
        Self { path, place, problem: said.problem }
    }
}

pub(super) fn read(language: Language, file: &str, text: &str) -> Result<Policy, PolicyError> {
    let config = match language {
        Language::Toml => parse_toml(text),
        Language::Yaml => parse_yaml(text),
    };
    let config = config.map_err(|Malformed { path, place, problem }| {
        let place = place.or_else(|| locate(language, text, &path));
        let error = PolicyError::unreadable(file.to_owned(), problem);
        PolicyError { kind: PolicyErrorKind::Malformed, field: path.to_string(), ..error }.at(place)
    })?;
    match compile(&config) {
        Ok(compiled) => Ok(Policy { compiled: Arc::new(compiled) }),
        Err(fault) => {
            let place = locate(language, text, &fault.path);
            Err(PolicyError { file: Some(file.to_owned()), ..fault.into() }.at(place))
        }
    }
}

impl PolicyError {
    fn at(self, place: Option<Place>) -> Self {
        Self { line: place.map(|(line, _)| line), column: place.map(|(_, column)| column), ..self }
    }
}

fn parse_toml(text: &str) -> Result<PolicyConfig, Malformed> {
    let place = |error: &toml::de::Error| error.span().map(|span| place_of(text, span.start));
    let parsed = toml::de::Deserializer::parse(text)
        .map_err(|error| Malformed::new(FieldPath::default(), place(&error), words::of_toml_syntax(error.message())))?;
    serde_path_to_error::deserialize(parsed).map_err(|error| {
        let (path, error) = (path_of(error.path()), error.inner());
        Malformed::new(path, place(error), words::of_toml(error.message()))
    })
}

fn parse_yaml(text: &str) -> Result<PolicyConfig, Malformed> {
    let mut path = FieldPath::default();
    let parsed = serde_saphyr::with_deserializer_from_str(text, |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            path = path_of(error.path());
            error.into_inner()
        })
    });
    parsed.map_err(|error| {
        // Without the lines about it, which may hold an API key.
        let error = error.without_snippet();
        let place = error.location().map(|at| (at.line(), at.column())).filter(|(line, _)| *line > 0);
        // Of a value the parser names the place of its field; of a field that is not known, this is what is asked for.
        let said = words::of_yaml(error);
        let place = if said.is_unknown_field { place } else { locate_yaml(text, &path).or(place) };
        Malformed::new(path, place, said)
    })
}

fn path_of(path: &serde_path_to_error::Path) -> FieldPath {
    use serde_path_to_error::Segment;

    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(PathStep::Item(*index)),
        Segment::Map { key } => Some(PathStep::Field(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    FieldPath { steps: steps.collect() }
}

fn place_of(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line as u64, column as u64)
}

/// Where the field lies, or what holds it, if it is not there.
fn locate(language: Language, text: &str, path: &FieldPath) -> Option<Place> {
    match language {
        Language::Toml => locate_toml(text, path),
        Language::Yaml => locate_yaml(text, path),
    }
}

fn locate_toml(text: &str, path: &FieldPath) -> Option<Place> {
    let tree = DeTable::parse(text).ok()?;
    let Some((PathStep::Field(first), rest)) = path.steps.split_first() else { return Some((1, 1)) };
    let Some(mut node) = tree.get_ref().get(first.as_str()) else { return Some((1, 1)) };
    for step in rest {
        let next = match step {
            PathStep::Field(name) => node.get_ref().get(name.as_str()),
            PathStep::Item(item) => node.get_ref().get(*item),
        };
        let Some(next) = next else { break };
        node = next;
    }
    Some(place_of(text, node.span().start))
}

fn locate_yaml(text: &str, path: &FieldPath) -> Option<Place> {
    let tree: serde_saphyr::Spanned<Node> = serde_saphyr::from_str(text).ok()?;
    let mut node = &tree;
    for step in &path.steps {
        let next = match (step, &node.value) {
            (PathStep::Field(name), Node::Map(fields)) => {
                fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
            }
            (PathStep::Item(item), Node::List(items)) => items.get(*item),
            _ => None,
        };
        let Some(next) = next else { break };
        node = next;
    }
    let at = node.referenced;
    Some((at.line(), at.column())).filter(|(line, _)| *line > 0)
}

/// Any YAML, with the place of each value.
enum Node {
    Scalar,
    List(Vec<serde_saphyr::Spanned<Node>>),
    Map(Vec<(String, serde_saphyr::Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Map(fields))
    }
}
