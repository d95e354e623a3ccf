//! Stores with one deliberate fault each: the conformance suite must reject every one of them, by the clause that it breaks.
//!
//! They are what backends get wrong in practice. A suite that lets one pass can't fail.

/// The faults of one contract: each with the clause that it breaks, in the order of the clauses.
macro_rules! faults {
    (
        $(#[$about:meta])* $fault:ident, $(#[$every:meta])* $all:ident;
        $($clause:literal $name:ident: $doc:literal;)+
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $fault {
            /// The clause that it breaks.
            pub clause: &'static str,
            pub(crate) mutation: Mutation,
        }

        impl $fault {
            /// What it is called.
            pub fn name(&self) -> String {
                format!("{:?}", self.mutation)
            }
        }

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mutation {
            $(#[doc = $doc] $name,)+
        }

        $(#[$every])*
        pub const $all: &[$fault] = &[$($fault { clause: $clause, mutation: Mutation::$name },)+];
    };
}

mod bus;
mod log;
mod store;

pub use bus::{BUS_FAULTS, BusFault, BusMutant};
pub use log::{LOG_FAULTS, LogFault, MutantLog};
pub use store::Mutant;

faults! {
    /// One deliberate fault.
    Fault,
    /// Every fault, in the order of the contract.
    FAULTS;
    "R1" TearsRecords: "Writes the value first, and the rest a moment later.";
    "R2" ReadsStale: "Now and then answers the record before the last write.";
    "R2" CachesReads: "Answers what it read before, though others have written since.";
    "K1" ConcatenatesKeys: "Makes one name of partition and sort without saying where one ends.";
    "K2" TakesEmptyForAbsent: "Forgets records whose value is empty.";
    "K3" ListsLoneRecords: "Shows the lone record among the rows.";
    "E1" GetsExpired: "Shows expired records to get.";
    "E1" RoundsExpiry: "Keeps expiries in whole milliseconds, rounded up.";
    "E2" GetsManyExpired: "Shows expired records to get_many.";
    "E3" ScansExpired: "Shows expired rows to scan.";
    "E4" ComparesExpired: "Lets expired records decide conditions.";
    "E5" UpdatesExpired: "Hands expired states to procedures.";
    "E6" TrimsByExpired: "Counts expired rows as kept.";
    "E7" KeepsExpiry: "Leaves the old expiry on a record that is put anew without one.";
    "F1" TakesBadArguments: "Checks no argument but sizes.";
    "F2" TakesAnySize: "Checks no sizes.";
    "C1" WritesInTwoSteps: "Removes the old record, waits, puts the new one.";
    "C2" UpdatesAgainWhenDropped: "Applies an update once more when its future is dropped.";
    "C3" StaysBusyWhenDropped: "Serves nobody after a future was dropped.";
    "B1" AnswersBackwards: "Answers batches of reads in the wrong order.";
    "B2" IgnoresConditionsInBatches: "Writes batches whatever their conditions.";
    "B3" FailsWholeBatches: "Fails all writes of a batch with one of them.";
    "W1" RefusesToReplace: "Takes an unconditional put for an insert.";
    "W2" IgnoresAbsent: "Inserts over what is there.";
    "W3" IgnoresVersions: "Replaces any version.";
    "W4" HidesConflicts: "Does not say what stood in the way.";
    "W5" ComparesValues: "Takes equal bytes for the same record.";
    "W6" ForgetsItself: "Answers a write that was sent twice with a conflict.";
    "W7" LosesIncrements: "Looks, then writes, without holding on in between.";
    "W8" LosesPlainRows: "Keeps only the first write of a row in plain spaces.";
    "W9" TrimsKeys: "Takes a row without a value for dead when it trims.";
    "S1" OrdersSignedBytes: "Orders rows as signed bytes.";
    "S2" IncludesExcludedEnds: "Takes an excluded end for an included one.";
    "S3" DescendsFromTheStart: "Reads the first rows and turns them.";
    "S4" SkipsAtPageEnds: "Loses the row behind each page.";
    "S5" CountsForCursors: "Goes on behind so many rows instead of behind a row.";
    "S6" ScansWithoutExpiry: "Leaves the expiry out of scanned records.";
    "T1" TrimsTheOtherEnd: "Keeps the rows that should go.";
    "T2" TrimsWithoutBound: "Removes all rows in one call, however many.";
    "T3" TrimsLoneRecords: "Removes the lone record too.";
    "P1" UpdatesUnlocked: "Reads, runs the procedure, writes, without holding on in between.";
    "P2" ForgetsLifetimes: "Puts states for ever.";
    "P3" KeepsVersions: "Leaves the version as it was when a procedure puts.";
    "P4" ClearsUndecodable: "Removes a state that the procedure can't read.";
    "P5" RoundsTime: "Hands procedures a time with 14 digits.";
}
