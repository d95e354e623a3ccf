//! Certify a sysd backend: conformance clauses, mutants, deterministic simulation, history checkers.
