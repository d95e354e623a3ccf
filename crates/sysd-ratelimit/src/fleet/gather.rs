//! How a cost is gathered from several shards of one key, pure: it is told what each shard has, and says what to take from which.
//!
//! | state | told | then |
//! |---|---|---|
//! | wants some, and the shards are known to have as much | | takes parts of several at once, the fullest first |
//! | parts are under way | a shard gave its part | wants so much less |
//! | | a shard had less: others were faster | knows what it has, and wants as much as before |
//! | | a shard did not answer | counts on it no more: if the part was taken, it is lost |
//! | wants nothing any more | | the request is admitted |
//! | wants more than the shards are known to have, or has tried [`ROUNDS_MAX`] times | | gives all parts back, each to its shard |
//!
//! What a shard gave was taken from its bucket before, and nothing is ever put into a bucket that it did not give. So however the
//! steps are cut off, what is admitted is at most what the shards grant, each by itself.

/// How often parts are asked for: where others keep being faster, the request is denied.
pub(super) const ROUNDS_MAX: u32 = 3;

/// A part of a cost, of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The shard's place.
    pub(super) at: usize,
    /// At least one.
    pub(super) tokens: u32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Take these, each from its shard, and tell what came of each.
    Take(Vec<Part>),
    /// All of the cost is there.
    Admit,
    /// It can't be had; what was taken is to be given back.
    GiveUp,
}

#[derive(Debug, Clone)]
pub(super) struct Gather {
    wants: u32,
    /// What each shard is known to have.
    levels: Vec<Part>,
    rounds: u32,
}

impl Gather {
    /// To gather `cost` from shards that have so much.
    pub(super) fn new(cost: u32, levels: impl IntoIterator<Item = Part>) -> Self {
        Self { wants: cost, levels: levels.into_iter().collect(), rounds: 0 }
    }

    /// Of the fewest shards that have it, so of one alone where one has all.
    pub(super) fn next(&mut self) -> Next {
        if self.wants == 0 {
            return Next::Admit;
        }
        let all: u64 = self.levels.iter().map(|level| u64::from(level.tokens)).sum();
        if all < u64::from(self.wants) || self.rounds == ROUNDS_MAX {
            return Next::GiveUp;
        }
        self.rounds += 1;
        self.levels.sort_by_key(|level| std::cmp::Reverse(level.tokens));
        let mut missing = self.wants;
        let mut parts = Vec::new();
        for level in &self.levels {
            let tokens = level.tokens.min(missing);
            if tokens == 0 {
                break;
            }
            missing -= tokens;
            parts.push(Part { at: level.at, tokens });
        }
        Next::Take(parts)
    }

    /// A shard gave its part, and has so much left.
    pub(super) fn took(&mut self, part: Part, left: u32) {
        self.wants = self.wants.saturating_sub(part.tokens);
        self.has(part.at, left);
    }

    /// A shard had less than its part.
    pub(super) fn had_less(&mut self, part: Part, left: u32) {
        self.has(part.at, left.min(part.tokens - 1));
    }

    /// A shard did not answer.
    pub(super) fn failed(&mut self, part: Part) {
        self.has(part.at, 0);
    }

    fn has(&mut self, at: usize, tokens: u32) {
        if let Some(level) = self.levels.iter_mut().find(|level| level.at == at) {
            level.tokens = tokens;
        }
    }
}

/// The first time, microseconds from now, at which shards have `cost` together; each says how many whole tokens it has then, which never
/// falls. All are full after `full_us`; `None` if that is too little.
pub(super) fn enough_after(cost: u32, full_us: u64, tokens_after: impl Fn(u64) -> u64) -> Option<u64> {
    let is_enough = |us| tokens_after(us) >= u64::from(cost);
    if !is_enough(full_us) {
        return None;
    }
    // By halves: it is enough at `enough`, and not before `less`.
    let (mut less, mut enough) = (0, full_us);
    while less < enough {
        let middle = less + (enough - less) / 2;
        if is_enough(middle) {
            enough = middle;
        } else {
            less = middle + 1;
        }
    }
    Some(enough)
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
