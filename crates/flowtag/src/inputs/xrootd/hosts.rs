//! Addresses of clients' hosts, which XRootD calls by name where it can. Names are resolved in the background: nothing waits
//! for a name server.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::outputs::resolve;

/// Names that are remembered, and that are asked about at a time.
const MAX_KNOWN: usize = 8192;
const AT_ONCE: usize = 32;
const FRESH: Duration = Duration::from_secs(300);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that count.
const MAX_ADDRESSES: usize = 64;

#[derive(Default)]
pub(super) struct Hosts {
    known: HashMap<Box<str>, (Instant, Arc<[IpAddr]>)>,
    asked: JoinSet<(Box<str>, Arc<[IpAddr]>)>,
    asking: Vec<Box<str>>,
}

impl Hosts {
    /// The addresses of a host, none if it has no known; not an answer where there is none yet.
    pub(super) fn addresses(&mut self, host: &str, now: Instant) -> Option<Arc<[IpAddr]>> {
        if let Some(address) = literal(host) {
            return Some(Arc::new([address]));
        }
        let known = self.known.get(host).filter(|(at, _)| now.duration_since(*at) < FRESH);
        if let Some((_, addresses)) = known {
            return Some(Arc::clone(addresses));
        }
        self.ask(host);
        None
    }

    fn ask(&mut self, host: &str) {
        if self.asking.len() >= AT_ONCE || self.asking.iter().any(|asked| **asked == *host) {
            return;
        }
        let host: Box<str> = host.into();
        self.asking.push(host.clone());
        self.asked.spawn(async move {
            let found = tokio::time::timeout(TIMEOUT, resolve::addresses(&host)).await;
            let found = found.ok().and_then(Result::ok).into_iter().flatten();
            let addresses = found.map(|a| a.to_canonical()).take(MAX_ADDRESSES).collect();
            (host, addresses)
        });
    }

    /// Waits for an answer, for ever if nothing was asked.
    pub(super) async fn answer(&mut self) {
        let Some(answer) = self.asked.join_next().await else { return std::future::pending().await };
        let Ok((host, addresses)) = answer else { return self.asking.clear() };
        self.asking.retain(|asked| *asked != host);
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(host, (Instant::now(), addresses));
    }
}

/// `[2001:db8::1]`, `[::ffff:192.0.2.1]`, and as older versions write IPv4, `[::192.0.2.1]`.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let address: IpAddr = bare.parse().ok()?;
    let IpAddr::V6(v6) = address else { return Some(address) };
    let [zeros @ .., a, b, c, d] = v6.octets();
    let is_compatible = zeros == [0; 12] && bare.contains('.');
    Some(if is_compatible { Ipv4Addr::new(a, b, c, d).into() } else { address.to_canonical() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_way_that_xrootd_writes_them() {
        let v4 = Some(IpAddr::from([192, 0, 2, 1]));
        for text in ["192.0.2.1", "[::ffff:192.0.2.1]", "[::192.0.2.1]", "[192.0.2.1]"] {
            assert_eq!(literal(text), v4, "{text}");
        }
        assert_eq!(literal("[::1]"), Some("::1".parse().expect("an address")));
        assert_eq!(literal("[2001:db8::1]"), Some("2001:db8::1".parse().expect("an address")));
        assert_eq!((literal("wn12.example.org"), literal("")), (None, None));
    }
}
