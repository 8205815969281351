//! Not more than so many fireflies a second to one target, and of what is too much ENDs last: an END says how much a flow
//! moved, a START that is missing can be told from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use flowtag_wire::firefly::State;

/// Hosts that are told apart; all others together are one target.
const MAX_HOSTS: usize = 4096;

/// Tokens for one target: one a firefly, `rate` new ones a second, and never more than that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self { tokens: f64::from(rate), at: now }
    }

    /// Takes a token if there is one for a firefly of this state. A quarter is kept for ENDs, a half for them and STARTs.
    pub(super) fn take(&mut self, rate: u32, state: State, now: Instant) -> bool {
        let full = f64::from(rate);
        self.tokens = full.min(self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * full);
        self.at = now;
        let kept = match state {
            State::End => 0,
            State::Start => rate / 4,
            State::Ongoing => rate / 2,
        };
        let enough = self.tokens >= f64::from(kept) + 1.0;
        self.tokens -= f64::from(u8::from(enough));
        enough
    }

    fn is_full(&self, rate: u32, now: Instant) -> bool {
        self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate)
            >= f64::from(rate)
    }
}

/// One bucket for each of many hosts.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    buckets: HashMap<IpAddr, Bucket>,
    others: Option<Bucket>,
}

impl Hosts {
    /// As [`Bucket::take`], for one host.
    pub(super) fn take(&mut self, host: IpAddr, rate: u32, state: State, now: Instant) -> bool {
        if self.buckets.len() >= MAX_HOSTS && !self.buckets.contains_key(&host) {
            self.buckets.retain(|_, bucket| !bucket.is_full(rate, now));
        }
        let bucket = if self.buckets.len() >= MAX_HOSTS && !self.buckets.contains_key(&host) {
            self.others.get_or_insert_with(|| Bucket::new(rate, now))
        } else {
            self.buckets.entry(host).or_insert_with(|| Bucket::new(rate, now))
        };
        bucket.take(rate, state, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn ends_get_what_starts_and_progress_may_not_have() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100, now);
        let mut taken = |state| (0..1000).filter(|_| bucket.take(100, state, now)).count();
        assert_eq!((taken(State::Ongoing), taken(State::Start), taken(State::End)), (50, 25, 25));
        let later = now + Duration::from_millis(500);
        let starts = (0..1000).filter(|_| bucket.take(100, State::Start, later)).count();
        assert_eq!(starts, 25, "50 more, of which 25 are kept");
    }

    #[test]
    fn one_a_second_is_possible() {
        let now = Instant::now();
        for state in [State::Start, State::Ongoing, State::End] {
            let mut bucket = Bucket::new(1, now);
            assert!(bucket.take(1, state, now) && !bucket.take(1, state, now), "{state}");
            assert!(bucket.take(1, state, now + Duration::from_secs(1)), "{state}");
        }
    }

    #[test]
    fn each_host_has_its_own_and_many_hosts_share_one() {
        let now = Instant::now();
        let host = |n: u32| IpAddr::from(Ipv4Addr::from(n));
        let mut hosts = Hosts::default();
        assert!(hosts.take(host(1), 1, State::End, now) && !hosts.take(host(1), 1, State::End, now));
        assert!(hosts.take(host(2), 1, State::End, now), "another host");
        let many = (10..20_000).filter(|n| hosts.take(host(*n), 1, State::End, now)).count();
        assert_eq!(many, MAX_HOSTS - 2 + 1);
        assert_eq!(hosts.buckets.len(), MAX_HOSTS);
        assert!(
            hosts.take(host(30_000), 1, State::End, now + Duration::from_secs(2)),
            "the old ones are forgotten"
        );
        assert!(hosts.buckets.len() < 10);
    }
}
