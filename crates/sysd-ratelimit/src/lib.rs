//! Rate limiting on any sysd store.
