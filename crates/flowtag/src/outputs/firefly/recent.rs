//! What was sent or heard of late, so that nothing goes round in circles.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowtag_wire::Firefly;
use flowtag_wire::firefly::State;
use jiff::Timestamp;

/// How long something is remembered at least, if there is not more of it than fits.
const WINDOW: Duration = Duration::from_secs(30);
/// Most that is remembered in one window.
const MAX: usize = 1 << 17;

/// A set that forgets: the current window and the one before. Keyed by a secret, so that nobody can make two things look
/// alike.
#[derive(Debug)]
pub(crate) struct Recent {
    hasher: RandomState,
    current: HashSet<u64>,
    before: HashSet<u64>,
    since: Instant,
}

impl Default for Recent {
    fn default() -> Self {
        let (hasher, current, before) = Default::default();
        Self { hasher, current, before, since: Instant::now() }
    }
}

impl Recent {
    /// Remembers it. Says whether it is new.
    pub(crate) fn insert(&mut self, what: &impl Hash, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        if age >= WINDOW || self.current.len() >= MAX {
            self.before = std::mem::take(&mut self.current);
            self.since = now;
            if age >= 2 * WINDOW {
                self.before = HashSet::new();
            }
        }
        let hash = self.hasher.hash_one(what);
        !self.before.contains(&hash) && self.current.insert(hash)
    }
}

/// Fireflies that this daemon sent or heard: one that comes again is not news, whatever way it took.
#[derive(Debug, Default)]
pub(crate) struct Fireflies {
    seen: Mutex<Recent>,
    /// Somebody listens, so what is sent may come back.
    listening: AtomicBool,
}

impl Fireflies {
    /// Whether fireflies are heard at all from now on.
    pub(crate) fn listen(&self, whether: bool) {
        self.listening.store(whether, Ordering::Relaxed);
    }

    /// To be told of each that is sent.
    pub(crate) fn sent(&self, firefly: &Firefly) {
        if self.listening.load(Ordering::Relaxed) {
            self.is_new(firefly);
        }
    }

    /// Remembers one that was heard, and says whether it is new. One without a time cannot be told from others of its kind
    /// and is always new.
    pub(crate) fn is_new(&self, firefly: &Firefly) -> bool {
        let Some(identity) = identity(firefly) else { return true };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(&identity, Instant::now())
    }
}

/// What stays the same when a firefly is sent on: which flow, from whichever end, what happened to it, and when, as exactly
/// as a firefly says it.
fn identity(firefly: &Firefly) -> Option<impl Hash + use<>> {
    let Firefly { state, start_time, end_time, current_time, flow, .. } = firefly;
    match state {
        State::Start => current_time.or(*start_time),
        State::Ongoing => *current_time,
        State::End => current_time.or(*end_time),
    }?;
    let micros = |time: &Option<Timestamp>| time.map(Timestamp::as_microsecond);
    let ends = (flow.src().min(flow.dst()), flow.src().max(flow.dst()));
    let times = (micros(current_time), micros(end_time));
    Some((*state, flow.protocol(), ends, times, firefly.experiment, firefly.activity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_in_time_and_number() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        assert!(recent.insert(&"a", now) && !recent.insert(&"a", now));
        assert!(!recent.insert(&"a", now + WINDOW + Duration::from_secs(1)), "the window before counts");
        assert!(recent.insert(&"a", now + 4 * WINDOW), "it is forgotten");
        (0..5 * MAX).for_each(|n| assert!(recent.insert(&n, now)));
        assert!(recent.current.len() + recent.before.len() <= 2 * MAX);
    }

    #[test]
    fn a_firefly_is_the_same_from_either_end_and_another_at_another_time() {
        let flow = flowtag_wire::FiveTuple::new(
            flowtag_wire::Protocol::Tcp,
            "[2001:db8::1]:1".parse().expect("an end"),
            "[2001:db8::2]:2".parse().expect("an end"),
        )
        .expect("a flow");
        let tag = flowtag_wire::Tag::new(3, 14).expect("a tag");
        let at = |seconds| Some(Timestamp::new(seconds, 0).expect("a time"));
        let firefly = |state, flow, current_time| Firefly { current_time, ..Firefly::new(state, flow, tag) };
        let seen = Fireflies::default();
        assert!(seen.is_new(&firefly(State::Ongoing, flow, at(1))));
        assert!(!seen.is_new(&firefly(State::Ongoing, flow.reversed(), at(1))));
        assert!(seen.is_new(&firefly(State::Ongoing, flow, at(2))));
        assert!(seen.is_new(&firefly(State::End, flow, at(2))));
        for _ in 0..2 {
            assert!(seen.is_new(&firefly(State::Start, flow, None)), "without a time, nobody knows");
        }
        seen.sent(&firefly(State::End, flow, at(3)));
        assert!(seen.is_new(&firefly(State::End, flow, at(3))), "nobody listened");
        seen.listen(true);
        seen.sent(&firefly(State::End, flow, at(4)));
        assert!(!seen.is_new(&firefly(State::End, flow, at(4))), "it was ours");
    }
}
