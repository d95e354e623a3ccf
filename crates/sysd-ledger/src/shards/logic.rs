//! What shards decide; asking them is the shell's.

pub(super) mod crossing;
#[cfg(all(test, feature = "seeded-bugs"))]
mod model_tests;
pub(super) mod recovery;
pub(super) mod split;
