//! URLs, and the links that they lead to.

use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisError, TlsCertificates,
};

use super::config::RedisConfig;
use super::link::{Hook, Link};
use super::slots::Address;

/// How soon a peer that vanished is missed on an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Makes links to the nodes of one server or Cluster: who to be, and how to be sure of them.
#[derive(Clone)]
pub(super) struct Connector {
    template: ConnectionInfo,
    certificates: TlsCertificates,
    pub(super) response_timeout: Duration,
    pub(super) connection_timeout: Duration,
    /// Who is told what connections say by themselves.
    pub(super) hook: Option<Hook>,
}

/// What a URL names.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) connector: Connector,
    pub(super) is_cluster: bool,
    /// The one node, or those to learn the Cluster from.
    pub(super) nodes: Vec<ConnectionAddr>,
}

/// Reads a URL.
///
/// # Errors
/// If it is none of this store's. The URL is not in the error.
pub(super) fn parse(url: &str, config: &RedisConfig) -> Result<Target, RedisError> {
    let (is_cluster, urls) = match url.split_once("://") {
        Some(("redis-cluster", rest)) => (true, split_nodes("redis", rest)?),
        Some(("rediss-cluster", rest)) => (true, split_nodes("rediss", rest)?),
        _ => (false, vec![url.to_owned()]),
    };
    let mut infos = Vec::new();
    for url in &urls {
        infos.push(url.as_str().into_connection_info()?);
    }
    let Some(first) = infos.first() else { return Err(wrong("the URL names no node")) };
    let mut settings = first.redis_settings().clone();
    if is_cluster && settings.db() != 0 {
        return Err(wrong("a Cluster has one database, 0"));
    }
    // RESP3 tells at once when the server hangs up.
    if !url.contains("protocol=") {
        settings = settings.set_protocol(ProtocolVersion::RESP3);
    }
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3));
    let template = first.clone().set_redis_settings(settings).set_tcp_settings(tcp);
    let certificates =
        TlsCertificates { client_tls: None, root_cert: config.tls_ca.as_ref().map(|ca| ca.pem().to_vec()) };
    if matches!(first.addr(), ConnectionAddr::TcpTls { .. }) && rustls::crypto::CryptoProvider::get_default().is_none()
    {
        // Without a default, rustls panics where an application compiles in two. Another thread may be quicker.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let connector = Connector {
        template,
        certificates,
        response_timeout: config.response_timeout,
        connection_timeout: config.connection_timeout,
        hook: None,
    };
    Ok(Target { connector, is_cluster, nodes: infos.iter().map(|info| info.addr().clone()).collect() })
}

fn wrong(what: &'static str) -> RedisError {
    (redis::ErrorKind::InvalidClientConfig, what).into()
}

/// `[USER:PASSWORD@]HOST:PORT,HOST:PORT/` as a URL for each node.
fn split_nodes(scheme: &str, rest: &str) -> Result<Vec<String>, RedisError> {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let at = if authority.contains('@') { "@" } else { "" };
    if hosts.split(',').any(str::is_empty) {
        return Err(wrong("the URL of a Cluster names its nodes: HOST:PORT,HOST:PORT"));
    }
    Ok(hosts.split(',').map(|host| format!("{scheme}://{user}{at}{host}{path}")).collect())
}

impl Connector {
    /// Whether the server may speak unasked.
    pub(super) fn speaks_resp3(&self) -> bool {
        self.template.redis_settings().protocol() == ProtocolVersion::RESP3
    }

    /// A link to a node; connects when it is used.
    ///
    /// # Errors
    /// If the CA's certificates can't be read.
    pub(super) fn link(&self, address: &Address) -> Result<Link, RedisError> {
        let addr = match self.template.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: address.host.clone(),
                port: address.port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(address.host.clone(), address.port),
        };
        self.link_to(addr)
    }

    /// As [`Connector::link`], to where a URL points.
    pub(super) fn link_to(&self, addr: ConnectionAddr) -> Result<Link, RedisError> {
        let address = match &addr {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Address { host: host.clone(), port: *port }
            }
            other => Address { host: other.to_string(), port: 0 },
        };
        let is_tls = matches!(addr, ConnectionAddr::TcpTls { .. });
        let info = self.template.clone().set_addr(addr);
        let client = if is_tls && self.certificates.root_cert.is_some() {
            Client::build_with_tls(info, self.certificates.clone())
                .map_err(|_| wrong("the CA's certificates can't be read"))?
        } else {
            Client::open(info)?
        };
        Ok(Link::new(address, client, self.response_timeout, self.connection_timeout, self.hook.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn nodes(url: &str) -> (bool, Vec<String>) {
        let target = parse(url, &RedisConfig::default()).unwrap();
        (target.is_cluster, target.nodes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn reads_the_urls_of_one_node_and_of_a_cluster() {
        assert_eq!(nodes("redis://h:1/2"), (false, vec!["h:1".into()]));
        assert_eq!(nodes("rediss://u:p@h:1"), (false, vec!["h:1".into()]));
        assert_eq!(nodes("redis-cluster://a:1,b:2/"), (true, vec!["a:1".into(), "b:2".into()]));
        assert_eq!(nodes("rediss-cluster://u:p%40@a:1,b"), (true, vec!["a:1".into(), "b:6379".into()]));
        let target = parse("redis-cluster://ann:p%40ss@a:1,b:2", &RedisConfig::default()).unwrap();
        let settings = target.connector.template.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("ann"), Some("p@ss")));
        assert_eq!(settings.protocol(), ProtocolVersion::RESP3);
    }

    #[test]
    fn refuses_other_urls() {
        for url in ["", "no url", "http://h", "redis-cluster://", "redis-cluster://a:1,,b:2", "redis-cluster://a:1/1"] {
            let error = parse(url, &RedisConfig::default()).map(|target| target.nodes).unwrap_err();
            assert_eq!(error.kind(), redis::ErrorKind::InvalidClientConfig, "{url}");
        }
    }
}
