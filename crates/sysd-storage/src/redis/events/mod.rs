//! Event logs on Redis: a stream a partition, and a record a group and partition.
//!
//! # Layout
//! | key | what |
//! |---|---|
//! | `PREFIX{events:LOG:PARTITION}` | the stream; entries are numbered from `0-1` on, with the fields `m` (format, time, id), `k` (key), `v` (event) |
//! | `PREFIX{events:LOG:PARTITION}:GROUP` | a hash: the group's `next` number, the partition's `owner`, until when, and its fencing `token` |
//! | `PREFIX{events:LOG}:GROUP:members` | a sorted set: who is alive, until when |
//! | `PREFIX{events:LOG}:partitions` | how many there are |
//!
//! A partition and all groups' records of it share a hash tag, so a slot of a Cluster: reading is one script, which checks that
//! the member owns the partition, makes its lease longer and fetches what comes next; committing is another.
//!
//! # Why not Redis' own consumer groups
//! They give entry by entry to whoever asks, and what a dead consumer had not acknowledged is claimed by another that reads
//! newer entries meanwhile: the events of one key would be handled at the same time, or the later one first. Here a partition is
//! leased as a whole, and the lease's fencing token is checked where the group's position is written.
//!
//! # States of a group's record
//! | it is | a read by the owner, same token | by the owner, other token | by somebody else | a commit by the owner, same token |
//! |---|---|---|---|---|
//! | free | | | leased, token + 1, from `next` on | |
//! | leased | leased for longer, from the last event on | leased, token + 1, from `next` on | refused | `next` rises, leased for longer |
//! | leased, but its time is up | leased for longer, from the last event on | as before | leased, token + 1, from `next` on | as before |
//!
//! A read whose answer was lost leaves a token that its member does not know: its next read begins at `next` again. A member
//! that finds its last event gone or another one in its place (a failover took it back) begins at `next` again, too, under a
//! higher token; a commit finds the same, and is refused: it would skip what was appended since under the same numbers. For the
//! same reason a member that had events in hand when its reads began again is told of its next commit there that it is lost.
//!
//! # Clocks
//! Leases and sessions are counted by the clock of the node that holds them. What an event says of its time is the clock's
//! of who appended it.

mod log;
mod member;
mod wire;

pub use log::{RedisEvents, RedisEventsConfig};
pub use member::RedisMember;
