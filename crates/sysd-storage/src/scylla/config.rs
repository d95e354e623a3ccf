//! How a store is made.

use std::fmt;
use std::time::Duration;

use scylla::statement::{Consistency, SerialConsistency};
use sysd_core::{Durability, Effect, Error, ErrorKind, Result};

/// The port where none is named.
const PORT: u16 = 9042;
/// Cassandra takes mutations of half a commit log segment, 16 MiB by default; the rest is the key's and the header's.
const VALUE_BYTES_CEILING: usize = (16 << 20) - (64 << 10);

/// How many replicas must answer in a plain space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScyllaConsistency {
    /// One in the coordinator's datacenter: fast, and reads may miss what was acknowledged.
    LocalOne,
    /// Most of those in the coordinator's datacenter.
    LocalQuorum,
    /// Most of those of all datacenters.
    Quorum,
}

/// Among which replicas conditional spaces are linearizable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScyllaSerial {
    /// All, of every datacenter.
    Global,
    /// Those of the coordinator's datacenter: right only where all callers use the same one.
    Local,
}

/// How a [`ScyllaStore`](crate::ScyllaStore) is made.
#[derive(Clone)]
pub struct ScyllaConfig {
    /// Nodes to learn the others from, `HOST:PORT`.
    pub contact_points: Vec<String>,
    /// The keyspace of the tables: letters, digits and `_`, the first a letter.
    pub keyspace: String,
    /// User and password, where the cluster asks for them. Never printed.
    pub credentials: Option<(String, String)>,
    /// The longest wait for an answer, for a turn at a partition, and for a procedure's turn at its record, which each of its
    /// rounds waits for. A write that gets no answer has an unknown effect; what gets no turn has none. More than the servers' own
    /// timeouts (2 s for writes), or theirs are never heard.
    pub request_timeout: Duration,
    /// The longest wait until the cluster is known and the statements are prepared.
    pub connect_timeout: Duration,
    /// For plain spaces.
    pub consistency: ScyllaConsistency,
    /// For conditional spaces.
    pub serial: ScyllaSerial,
    /// The largest value, 16 MB at most. Paxos writes a value several times on each replica (proposed, committed, logged):
    /// on one node an insert on condition took 7 ms with 200 bytes, 28 ms with a megabyte. So a megabyte is the default.
    /// The first fetch of a scan asks for no more rows than 144 MiB hold if each is that large: 143 of a megabyte, a thousand of
    /// 140 KB; the rest of a page is a second round trip.
    pub value_bytes_max: usize,
    /// What an acknowledged write survives on this cluster. [`Durability::BestEffort`], the default, is what a stock node keeps:
    /// Cassandra and ScyllaDB sync the commit log every ten seconds unless told otherwise, so a crash takes what came after.
    /// [`Durability::Durable`] is yours to promise: it is true where the log is synced before the answer (`commitlog_sync`
    /// `batch` or `group`), or where a majority of the replicas is more than one node, and you trust them not to crash at once.
    pub durability: Durability,
    /// How many statements of a batch are in flight at once.
    pub batch_in_flight_max: usize,
    /// How many conditional calls of this store work on one partition at once; the others wait their turn. Paxos orders a
    /// partition's calls one by one, and rivals cost each other rounds.
    pub partition_in_flight_max: usize,
}

impl ScyllaConfig {
    /// The defaults, for these nodes and this keyspace.
    pub fn new(contact_points: impl IntoIterator<Item = impl Into<String>>, keyspace: impl Into<String>) -> Self {
        Self {
            contact_points: contact_points.into_iter().map(Into::into).collect(),
            keyspace: keyspace.into(),
            credentials: None,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            consistency: ScyllaConsistency::LocalQuorum,
            serial: ScyllaSerial::Global,
            value_bytes_max: 1 << 20,
            durability: Durability::BestEffort,
            batch_in_flight_max: 64,
            partition_in_flight_max: 1,
        }
    }

