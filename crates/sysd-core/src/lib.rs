//! Words and contracts of sysd: records, stores, procedures, state machines, clocks, ids, errors.
