//! The layer of tower: in axum, in tonic, and by itself.
#![cfg(feature = "tower")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod axum_app;
#[path = "../common/mod.rs"]
mod common;
mod downstream;
mod grpc;
mod retry_after;
mod service;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::ConnectInfo;
use common::clock;
use http::request::Parts;
use sysd_core::ManualClock;
use sysd_ratelimit::PolicyLimiter;
use sysd_storage::Memory;

type Limiter = Arc<PolicyLimiter<Memory<ManualClock>>>;

fn limiter(text: &str, clock: &ManualClock) -> Limiter {
    Arc::new(common::limiter(text, clock))
}

/// Who has connected, as axum has it.
fn peer(parts: &Parts) -> Option<IpAddr> {
    let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(peer.ip())
}
