//! An HTTP API behind the limits of a policy file.
//!
//! `cargo run --example rate_limited_api --features tower`, then `curl -i http://127.0.0.1:3000/` some times.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Path};
use axum::routing::{get, post};
use clap::Parser;
use sysd::ratelimit::{FieldStyle, Policy, PolicyLimiter, RateLimitLayer};
use tokio::net::TcpListener;

/// Which header fields tell clients about their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fields {
    /// X-RateLimit-Limit, -Remaining, -Reset, and Retry-After
    X,
    /// RateLimit and RateLimit-Policy of the IETF's draft, and Retry-After
    Ietf,
    /// None
    None,
}

impl From<Fields> for FieldStyle {
    fn from(fields: Fields) -> Self {
        match fields {
            Fields::X => Self::XRateLimit,
            Fields::Ietf => Self::RateLimit,
            Fields::None => Self::None,
        }
    }
}

/// Serves an API behind the limits of a policy file.
///
/// GET / and GET /reports/{id}, POST /login. Processes that are given the same store share their limits.
#[derive(Debug, Parser)]
#[command(name = "rate_limited_api")]
struct Arguments {
    /// The policy, in TOML or YAML
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/rate_limited_api/limits.toml"))]
    policy: PathBuf,
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where the counts lie: memory:, or another URL, such as redis://127.0.0.1/ (with --features redis)
    #[arg(long, value_name = "URL", default_value = "memory:")]
    store: String,
    /// Which header fields tell clients about their limits
    #[arg(long, value_enum, default_value = "x")]
    fields: Fields,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("rate_limited_api: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), String> {
    // Names file, line and field.
    let policy = Policy::read(&arguments.policy).map_err(|error| error.to_string())?;
    let store = sysd::storage::open(&arguments.store).await.map_err(|error| format!("--store: {error}"))?;
    let limiter =
        PolicyLimiter::new(store, policy).map_err(|error| format!("{}: {error}", arguments.policy.display()))?;
    let limiter = Arc::new(limiter);
    let limits = RateLimitLayer::new(limiter, |parts| {
        let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(peer.ip())
    });
    let api = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/reports/{id}", get(async |Path(id): Path<String>| format!("report {id}\n")))
        .route("/login", post(async || "welcome\n"))
        .layer(limits.with_fields(arguments.fields.into()));

    let listen = arguments.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("--listen {listen}: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("--listen {listen}: {error}"))?;
    println!("listening on http://{address}");
    axum::serve(listener, api.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(stopped())
        .await
        .map_err(|error| error.to_string())
}

/// Ready at Ctrl-C; never, where that can't be heard of.
async fn stopped() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
