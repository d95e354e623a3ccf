//! docs/contract.md, the suite's clauses and the citations in sysd-core agree.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sysd_testkit::conformance::clauses;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The numbers and titles of the contract, in its order: `**W2. Title.** …`.
fn contract() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs/contract.md")).unwrap();
    let clause = |line: &str| {
        let (id, rest) = line.strip_prefix("- **")?.split_once(". ")?;
        Some((id.to_owned(), rest.split("**").next()?.trim_end_matches('.').to_owned()))
    };
    text.lines().filter_map(clause).collect()
}

#[test]
fn every_clause_is_a_test_and_every_test_a_clause() {
    let written: Vec<String> = contract().into_iter().map(|(id, _)| id).collect();
    let tested: Vec<&str> = clauses().iter().map(|clause| clause.id).collect();
    assert_eq!(written, tested);
    assert!(contract().iter().all(|(_, title)| !title.is_empty()));
    assert_eq!(tested.iter().collect::<BTreeSet<_>>().len(), tested.len(), "a number is used twice");
}

/// `\[E1\]`, `\[B1, B2\]`, `\[W1 to W8\]` in docs: the numbers in between too.
fn cited(text: &str) -> Vec<String> {
    let mut cited = Vec::new();
    for part in text.split("\\[").skip(1) {
        let Some((list, _)) = part.split_once("\\]") else { continue };
        for item in list.split(", ") {
            let ends: Vec<&str> = item.split(" to ").collect();
            let number = |end: &str| end.get(1..).and_then(|number| number.parse::<u32>().ok());
            if let (Some(first), Some(last)) = (number(ends[0]), number(ends[ends.len() - 1])) {
                cited.extend((first..=last).map(|number| format!("{}{number}", &ends[0][..1])));
            }
        }
    }
    cited
}

#[test]
fn what_the_docs_cite_is_in_the_contract_and_all_of_it_is_cited() {
    let written: BTreeSet<String> = contract().into_iter().map(|(id, _)| id).collect();
    let source = std::fs::read_to_string(root().join("crates/sysd-core/src/store.rs")).unwrap();
    let cited: BTreeSet<String> = cited(&source).into_iter().collect();
    assert_eq!(cited.difference(&written).collect::<Vec<_>>(), [""; 0], "cited, but not in the contract");
    let uncited: Vec<_> = written.difference(&cited).filter(|id| *id != "M1").collect();
    assert_eq!(uncited, [""; 0], "in the contract, but cited nowhere");
}
