//! Layers one by one over a store that goes wrong as a script says, and together in simulations.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

mod retry;
mod script;
mod simulated;
mod timeout;
