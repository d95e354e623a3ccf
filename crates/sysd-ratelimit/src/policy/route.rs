//! Which paths a rule is for.

use std::sync::Arc;

use smallvec::SmallVec;

/// A pattern of paths: `/about`, `/users/{id}/posts`, `/files/*`.
///
/// A rule that is evaded limits nothing, so a pattern matches rather too much: escapes (`%61`) are read, empty segments and a slash
/// at the end are passed over, as many servers do, and `/files/*` is for `/files` itself too. `.` and `..` are segments like
/// any other: give the path as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    text: Arc<str>,
    segments: Vec<Segment>,
    /// Whatever follows.
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Vec<u8>),
    Any,
}

/// A path, cut at its slashes.
pub(super) struct Path<'a> {
    segments: SmallVec<[&'a [u8]; 16]>,
}

impl<'a> Path<'a> {
    pub(super) fn new(path: &'a str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Self { segments: path.split('/').filter(|segment| !segment.is_empty()).map(str::as_bytes).collect() }
    }
}

impl Pattern {
    /// Reads a pattern; else what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(inner) = text.strip_prefix('/') else {
            return Err(format!("{text:?} is no route; let it begin with /"));
        };
        let mut pattern = Self { text: text.into(), segments: Vec::new(), open: false };
        if inner.is_empty() {
            return Ok(pattern);
        }
        if text.contains(['?', '#']) || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("{text:?} has more than a path; leave away what follows it, and spaces"));
        }
        let mut segments = inner.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "*" if segments.peek().is_none() => pattern.open = true,
                "" => return Err(format!("{text:?} has an empty segment; write each slash once and none at the end")),
                _ => pattern.segments.push(Segment::parse(segment).ok_or_else(|| bad_segment(text, segment))?),
            }
        }
        Ok(pattern)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn matches(&self, path: &Path<'_>) -> bool {
        let (wanted, given) = (self.segments.len(), path.segments.len());
        (wanted == given || self.open && wanted < given)
            && self.segments.iter().zip(&path.segments).all(|(wanted, given)| wanted.matches(given))
    }

    /// Whether some path matches both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (short, long) = if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        (short.open || short.segments.len() == long.segments.len())
            && short.segments.iter().zip(&long.segments).all(|(one, other)| one.overlaps(other))
    }
}

fn bad_segment(text: &str, segment: &str) -> String {
    format!(
        "{text:?}: {segment:?} is no segment; write a literal, {{name}} for any one, or * at the end for all that follows"
    )
}

impl Segment {
    fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            return is_name.then_some(Self::Any);
        }
        // What other routers write for `{name}` and `*`.
        let is_foreign = text.starts_with(':') || text.contains(['{', '}', '*']);
        (!is_foreign).then(|| Self::Literal(unescaped(text.as_bytes()).collect()))
    }

    fn matches(&self, given: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => literal == given || unescaped(given).eq(literal.iter().copied()),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(one), Self::Literal(other)) => one == other,
            _ => true,
        }
    }
}

/// The bytes that `%61` and the like stand for; what is no escape stands for itself.
fn unescaped(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&first, behind) = rest.split_first()?;
        if first == b'%'
            && let [high, low, after @ ..] = behind
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        rest = behind;
        Some(first)
    })
}

/// The value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(&Path::new(path))
    }

    #[test]
    fn patterns_match_whole_segments() {
        for (pattern, path) in [
            ("/", "/"),
            ("/", ""),
            ("/about", "/about"),
            ("/about", "/about/"),
            ("/about", "//about"),
            ("/about", "/%61b%6Fut"),
            ("/about", "/about?next=/login"),
            ("/a%2Fb", "/a%2fb"),
            ("/users/{id}/posts", "/users/7/posts"),
            ("/files/*", "/files"),
            ("/files/*", "/files/a/b"),
            ("/*", "/"),
            ("/*", "/any/thing"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/", "/a"),
            ("/about", "/About"),
            ("/about", "/about/us"),
            ("/about", "/aboutus"),
            ("/a/b", "/a%2Fb"),
            ("/users/{id}/posts", "/users/posts"),
            ("/users/{id}/posts", "/users/7/8/posts"),
            ("/users/{id}", "/users/"),
            ("/files/*", "/file"),
            ("/100%", "/100%25%"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn bad_patterns_say_what_to_write() {
        for (pattern, hint) in [
            ("", "begin with /"),
            ("about", "begin with /"),
            ("/a//b", "each slash once"),
            ("/a/", "none at the end"),
            ("/a?b", "leave away"),
            ("/a b", "leave away"),
            ("/{}", "{name}"),
            ("/{*rest}", "* at the end"),
            ("/:id", "{name}"),
            ("/a*", "* at the end"),
            ("/*/b", "* at the end"),
            ("/x{id}", "{name}"),
        ] {
            let problem = Pattern::parse(pattern).unwrap_err();
            assert!(problem.contains(hint), "{pattern}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn patterns_that_match_one_path_overlap(
            one in "(/(a|b|\\{x\\})){1,3}(/\\*)?", other in "(/(a|b|\\{x\\})){1,3}(/\\*)?", path in "(/(a|b|c)){1,4}",
        ) {
            let (one, other, path) = (Pattern::parse(&one).unwrap(), Pattern::parse(&other).unwrap(), Path::new(&path));
            if one.matches(&path) && other.matches(&path) {
                prop_assert!(one.overlaps(&other) && other.overlaps(&one));
            }
        }

        #[test]
        fn any_text_is_a_pattern_or_an_error(text in ".*", path in ".*") {
            if let Ok(pattern) = Pattern::parse(&text) {
                pattern.matches(&Path::new(&path));
            }
        }
    }
}
