//! The exhaustive sweeps: one fault at every place where it could be.

use super::Simulation;

/// One thing that goes wrong at one storage call of a node, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node crashes after this call has happened, before it knows.
    CrashAfterCall(u64),
    /// This call happens and its reply is lost.
    LoseReply(u64),
    /// This call does not happen, and its caller is told so.
    Refuse(u64),
}

/// Runs `scenario` with each fault at each storage call, until there are no more calls to spoil; answers how many runs
/// there were.
///
/// `scenario` sets the fault for the node whose operation it is ([`Simulation::set_fault`]), runs the operation, recovers,
/// checks, and answers how many calls the node made by then.
///
/// # Errors
/// The first scenario's that failed, with the fault.
pub fn sweep(mut scenario: impl FnMut(&Simulation, Fault) -> Result<u64, String>) -> Result<u64, String> {
    let mut runs = 0;
    for fault in [Fault::CrashAfterCall as fn(u64) -> Fault, Fault::LoseReply, Fault::Refuse] {
        for call in 1.. {
            let simulation = Simulation::new(call);
            let calls = scenario(&simulation, fault(call)).map_err(|error| format!("{:?}: {error}", fault(call)))?;
            runs += 1;
            if calls < call {
                break;
            }
        }
    }
    Ok(runs)
}
