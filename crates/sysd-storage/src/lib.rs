//! Stores for sysd: memory and Redis, and the shared log on any of them.
