//! SIGHUP, SIGINT and SIGTERM: only noted, so that whoever waits can stop in order what was started.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_usize;

static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on these signals don't end this process.
pub(crate) fn listen() -> Result<(), String> {
    let noted = SIGNAL.get_or_init(Arc::default);
    for (signal, number) in [(SIGHUP, 1), (SIGINT, 2), (SIGTERM, 15)] {
        // Whoever started us under `nohup` wants us to go on.
        if signal == SIGHUP && hangup_is_ignored() {
            continue;
        }
        register_usize(signal, Arc::clone(noted), number).map_err(|error| format!("signal {signal}: {error}"))?;
    }
    Ok(())
}

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// The last signal that came, if one did.
pub(crate) fn signal() -> Option<u8> {
    let number = SIGNAL.get().map_or(0, |noted| noted.load(Ordering::Relaxed));
    u8::try_from(number).ok().filter(|&number| number > 0)
}

/// An error once a signal came.
pub(crate) fn check() -> Result<(), String> {
    signal().map_or(Ok(()), |number| Err(format!("interrupted by signal {number}")))
}
