//! The step `tests`: one that fails stops no other, and all that failed are named.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use harness::Scratch;

/// What a step says that fails, and what it complains of.
fn failing(scratch: &Scratch) -> (String, String) {
    let output = scratch.xtask(&["test", "tests"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// After [`Scratch::fake_tests`]: doc tests that are this script.
fn fake_doc_tests(scratch: &Scratch, script: &str) {
    let cargo = std::fs::read_to_string(scratch.path.join("cargo")).unwrap();
    scratch.fake_cargo(&cargo.replace("esac", &format!("*--doc*) {script};; esac")));
}

#[test]
fn all_programs_run_and_those_that_failed_are_named() {
    let scratch = Scratch::new("programs");
    scratch.fake_tests("echo one said; echo two said >&2; pwd; echo $CARGO_MANIFEST_DIR; exit 3");
    let (said, complained) = failing(&scratch);
    // Both streams in the order they came, under what runs it alone, in the directory of its package.
    let block = said.split("-- -p a --test b took ").nth(1).unwrap();
    assert!(block.contains("one said\ntwo said\n/\n/\n"), "{said}");
    assert!(said.contains("-- --doc took "), "what comes after a failure runs: {said}");
    assert!(complained.contains("1 of 2 test programs failed: -p a --test b (exit status: 3)"), "{complained}");
}

#[test]
fn doc_tests_that_fail_are_a_failure() {
    let scratch = Scratch::new("doc");
    scratch.fake_tests("exit 0");
    fake_doc_tests(&scratch, "echo a doc test; exit 101");
    let (said, complained) = failing(&scratch);
    assert!(said.contains("a doc test"));
    assert!(complained.contains("1 of 2 test programs failed: --doc (exit status: 101)"), "{complained}");
}

#[test]
fn a_program_starts_with_its_name() {
    let scratch = Scratch::new("starts");
    scratch.fake_tests("exit 0");
    let said = scratch.says(&["test", "tests"]);
    for name in ["-p a --test b", "--doc"] {
        let (starts, took) = (said.find(&format!("-- {name} starts\n")), said.find(&format!("-- {name} took (")));
        assert!(starts.is_some() && starts < took, "{said}");
    }
}

#[test]
fn the_cargo_of_the_doc_tests_hears_of_no_package() {
    let scratch = Scratch::new("doc-package");
    scratch.fake_tests("env");
    fake_doc_tests(&scratch, "env");
    // As `cargo run` tells us of ours.
    let mut xtask = scratch.xtask(&["test", "tests"]);
    let output = xtask.env("CARGO_MANIFEST_DIR", "/x").env("CARGO_PKG_NAME", "xtask").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    let block = |name: &str| said.split(&format!("-- {name} took (")).nth(1).unwrap().split("\n-- ").next().unwrap();
    assert!(block("--doc").contains("SCRATCH="), "{said}");
    assert!(!["CARGO_MANIFEST", "CARGO_PKG"].iter().any(|name| block("--doc").contains(name)), "{said}");
    assert!(block("-p a --test b").contains("\nCARGO_MANIFEST_DIR=/\n"), "a test program knows its own: {said}");
}

#[test]
fn a_cargo_that_names_no_test_program_or_cannot_build_them_fails_the_step() {
    let scratch = Scratch::new("none");
    for (script, message) in
        [("exit 0", "cargo named no test program"), ("exit 101", "--no-run ended with exit status: 101")]
    {
        scratch.fake_cargo(script);
        let output = scratch.xtask(&["test", "tests"]).output().unwrap();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complained.contains(message), "{complained}");
    }
}
