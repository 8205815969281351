//! One log line for what may happen a million times: the first at once, then one a minute with the number between.

use std::collections::HashMap;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(60);

/// Remembers, per message, when it was last logged and how often it was not.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    seen: HashMap<&'static str, (Instant, u64)>,
}

impl Throttle {
    /// Logs `what` with the error's chain, unless it did so within the last minute.
    pub(crate) fn warn(&mut self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        self.tell(what, None, error);
    }

    /// The same of something that has a name: a file, a collector.
    pub(crate) fn warn_at(
        &mut self,
        what: &'static str,
        at: &dyn std::fmt::Display,
        error: &(dyn std::error::Error + 'static),
    ) {
        self.tell(what, Some(at), error);
    }

    fn tell(
        &mut self,
        what: &'static str,
        at: Option<&dyn std::fmt::Display>,
        error: &(dyn std::error::Error + 'static),
    ) {
        let now = Instant::now();
        match self.seen.get_mut(what) {
            Some((last, suppressed)) if now.duration_since(*last) < PERIOD => *suppressed += 1,
            entry => {
                let more = entry.map_or(0, |(_, suppressed)| *suppressed);
                let more = (more > 0).then_some(more);
                let at = at.map(tracing::field::display);
                tracing::warn!(at, error = chain(error), more_since_last = more, "{what}");
                self.seen.insert(what, (now, 0));
            }
        }
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
