//! House rules that a look at the text can check.

use std::path::Path;
use std::process::Command;

/// A file of the tree.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

/// A rule: its name, and the lines (counted from 1) that break it.
type Rule = (&'static str, fn(&Source<'_>) -> Vec<usize>);

const LINES_MAX: usize = 700;

const RULES: &[Rule] = &[
    ("logic and procedures name no async, clock, randomness or I/O", wall),
    ("no stub and no ignored test", stubs),
    ("a test that sleeps says `real-time:` and why on the line before", sleeps),
    ("a source file has at most 700 lines", long_files),
    ("a dependency has a line that says why it was chosen", bare_dependencies),
    ("no path of one machine", machine_paths),
    ("a library's lib.rs turns on the lint of the wall", unguarded_libraries),
    ("a domain names no backend, a backend no domain, and core neither", wrong_way),
];

/// Checks every tracked file; prints what breaks a rule.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git did not start: {error}"))?;
    if !listing.status.success() {
        return Err(format!("git ls-files ended with {}", listing.status));
    }
    let mut broken = 0;
    for path in String::from_utf8_lossy(&listing.stdout).split_terminator('\0') {
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        for (name, rule) in RULES {
            for line in rule(&Source { path, text: &text }) {
                println!("{path}:{line}: {name}");
                broken += 1;
            }
        }
    }
    if broken == 0 { Ok(()) } else { Err(format!("{broken} lines break the house rules")) }
}

fn lines_with(source: &Source<'_>, words: &[&str]) -> Vec<usize> {
    let hit = |line: &str| words.iter().any(|word| line.contains(word));
    source.text.lines().enumerate().filter(|(_, line)| hit(line)).map(|(at, _)| at + 1).collect()
}

fn is_rust(source: &Source<'_>) -> bool {
    Path::new(source.path).extension().is_some_and(|extension| extension == "rs")
}

/// What a Rust file has before its tests; nothing of a file of tests.
fn product_code<'a>(source: &Source<'a>) -> Option<&'a str> {
    let tests = source.path.ends_with("_tests.rs") || source.path.ends_with("/tests.rs");
    if tests || !is_rust(source) { None } else { source.text.split("#[cfg(test)]").next() }
}

/// The words of rules would break them here.
fn is_this_file(source: &Source<'_>) -> bool {
    source.path == "xtask/src/tidy.rs"
}

fn wall(source: &Source<'_>) -> Vec<usize> {
    let inside = ["/logic/", "/logic.rs", "/src/procedure"].iter().any(|room| source.path.contains(room));
    // Core defines what a procedure is; it has none.
    if !inside || source.path.starts_with("crates/sysd-core/") {
        return Vec::new();
    }
    let Some(code) = product_code(source) else { return Vec::new() };
    let words = ["async ", ".await", "tokio", "Instant", "SystemTime", "rand::", "std::net", "std::fs"];
    lines_with(&Source { path: source.path, text: code }, &words)
}

fn stubs(source: &Source<'_>) -> Vec<usize> {
    if !is_rust(source) || is_this_file(source) {
        return Vec::new();
    }
    lines_with(source, &["#[ignore", "todo!(", "unimplemented!("])
}

fn sleeps(source: &Source<'_>) -> Vec<usize> {
    if !is_rust(source) || !source.path.contains("tests/") {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let excused = |at: usize| at >= 2 && lines[at - 2].contains("// real-time:");
    lines_with(source, &["thread::sleep(", "time::sleep("]).into_iter().filter(|&at| !excused(at)).collect()
}

fn long_files(source: &Source<'_>) -> Vec<usize> {
    let lines = source.text.lines().count();
    let subject = source.path.starts_with("crates/") && source.path.contains("/src/") && is_rust(source);
    if subject && lines > LINES_MAX { vec![lines] } else { Vec::new() }
}

fn bare_dependencies(source: &Source<'_>) -> Vec<usize> {
    if source.path != "Cargo.toml" {
        return Vec::new();
    }
    let (mut inside, mut explained, mut bare) = (false, false, Vec::new());
    for (at, line) in source.text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        } else if inside && !line.is_empty() && !line.starts_with('#') && !line.contains("path =") && !explained {
            bare.push(at + 1);
        }
        explained = line.starts_with('#');
    }
    bare
}

fn machine_paths(source: &Source<'_>) -> Vec<usize> {
    if is_this_file(source) {
        return Vec::new();
    }
    lines_with(source, &["/work/", "/root/", "/home/"])
}

fn unguarded_libraries(source: &Source<'_>) -> Vec<usize> {
    let library = source.path.starts_with("crates/") && source.path.ends_with("/src/lib.rs");
    let guard = "#![cfg_attr(not(test), warn(clippy::disallowed_methods))]";
    if library && !source.text.lines().any(|line| line == guard) { vec![1] } else { Vec::new() }
}