    /// The defaults, for `scylla://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/KEYSPACE[?durability=durable|best-effort]`. User and
    /// password are percent-encoded.
    ///
    /// ```
    /// use sysd_core::Durability;
    /// use sysd_storage::ScyllaConfig;
    /// let config = ScyllaConfig::from_url("scylla://ann:secret@10.0.0.1,10.0.0.2:9142/app")?;
    /// assert_eq!(config.contact_points, ["10.0.0.1:9042", "10.0.0.2:9142"]);
    /// assert!(!format!("{config:?}").contains("secret"));
    /// assert_eq!(config.durability, Durability::BestEffort);
    /// // These nodes sync their commit logs before they answer.
    /// let config = ScyllaConfig::from_url("scylla://10.0.0.1/app?durability=durable")?;
    /// assert_eq!(config.durability, Durability::Durable);
    /// # Ok::<(), sysd_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if it is another URL; it is not in the error.
    pub fn from_url(url: &str) -> Result<Self> {
        let shape = || {
            wrong(
                "the URL is scylla://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/KEYSPACE[?durability=durable|best-effort]",
            )
        };
        let rest = url.strip_prefix("scylla://").ok_or_else(shape)?;
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, keyspace) = rest.split_once('/').ok_or_else(shape)?;
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let nodes = hosts.split(',').map(|host| with_port(host).ok_or_else(shape)).collect::<Result<Vec<_>>>()?;
        let mut config = Self::new(nodes, keyspace.trim_end_matches('/'));
        if let Some(user) = user {
            let (user, password) = user.split_once(':').ok_or_else(shape)?;
            config.credentials = Some((unescape(user).ok_or_else(shape)?, unescape(password).ok_or_else(shape)?));
        }
        for option in options.split('&').filter(|option| !option.is_empty()) {
            config.durability = match option.split_once('=') {
                Some(("durability", "durable")) => Durability::Durable,
                Some(("durability", "best-effort")) => Durability::BestEffort,
                _ => return Err(shape()),
            };
        }
        config.check()?;
        Ok(config)
    }

    /// Refuses what can't be right. The keyspace becomes part of statements, so it is checked letter by letter.
    pub(super) fn check(&self) -> Result<()> {
        let letters = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let first = self.keyspace.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        if !first || !letters(&self.keyspace) || self.keyspace.len() > 48 {
            return Err(wrong("a keyspace's name has 1 to 48 letters, digits and _, the first a letter"));
        }
        if self.contact_points.is_empty() {
            return Err(wrong("name at least one contact point"));
        }
        if self.value_bytes_max > VALUE_BYTES_CEILING {
            return Err(wrong("value_bytes_max is beyond what a commit log segment of 32 MiB lets through"));
        }
        if self.batch_in_flight_max == 0 || self.partition_in_flight_max == 0 {
            return Err(wrong("batch_in_flight_max and partition_in_flight_max are at least 1"));
        }
        Ok(())
    }

    pub(super) fn plain_consistency(&self) -> Consistency {
        match self.consistency {
            ScyllaConsistency::LocalOne => Consistency::LocalOne,
            ScyllaConsistency::LocalQuorum => Consistency::LocalQuorum,
            ScyllaConsistency::Quorum => Consistency::Quorum,
        }
    }

    /// Of a conditional write: its rounds, and its commit.
    pub(super) fn conditional_write(&self) -> (SerialConsistency, Consistency) {
        match self.serial {
            ScyllaSerial::Global => (SerialConsistency::Serial, Consistency::Quorum),
            ScyllaSerial::Local => (SerialConsistency::LocalSerial, Consistency::LocalQuorum),
        }
    }

    pub(super) fn conditional_read(&self) -> Consistency {
        match self.serial {
            ScyllaSerial::Global => Consistency::Serial,
            ScyllaSerial::Local => Consistency::LocalSerial,
        }
    }
}

