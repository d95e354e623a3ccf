//! What tests of the books share.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod naive;
pub(crate) mod world;
