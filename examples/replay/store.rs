//! Which store the states lie in.

use sysd::core::{AnyStore, Error, ManualClock, SystemEntropy, Timestamp, random_base62};
use sysd::storage::Memory;

use super::judge::Decides;
use super::replay::Lane;

/// Hides the way to a server: so many calls share the connection.
const LANES: usize = 256;

/// A store to replay on.
#[derive(Debug)]
pub(crate) struct Opened {
    /// One for each lane, with a clock of its own.
    pub(crate) stores: Vec<(AnyStore, ManualClock)>,
    /// Its URL, fit to be shown.
    pub(crate) shown: String,
    /// Buckets of an earlier replay must not be met again, so each has a limiter of its own.
    pub(crate) limiter_name: String,
}

impl Opened {
    /// # Errors
    /// As [`Decides::judge`].
    pub(crate) fn lanes(self, decides: &Decides) -> Result<Vec<Lane<AnyStore>>, String> {
        let lane = |(store, clock): (AnyStore, ManualClock)| {
            Ok(Lane::new(decides.judge(store, &clock, &self.limiter_name)?, clock))
        };
        self.stores.into_iter().map(lane).collect()
    }
}

/// Opens `memory` or a URL, by clocks that the replay sets; makes the table or keyspace if there is none.
///
/// # Errors
/// In words: what is not a store, or could not be reached.
pub(crate) async fn open(url: &str) -> Result<Opened, String> {
    if url == "memory" || url == "memory:" {
        return Ok(open_memory(1));
    }
    let shown = without_password(url);
    let wrong = |error: Error| {
        let is_off = error.message().contains("turn on the feature");
        let hint =
            if is_off { " (`cargo run --release --all-features --example replay` turns all of them on)" } else { "" };
        format!("--store {shown}: {error}{hint}")
    };
    let clocks: Vec<_> = (0..LANES).map(|_| ManualClock::new(Timestamp::UNIX_EPOCH)).collect();
    sysd::storage::prepare(url).await.map_err(wrong)?;
    let stores = sysd::storage::open_by_clocks(url, clocks.clone()).await.map_err(wrong)?;
    let limiter_name = format!("replay {}", random_base62(12, &SystemEntropy));
    Ok(Opened { stores: stores.into_iter().zip(clocks).collect(), shown, limiter_name })
}

/// Memory is at hand: more lanes than one are for tests.
pub(crate) fn open_memory(lanes: usize) -> Opened {
    let open_lane = |_| {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        (AnyStore::new(Memory::with_clock(clock.clone())), clock)
    };
    Opened { stores: (0..lanes).map(open_lane).collect(), shown: "memory".to_owned(), limiter_name: "r".to_owned() }
}

/// The URL without what must not be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.escape_debug().to_string() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // The path is a database's number; what is behind it may be a secret.
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}").escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379/2"),
            ("redis://ann:p@ss@host:1", "redis://host:1"),
            ("redis://:secret@host/0?password=secret", "redis://host/0"),
            ("redis://host?x@y", "redis://host"),
            ("rubbish", "rubbish"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
