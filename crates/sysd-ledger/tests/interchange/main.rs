//! Journals in plain text, with the programs that they are for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod books;
mod export;
mod import;
mod programs;
mod round_trip;
