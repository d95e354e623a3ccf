//! Layers one by one over a store that goes wrong as a script says, and together in simulations.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batch;
mod breaker;
mod cache;
mod coalesce;
mod limit;
mod observed;
mod order;
mod retry;
mod script;
mod simulated;
mod timeout;
