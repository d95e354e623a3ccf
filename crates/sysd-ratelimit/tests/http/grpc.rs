//! The layer in front of a gRPC service, by tonic on both ends of a connection.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use sysd_ratelimit::RateLimitLayer;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::NamedService;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};
use tower::Service;

use crate::{clock, limiter};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// Answers what it is sent.
#[derive(Clone, Copy)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).unary(Method, request).await) })
    }
}

/// Its one method.
struct Method;

impl Service<tonic::Request<Bytes>> for Method {
    type Response = tonic::Response<Bytes>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        ready(Ok(tonic::Response::new(request.into_inner())))
    }
}

async fn call(channel: &Channel, path: &'static str) -> Result<tonic::Response<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = tonic::Request::new(Bytes::from_static(b"ping"));
    client.unary(request, PathAndQuery::from_static(path), Raw).await
}

const LIMITS: &str = r#"
    name = "grpc"
    [[rules]]
    name = "each address, 100%"
    key = "ip"
    rate = "2/m"

    [[rules]]
    name = "each tenant"
    route = "/test.Echo/Tenant"
    key = "header:x-tenant"
    missing = "deny"
    rate = "9/s"
"#;

#[tokio::test]
async fn a_call_over_the_limit_is_resource_exhausted() {
    let clock = clock();
    let layer = RateLimitLayer::new(limiter(LIMITS, &clock), |parts| {
        Some(parts.extensions.get::<TcpConnectInfo>()?.remote_addr()?.ip())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().layer(layer).add_service(Echo).serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(server);
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();

    for left in ["1", "0"] {
        let answer = call(&channel, "/test.Echo/Say").await.unwrap();
        assert_eq!(answer.metadata().get("x-ratelimit-remaining").unwrap(), left);
        assert_eq!(answer.into_inner(), "ping");
    }
    let status = call(&channel, "/test.Echo/Say").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "the limit \"each address, 100%\" is reached; come back in 30 s");
    assert_eq!(status.metadata().get("retry-after").unwrap(), "30");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "30000");
    // The connection goes on.
    clock.advance(Duration::from_secs(30));
    assert!(call(&channel, "/test.Echo/Say").await.is_ok());
    let status = call(&channel, "/test.Echo/Tenant").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    server.abort();
}