impl fmt::Debug for ScyllaConfig {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScyllaConfig")
            .field("contact_points", &self.contact_points)
            .field("keyspace", &self.keyspace)
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("consistency", &self.consistency)
            .field("serial", &self.serial)
            .field("value_bytes_max", &self.value_bytes_max)
            .field("durability", &self.durability)
            .field("batch_in_flight_max", &self.batch_in_flight_max)
            .field("partition_in_flight_max", &self.partition_in_flight_max)
            .finish()
    }
}

fn wrong(message: &'static str) -> Error {
    Error::new(ErrorKind::Config, Effect::None, message)
}

/// `HOST` as `HOST:PORT`; IPv6 in brackets.
fn with_port(host: &str) -> Option<String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok().filter(|&port| port != 0)?),
        _ => (host, PORT),
    };
    let is_plain = |name: &str| !name.is_empty() && !name.contains([':', '@', '/', '?', '#', ' ']);
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_good = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_plain(name),
    };
    is_good.then(|| format!("{name}:{port}"))
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>()?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_urls() {
        let config = ScyllaConfig::from_url("scylla://a,b:1,[::1]:2,[::1]/app").unwrap();
        assert_eq!(config.contact_points, ["a:9042", "b:1", "[::1]:2", "[::1]:9042"]);
        assert_eq!((config.keyspace.as_str(), config.credentials), ("app", None));
        let config = ScyllaConfig::from_url("scylla://a%3Ann:p%40:s@h/app_2").unwrap();
        assert_eq!(config.credentials, Some(("a:nn".to_owned(), "p@:s".to_owned())));
    }

    #[test]
    fn a_crash_takes_what_is_not_synced_unless_somebody_promises_more() {
        let durability = |url| ScyllaConfig::from_url(url).unwrap().durability;
        assert_eq!(ScyllaConfig::new(["h"], "app").durability, Durability::BestEffort);
        assert_eq!(durability("scylla://h/app"), Durability::BestEffort);
        assert_eq!(durability("scylla://h/app/?"), Durability::BestEffort);
        assert_eq!(durability("scylla://h/app?durability=best-effort"), Durability::BestEffort);
        assert_eq!(durability("scylla://u:p@h/app/?durability=durable"), Durability::Durable);
    }

    #[test]
    fn refuses_other_urls_and_keeps_the_password() {
        let urls = [
            "",
            "no url",
            "redis://h/app",
            "scylla://h",
            "scylla://h/",
            "scylla:///app",
            "scylla://a,,b/app",
            "scylla://h:port/app",
            "scylla://h:0/app",
            "scylla://h/1app",
            "scylla://h/ap;p",
            "scylla://h/a/b",
            "scylla://ann@h/app",
            "scylla://ann:hunter2%4@h/app",
            "scylla://ann:hunter2@h/a-b",
            "scylla://ann:hunter2@[h]/app",
            "scylla://h/app?durability",
            "scylla://h/app?durability=hunter2",
            "scylla://h/app?hunter2=durable",
            "scylla://h?durability=durable",
        ];
        for url in urls {
            let error = ScyllaConfig::from_url(url).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn prints_no_password() {
        let config = ScyllaConfig::from_url("scylla://ann:hunter2@h/app").unwrap();
        let printed = format!("{config:?}");
        assert!(printed.contains("ann") && !printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn refuses_what_cannot_be_right() {
        let good = ScyllaConfig::new(["h"], "app");
        assert!(good.check().is_ok());
        let bad = [
            ScyllaConfig { keyspace: "x".repeat(49), ..good.clone() },
            ScyllaConfig { contact_points: Vec::new(), ..good.clone() },
            ScyllaConfig { value_bytes_max: 16 << 20, ..good.clone() },
            ScyllaConfig { batch_in_flight_max: 0, ..good.clone() },
            ScyllaConfig { partition_in_flight_max: 0, ..good.clone() },
        ];
        for config in bad {
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::Config, "{config:?}");
        }
    }
}