/// Dependencies point one way: domains and storage to core, the testkit to both of these.
fn wrong_way(source: &Source<'_>) -> Vec<usize> {
    let Some((name, file)) = source.path.strip_prefix("crates/sysd-").and_then(|path| path.split_once('/')) else {
        return Vec::new();
    };
    let may_name = |other: &str| match name {
        "core" => other == "core",
        "storage" => ["core", "storage"].contains(&other),
        "testkit" => ["core", "storage", "testkit"].contains(&other),
        _ => !["storage", "testkit"].contains(&other),
    };
    let names_wrongly = |line: &str, prefix: &str, ends: &[char]| {
        let others = line.split(prefix).skip(1).filter_map(|rest| rest.split_once(ends)).map(|(other, _)| other);
        others.filter(|other| other.chars().all(char::is_alphanumeric)).any(|other| !may_name(other))
    };
    let mut lines = Vec::new();
    if file == "Cargo.toml" {
        let mut normal = false;
        for (at, line) in source.text.lines().enumerate() {
            if line.starts_with('[') {
                normal = line.ends_with("dependencies]") && !line.ends_with("dev-dependencies]");
            }
            if normal && line.starts_with("sysd-") && names_wrongly(line, "sysd-", &['.', ' ', '=']) {
                lines.push(at + 1);
            }
        }
    } else if file.starts_with("src/")
        && let Some(code) = product_code(source)
    {
        for (at, line) in code.lines().enumerate() {
            let comment = line.trim_start().starts_with("//");
            if !comment && names_wrongly(line, "sysd_", &[':', ' ', ';']) {
                lines.push(at + 1);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: &str = "#![cfg_attr(not(test), warn(clippy::disallowed_methods))]";

    fn broken(path: &str, text: &str) -> Vec<&'static str> {
        let source = Source { path, text };
        RULES.iter().filter(|(_, rule)| !rule(&source).is_empty()).map(|(name, _)| *name).collect()
    }

    #[test]
    fn each_rule_finds_its_violation_and_nothing_else() {
        let cases = [
            ("crates/a/src/logic/b.rs", "let now = Instant::now();", 0),
            ("crates/a/src/c/logic/b.rs", "let now = Instant::now();", 0),
            ("crates/a/src/b.rs", "#[ignore]", 1),
            ("crates/a/tests/b.rs", "thread::sleep(second);", 2),
            ("crates/a/src/b.rs", &"x\n".repeat(LINES_MAX + 1), 3),
            ("Cargo.toml", "[workspace.dependencies]\n# Why.\na = \"1\"\nb = \"1\"", 4),
            ("README.md", "see /home/me", 5),
            ("crates/a/src/lib.rs", "//! No guard.", 6),
            ("crates/sysd-links/src/service.rs", "use sysd_storage::Memory;", 7),
            ("crates/sysd-links/src/service.rs", "let store = sysd_testkit::Limited::new();", 7),
            ("crates/sysd-links/Cargo.toml", "[dependencies]\nsysd-storage.workspace = true", 7),
            ("crates/sysd-storage/src/redis/mod.rs", "use sysd_ratelimit::Take;", 7),
            ("crates/sysd-storage/Cargo.toml", "[dependencies]\nsysd-links = { workspace = true }", 7),
            ("crates/sysd-core/src/any.rs", "pub use sysd_storage as storage;", 7),
            ("crates/sysd-links/src/procedure.rs", "use tokio::time;", 0),
        ];
        for (path, text, rule) in cases {
            assert_eq!(broken(path, text), [RULES[rule].0], "{path}");
        }
    }

    #[test]
    fn what_is_allowed_passes() {
        let cases = [
            ("crates/a/src/service.rs", "let now = Instant::now();"),
            ("crates/a/src/logic/b.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::time::Instant; }"),
            ("crates/a/tests/b.rs", "// real-time: the server has its own clock.\nthread::sleep(second);"),
            ("crates/a/src/b.rs", &"x\n".repeat(LINES_MAX)),
            ("crates/a/src/lib.rs", GUARD),
            (
                "crates/sysd-links/src/a.rs",
                "/// use sysd_storage::Memory;\nuse sysd_core::Key;\n#[cfg(test)]\nuse sysd_storage::x;",
            ),
            ("crates/sysd-links/src/a_tests.rs", "use sysd_storage::Memory;"),
            ("crates/sysd-links/tests/a.rs", "use sysd_storage::Memory;"),
            (
                "crates/sysd-links/Cargo.toml",
                "[dependencies]\nsysd-core.workspace = true\n[dev-dependencies]\nsysd-storage.workspace = true",
            ),
            ("crates/sysd-storage/src/a.rs", "counter(\"sysd_links_total\"); use sysd_core::Key;"),
            ("crates/sysd-testkit/src/a.rs", "use sysd_storage::Memory;"),
            ("Cargo.toml", "[workspace.dependencies]\nown = { path = \"a\" }\n# Why.\na = \"1\"\n[profile.dev]\nb = 1"),
        ];
        for (path, text) in cases {
            assert_eq!(broken(path, text), [""; 0], "{path}");
        }
    }
}
