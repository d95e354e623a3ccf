//! Reconciliation: against a second implementation, by laws, over broken files, and with deliberate mistakes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod books;
mod bugs;
mod files;
mod laws;
mod naive;
mod passes;
mod review;
mod support;
