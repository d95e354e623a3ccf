//! Decides by a policy, and by another one beside it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use sysd::core::tuple::KeyBytes;
use sysd::core::{ManualClock, Result, Store};
use sysd::ratelimit::policy::Reason;
use sysd::ratelimit::{Plan, Policy, PolicyLimiter, RequestView, Ruling};

use super::feed::{Batch, Part};
use super::judge::{Judged, Verdict};

/// A policy, and one to compare with it, each with counts of its own.
#[derive(Debug)]
pub(crate) struct Policies<S> {
    first: PolicyLimiter<S>,
    candidate: Option<PolicyLimiter<S>>,
}

impl<S: Store> Policies<S> {
    /// On a store that goes by `clock`.
    ///
    /// # Errors
    /// In words: what the store can't hold.
    pub(crate) fn new(
        store: &S,
        clock: &ManualClock,
        name: &str,
        first: &Policy,
        candidate: Option<&Policy>,
    ) -> Result<Self, String>
    where
        S: Clone,
    {
        let limiter = |policy: &Policy, which| -> Result<_, String> {
            let policy = policy.renamed(&format!("{name} {which}")).map_err(|error| error.to_string())?;
            let limiter =
                PolicyLimiter::new(store.clone(), policy.by_clock(clock)).map_err(|error| error.to_string())?;
            // A slow store is waited for: what is decided must not hang on it.
            Ok(limiter.with_deadline(Duration::MAX))
        };
        Ok(Self { first: limiter(first, 1)?, candidate: candidate.map(|policy| limiter(policy, 2)).transpose()? })
    }

    /// Decides on a request of a batch, by both.
    ///
    /// # Errors
    /// Of the store; whatever the rules say about outages, a replay ends there.
    pub(crate) async fn judge(&self, batch: &Batch, index: usize) -> Result<Judged> {
        let request = Request::new(batch, index);
        let start = Instant::now();
        let ruling = self.first.check(&request.view()).await;
        let took = start.elapsed();
        let verdict = verdict(&ruling)?;
        let candidate = match &self.candidate {
            None => None,
            Some(candidate) => Some(verdict_of(candidate, &request).await?),
        };
        Ok(Judged { verdict, candidate, would_deny: ruling.would_deny().to_vec(), took })
    }

    /// Requests that share a key of either policy, themselves or by others between them, go to one lane.
    pub(crate) fn deal(&self, batch: &Batch, lanes: usize) -> Vec<Vec<usize>> {
        let policies = [Some(self.first.policy()), self.candidate.as_ref().map(PolicyLimiter::policy)];
        let mut joined = Joined::new(batch.len());
        let mut first_with: HashMap<(usize, KeyBytes), usize> = HashMap::new();
        for index in 0..batch.len() {
            let request = Request::new(batch, index);
            for (which, policy) in policies.iter().enumerate().filter_map(|(at, policy)| Some((at, policy.as_ref()?))) {
                let Plan::Rules { groups, shadows, .. } = policy.plan(&request.view()) else { continue };
                for group in groups.into_iter().chain(shadows) {
                    let first = *first_with.entry((which, group.key)).or_insert(index);
                    joined.join(first, index);
                }
            }
        }
        let mut dealt = vec![Vec::new(); lanes];
        for index in 0..batch.len() {
            dealt[joined.root(index) % lanes].push(index);
        }
        dealt
    }
}

async fn verdict_of<S: Store>(limiter: &PolicyLimiter<S>, request: &Request<'_>) -> Result<Verdict> {
    verdict(&limiter.check(&request.view()).await)
}

fn verdict(ruling: &Ruling) -> Result<Verdict> {
    if let Some(error) = ruling.errors().first() {
        return Err(error.share());
    }
    let rules = ruling.policy().rules();
    let cause = match (ruling.is_allowed(), ruling.reason(), ruling.rule()) {
        (true, _, _) => None,
        (_, Reason::Listed(_), _) | (_, _, None) => Some(rules.len()),
        (_, _, Some(denied)) => rules.iter().position(|rule| std::ptr::eq(rule, denied)),
    };
    Ok(Verdict { is_allowed: ruling.is_allowed(), cause })
}

/// What causes of a policy's are called, by their places.
pub(crate) fn names(policy: &Policy) -> Vec<String> {
    let rules = policy.rules().iter().map(|rule| rule.rule().name().to_owned());
    rules.chain(["(deny list)".to_owned()]).collect()
}

/// A request, as far as the log has it.
struct Request<'a> {
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    peer: IpAddr,
    user: Option<Cow<'a, str>>,
    headers: [(&'static str, &'a [u8]); 3],
}

impl<'a> Request<'a> {
    fn new(batch: &'a Batch, index: usize) -> Self {
        let part = |part| batch.part(index, part);
        let user = part(Part::User);
        Self {
            method: String::from_utf8_lossy(part(Part::Method)),
            path: String::from_utf8_lossy(part(Part::Path)),
            peer: address(part(Part::Client)),
            user: (!user.is_empty()).then(|| String::from_utf8_lossy(user)),
            headers: [("user-agent", part(Part::Agent)), ("referer", part(Part::Referer)), ("host", part(Part::Host))],
        }
    }

