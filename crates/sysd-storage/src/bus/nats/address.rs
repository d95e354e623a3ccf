//! What NATS calls things: servers, subjects, and what it refuses.

use async_nats::{ConnectError, ConnectErrorKind, ServerAddr};
use sysd_core::bus::Channel;
use sysd_core::{Effect, Error, ErrorKind, Result};

use super::config;

/// The servers of a URL, with user and password.
pub(super) type Target = (Vec<ServerAddr>, Option<(String, String)>);

pub(super) fn parse(url: &str) -> Result<Target> {
    let wrong = || config("the URL is nats://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT], or tls://…");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    if !matches!(scheme, "nats" | "tls") {
        return Err(wrong());
    }
    let rest = rest.trim_end_matches('/');
    let (credentials, hosts) = match rest.rsplit_once('@') {
        Some((user, _)) if user.contains('@') => {
            let message =
                "the NATS URL has two credentials: one stands before all hosts, and an @ in it is written %40";
            return Err(config(message));
        }
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').ok_or_else(wrong)?;
            (Some((unescape(user).ok_or_else(wrong)?, unescape(password).ok_or_else(wrong)?)), hosts)
        }
        None => (None, rest),
    };
    let server = |host: &str| match host {
        "" => Err(wrong()),
        host => format!("{scheme}://{host}").parse().map_err(|_| wrong()),
    };
    Ok((hosts.split(',').map(server).collect::<Result<_>>()?, credentials))
}

/// Reads `%40` as `@`.
fn unescape(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(escaped.get(..2)?, 16).ok()?);
        rest = &escaped[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

/// Maps an error of connecting. The source is left out: it can hold the URL.
pub(super) fn refused(error: &ConnectError) -> Error {
    let (kind, message) = match error.kind() {
        ConnectErrorKind::ServerParse => (ErrorKind::Config, "the NATS URL is wrong"),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            (ErrorKind::Denied, "NATS refused the credentials")
        }
        ConnectErrorKind::Tls => (ErrorKind::Config, "the server does not speak TLS as it is spoken here"),
        ConnectErrorKind::TimedOut => (ErrorKind::Timeout, "NATS gave no answer in time"),
        ConnectErrorKind::Dns | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            (ErrorKind::Unavailable, "no NATS answers at that address")
        }
    };
    Error::new(kind, Effect::None, message)
}

/// The subject of a channel: `PREFIX.NAME`, one token of plain bytes.
pub(super) fn subject(prefix: &str, channel: &Channel) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut subject = String::with_capacity(prefix.len() + 1 + channel.as_bytes().len());
    subject.push_str(prefix);
    subject.push('.');
    for &byte in channel.as_bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            subject.push(char::from(byte));
        } else {
            subject.push('=');
            subject.push(char::from(HEX[usize::from(byte >> 4)]));
            subject.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    subject
}

/// What a server forbids, by its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal<'a> {
    Subscription(&'a str),
    Publication(&'a str),
}

/// Reads what a server says that it forbids: `Permissions Violation for Publish to "a"`.
pub(super) fn refusal(text: &str) -> Option<Refusal<'_>> {
    let (what, rest) = text.split_once(" to \"")?;
    let (subject, _) = rest.split_once('"')?;
    match what.to_ascii_lowercase().as_str() {
        "permissions violation for subscription" => Some(Refusal::Subscription(subject)),
        "permissions violation for publish" => Some(Refusal::Publication(subject)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_becomes_one_token_without_wildcards_and_no_two_the_same() {
        let token = |name: &[u8]| subject("p", &Channel::new(name).unwrap());
        assert_eq!(token(b"node-7_A"), "p.node-7_A");
        assert_eq!(token(b"a.*>=\r\n\xFF "), "p.a=2E=2A=3E=3D=0D=0A=FF=20");
        assert_ne!(token(b"=2E"), token(b"."));
        assert!((0..=u8::MAX).all(|byte| {
            let token = token(&[byte]);
            !token[2..].contains(['.', '*', '>', ' ', '$']) && token.bytes().all(|byte| byte.is_ascii_graphic())
        }));
    }

    #[test]
    fn reads_urls() {
        let (servers, credentials) = parse("nats://ann:p%40s%3As@a:1,b/").unwrap();
        let servers: Vec<_> = servers.iter().map(|server| (server.host().to_owned(), server.port())).collect();
        assert_eq!(servers, [("a".to_owned(), 1), ("b".to_owned(), 4_222)]);
        assert_eq!(credentials, Some(("ann".to_owned(), "p@s:s".to_owned())));
        for url in ["nats:a", "http://a", "nats://", "nats://a,,b", "nats://ann@a", "nats://ann:%4@a", "nats://a:none"]
        {
            assert_eq!(parse(url).map(drop).unwrap_err().kind(), ErrorKind::Config, "{url}");
        }
    }

    /// Else all but the last `@` would be of the first one's password, which would be sent to whoever is there.
    #[test]
    fn a_url_with_two_credentials_is_refused_by_name_without_its_secrets() {
        for url in ["nats://ann:hunter2@a,bob:hunter2@b", "nats://ann:hunter2@x@a"] {
            let error = parse(url).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let said = format!("{error} {error:?}");
            assert!(said.contains("two credentials") && !said.contains("hunter2") && !said.contains("ann"), "{said}");
        }
    }

    #[test]
    fn reads_what_a_server_forbids() {
        let said = "Permissions Violation for Subscription to \"p.a\" using queue \"q\"";
        assert_eq!(refusal(said), Some(Refusal::Subscription("p.a")));
        assert_eq!(refusal("permissions violation for publish to \"p.=2E\""), Some(Refusal::Publication("p.=2E")));
        for other in
            ["Authorization Violation", "Permissions Violation for Publish to p", "Stale Connection", "x to \"p\""]
        {
            assert_eq!(refusal(other), None, "{other}");
        }
    }
}
