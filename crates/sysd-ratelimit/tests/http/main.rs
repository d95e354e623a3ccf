//! The layer of tower: in axum, in tonic, and by itself.
#![cfg(feature = "tower")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod axum_app;
mod downstream;
mod grpc;
mod retry_after;
mod service;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::ConnectInfo;
use http::request::Parts;
use sysd_core::{ManualClock, Timestamp};
use sysd_ratelimit::{Policy, PolicyLimiter};
use sysd_storage::Memory;

type Limiter = Arc<PolicyLimiter<Memory<ManualClock>>>;

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros_saturating(1_800_000_000_000_000))
}

fn limiter(text: &str, clock: &ManualClock) -> Limiter {
    let policy = Policy::from_toml("limits.toml", text).unwrap();
    Arc::new(PolicyLimiter::new(Memory::with_clock(clock.clone()), policy).unwrap())
}

/// Who has connected, as axum has it.
fn peer(parts: &Parts) -> Option<IpAddr> {
    let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(peer.ip())
}
