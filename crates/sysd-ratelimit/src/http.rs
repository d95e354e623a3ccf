//! Limits in front of HTTP and gRPC services.
//!
//! A [`RateLimitLayer`] asks a [`PolicyLimiter`](crate::PolicyLimiter) about every request, refuses those that are over a limit, and
//! tells clients about their limits in header fields. It is a [`tower_layer::Layer`], so axum, tonic and whatever else is built on tower
//! takes it.
//!
//! ```
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//!
//! use axum::Router;
//! use axum::extract::ConnectInfo;
//! use axum::routing::get;
//! use sysd_ratelimit::{Policy, PolicyLimiter, RateLimitLayer};
//! use sysd_storage::Memory;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Policy::from_toml("limits.toml", r#"
//!     name = "api"
//!     [[rules]]
//!     name = "each address"
//!     key = "ip"
//!     rate = "100/m"
//! "#)?;
//! let limiter = Arc::new(PolicyLimiter::new(Memory::new(), policy)?);
//! let layer = RateLimitLayer::new(limiter, |parts| {
//!     let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
//!     Some(peer.ip())
//! });
//! let app: Router = Router::new().route("/", get(async || "hello")).layer(layer);
//! // With the addresses of those who connect:
//! let app = app.into_make_service_with_connect_info::<SocketAddr>();
//! # let _ = app; Ok(())
//! # }
//! ```
//!
//! # What clients get
//!
//! | the request | HTTP | gRPC (`content-type: application/grpc…` and `te: trailers`) | `Retry-After` |
//! |---|---|---|---|
//! | is over a limit | 429 | `RESOURCE_EXHAUSTED` | whole seconds, rounded up |
//! | costs more than a limit ever holds | 403 | `FAILED_PRECONDITION` | no: waiting does not help, and clients send a 429 again |
//! | is on the deny list | 403 | `PERMISSION_DENIED` | no |
//! | lacks a part of a key that a rule demands | 403 | `UNAUTHENTICATED` for user and API key, else `INVALID_ARGUMENT` | no |
//! | could not be asked about, and fails closed | 503 | `UNAVAILABLE` | no |
//! | could not be asked about, for a mistake in the set-up or in what is stored | 500 | `INTERNAL` | no |
//!
//! The body is problem+json (RFC 9457), which no cache is to keep (`cache-control: no-store`); that of a 429 has the type `quota-exceeded` and the member `violated-policies` of
//! draft-ietf-httpapi-ratelimit-headers-11, section 5.1. A gRPC call is answered by header fields alone, with HTTP status 200, as that
//! protocol has it, and with `grpc-retry-pushback-ms`, which clients that retry heed. Which fields tell about limits: [`FieldStyle`].

mod fields;
mod layer;
mod refusal;

pub use fields::{FieldStyle, LISTED_MAX, limit_fields};
pub use layer::{LimitedBody, RateLimitLayer, RateLimited};
pub use refusal::refusal;

use crate::policy::Headers;

impl Headers for ::http::HeaderMap {
    fn visit<'a>(&'a self, name: &str, each: &mut dyn FnMut(&'a [u8])) {
        for value in self.get_all(name) {
            each(value.as_bytes());
        }
    }
}
