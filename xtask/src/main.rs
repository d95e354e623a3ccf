//! Chores of the sysd workspace.
fn main() {}
