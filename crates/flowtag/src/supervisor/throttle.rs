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

    /// Whether to log `what` now, and then how often it was not since the last time.
    pub(crate) fn pass(&mut self, what: &'static str) -> Option<u64> {
        let now = Instant::now();
        match self.seen.get_mut(what) {
            Some((last, suppressed)) if now.duration_since(*last) < PERIOD => {
                *suppressed += 1;
                None
            }
            _ => Some(self.seen.insert(what, (now, 0)).map_or(0, |(_, suppressed)| suppressed)),
        }
    }

    fn tell(
        &mut self,
        what: &'static str,
        at: Option<&dyn std::fmt::Display>,
        error: &(dyn std::error::Error + 'static),
    ) {
        if let Some(more) = self.pass(what) {
            let (at, more) = (at.map(tracing::field::display), (more > 0).then_some(more));
            tracing::warn!(at, error = chain(error), more_since_last = more, "{what}");
        }
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_kind_passes_and_the_others_are_counted() {
        let mut throttle = Throttle::default();
        let passed = ["a", "a", "b", "a"].map(|what| throttle.pass(what));
        assert_eq!(passed, [Some(0), None, Some(0), None]);
        throttle.seen.get_mut("a").expect("seen").0 -= PERIOD;
        assert_eq!([throttle.pass("a"), throttle.pass("a")], [Some(2), None]);
    }
}