    fn view(&self) -> RequestView<'_> {
        let (peer, user) = (Some(self.peer), self.user.as_deref());
        RequestView { method: &self.method, path: &self.path, peer, user, headers: &self.headers }
    }
}

/// The address, or, of a client that the log has by its name, one that is always the same for it, in a network of its own.
fn address(client: &[u8]) -> IpAddr {
    let text = std::str::from_utf8(client).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let mut hasher = DefaultHasher::new();
        hasher.write(client);
        // Of the addresses that are nobody's (RFC 4193): what tells networks apart is the name's hash.
        let network = hasher.finish() >> 8 | 0xFD << 56;
        IpAddr::V6(Ipv6Addr::from(u128::from(network) << 64))
    })
}

/// Which requests belong together.
struct Joined {
    towards: Vec<usize>,
}

impl Joined {
    fn new(count: usize) -> Self {
        Self { towards: (0..count).collect() }
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.towards[index] != index {
            self.towards[index] = self.towards[self.towards[index]];
            index = self.towards[index];
        }
        index
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.towards[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use sysd::core::Timestamp;
    use sysd::storage::Memory;

    use super::super::feed::{BATCHES_WAITING, Feeder, Wanted};
    use super::super::traffic::Traffic;
    use super::*;

    /// How many neighbouring requests of one key, of either policy, are not on one lane in their order.
    fn apart(dealt: &[Vec<usize>], keys: &[Vec<(usize, KeyBytes)>]) -> usize {
        let place = |index: usize| {
            let lane = dealt.iter().position(|lane| lane.contains(&index)).unwrap();
            (lane, dealt[lane].iter().position(|other| *other == index).unwrap())
        };
        let mut last: HashMap<_, (usize, usize)> = HashMap::new();
        let mut apart = 0;
        for (index, keys) in keys.iter().enumerate() {
            let (lane, at) = place(index);
            for key in keys {
                let before = last.insert(key.clone(), (lane, at));
                apart += usize::from(before.is_some_and(|(other, before)| other != lane || before >= at));
            }
        }
        apart
    }

    #[test]
    fn requests_that_share_a_key_are_on_one_lane_in_their_order() {
        let policy = |rules: &str| Policy::from_toml("t.toml", &format!("name = \"t\"\nrules = [{rules}]")).unwrap();
        let first = policy(
            r#"{ name = "ip", key = "ip", rate = "1/s" }, { name = "one", route = "/page/1", key = "global", rate = "1/s" }"#,
        );
        let other = policy(r#"{ name = "page", route = "/page/2", key = "global", rate = "1/s", shadow = true }"#);
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let store = Memory::with_clock(clock.clone());
        let policies = Policies::new(&store, &clock, "t", &first, Some(&other)).unwrap();
        let (sender, mut batches) = tokio::sync::mpsc::channel(BATCHES_WAITING);
        Feeder::new(Wanted::Parts, sender).feed_traffic(Traffic::new(900, 1).unwrap());
        let batch = batches.try_recv().unwrap();
        let keys: Vec<Vec<_>> = (0..batch.len())
            .map(|index| {
                let request = Request::new(&batch, index);
                let plans = [&first, &other].map(|policy| policy.plan(&request.view()));
                let of = |(which, plan)| match plan {
                    Plan::Rules { groups, shadows, .. } => {
                        groups.into_iter().chain(shadows).map(|group| (which, group.key)).collect()
                    }
                    _ => Vec::new(),
                };
                plans.into_iter().enumerate().flat_map(of).collect()
            })
            .collect();
        let dealt = policies.deal(&batch, 7);
        assert_eq!((apart(&dealt, &keys), dealt.iter().map(Vec::len).sum::<usize>()), (0, batch.len()));
        assert!(dealt.iter().filter(|lane| !lane.is_empty()).count() > 3, "side by side");
        // By the client alone, those of the keys that all share are not.
        let mut by_client = vec![Vec::new(); 7];
        for index in 0..batch.len() {
            by_client[batch.key(index).iter().map(|byte| usize::from(*byte)).sum::<usize>() % 7].push(index);
        }
        assert!(apart(&by_client, &keys) > 0);
    }

    #[test]
    fn clients_by_name_have_networks_of_their_own() {
        assert_eq!(address(b"10.0.0.1"), IpAddr::from([10, 0, 0, 1]));
        let (one, other) = (address(b"a.example"), address(b"b.example"));
        let network = |address: IpAddr| if let IpAddr::V6(v6) = address { v6.to_bits() >> 64 } else { 0 };
        assert!(network(one) != network(other) && network(one) >> 56 == 0xFD);
        assert_eq!(one, address(b"a.example"));
    }

    #[test]
    fn joined_requests_have_one_root() {
        let mut joined = Joined::new(6);
        for (one, other) in [(0, 3), (1, 4), (3, 4)] {
            joined.join(one, other);
        }
        assert_eq!((0..6).map(|index| joined.root(index)).collect::<Vec<_>>(), [0, 0, 2, 0, 0, 5]);
    }
}
