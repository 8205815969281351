//! Waiting for something to become true, without guessing how long it takes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything in a testbed may take: ample for an emulated machine.
pub const WAIT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(5);

/// Asks until `ask` gives something, at most for `limit`. `what` completes "waited for …".
///
/// # Errors
/// The time ran out, or `ask` failed.
pub fn wait_until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = ask()? {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            bail!("waited {:.1} s for {what}, in vain", start.elapsed().as_secs_f64());
        }
        thread::sleep(PAUSE);
    }
}
