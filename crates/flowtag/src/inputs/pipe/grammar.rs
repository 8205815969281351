//! flowd's line: `STATE PROTOCOL SRC SPORT DST DPORT EXPERIMENT ACTIVITY`, separated by blanks.
//!
//! Of an `end` only the flow counts: producers are known to swap the two identifiers there, so they may be anything
//! or absent. Experiments and activities may also be names without blanks.

use std::net::IpAddr;

use flowtag_engine::{Announcement, End, Event, Registry, ResolveError, Selector, Source};
use flowtag_wire::{Endpoint, FiveTuple, FlowError, Protocol, Tag};

/// The longest line that is read; eight fields with full IPv6 addresses and long names need less than 300 bytes.
pub(super) const MAX_LINE: usize = 4096;

const SOURCE: Source = Source("pipe");
const FORM: &str =
    "write `start tcp SRC SPORT DST DPORT EXPERIMENT ACTIVITY`, or `end` or `ongoing` with the same";

/// The first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    End,
    /// The flow goes on; of an unknown flow it is a start.
    Ongoing,
}

impl State {
    fn read(word: &str) -> Option<Self> {
        let words = [("start", Self::Start), ("end", Self::End), ("ongoing", Self::Ongoing)];
        words.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, state)| state)
    }
}

/// Why a line says nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("{0} fields where eight are expected: {FORM}")]
    Fields(usize),
    #[error("state {0:?} is not known: use start, end or ongoing")]
    State(String),
    #[error("{0:?} is not an IP address")]
    Address(String),
    #[error("port {0:?} is not a port: use 1 to 65535")]
    Port(String),
    #[error(transparent)]
    Flow(#[from] FlowError),
    #[error(transparent)]
    Tag(#[from] ResolveError),
    #[error("the line is longer than {MAX_LINE} bytes: {FORM}")]
    TooLong,
    #[error("the line is not UTF-8 text: {FORM}")]
    NotText,
}

pub(super) fn parse(line: &[u8], registry: &Registry) -> Result<Event, LineError> {
    let line = str::from_utf8(line).map_err(|_| LineError::NotText)?;
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = match fields.first() {
        Some(word) => State::read(word).ok_or_else(|| LineError::State(shorten(word)))?,
        None => return Err(LineError::Fields(0)),
    };
    match (state, fields.as_slice()) {
        (State::Start | State::Ongoing, [_, protocol, src, sport, dst, dport, experiment, activity]) => {
            let experiment = registry.resolve_experiment(experiment)?;
            let activity = registry.resolve_activity(experiment, activity)?;
            let flow = flow(protocol, (src, sport), (dst, dport))?;
            let announcement = Announcement::new(flow, Tag { experiment, activity }, SOURCE);
            Ok(match state {
                State::Ongoing => Event::Ongoing(announcement),
                _ => Event::Start(announcement),
            })
        }
        (State::End, [_, protocol, src, sport, dst, dport, rest @ ..]) if rest.len() <= 2 => {
            let flow = flow(protocol, (src, sport), (dst, dport))?;
            Ok(Event::End(End::new(Selector::Flow(flow), SOURCE)))
        }
        (_, fields) => Err(LineError::Fields(fields.len())),
    }
}

fn flow(protocol: &str, src: (&str, &str), dst: (&str, &str)) -> Result<FiveTuple, LineError> {
    let protocol: Protocol = protocol.parse()?;
    Ok(FiveTuple::new(protocol, endpoint(src)?, endpoint(dst)?)?)
}

fn endpoint((address, port): (&str, &str)) -> Result<Endpoint, LineError> {
    let address: IpAddr = address.parse().map_err(|_| LineError::Address(shorten(address)))?;
    let port = port.parse().map_err(|_| LineError::Port(shorten(port)))?;
    Ok(Endpoint::new(address, port))
}

/// Enough of a bad word to find it again.
fn shorten(word: &str) -> String {
    word.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Event, LineError> {
        parse(line.as_bytes(), Registry::embedded())
    }

    #[test]
    fn a_start_is_an_announcement() {
        let Ok(Event::Start(start)) = parsed("start tcp 2001:db8::1 1094 2001:db8::2 40000 3 14") else {
            panic!("a start");
        };
        assert_eq!(start.flow.to_string(), "tcp [2001:db8::1]:1094 > [2001:db8::2]:40000");
        assert_eq!(start.tag, Tag::new(3, 14).expect("in range"));
        assert_eq!(start.source, Source("pipe"));
    }

    #[test]
    fn blanks_case_and_names_do_not_matter() {
        let plain = parsed("start udp 192.0.2.1 1 192.0.2.2 2 2 1");
        assert_eq!(parsed("  START\tUDP  192.0.2.1 1 192.0.2.2   2 atlas default \r"), plain);
    }

    #[test]
    fn an_end_is_matched_by_the_flow_whatever_its_identifiers() {
        let end = parsed("end tcp 2001:db8::1 1094 2001:db8::2 40000 3 14");
        assert!(matches!(end, Ok(Event::End(_))));
        for identifiers in ["14 3", "0 99999", "", "- -"] {
            assert_eq!(parsed(&format!("end tcp 2001:db8::1 1094 2001:db8::2 40000 {identifiers}")), end);
        }
    }

    #[test]
    fn a_flow_that_goes_on_is_announced() {
        let Ok(Event::Ongoing(ongoing)) =
            parsed("Ongoing tcp 2001:db8::1 1094 2001:db8::2 40000 cms analysis-input")
        else {
            panic!("a flow that goes on");
        };
        assert_eq!(ongoing.tag, Tag::new(3, 14).expect("in range"));
        assert!(
            parsed("ongoing tcp 2001:db8::1 1094 2001:db8::2 40000").is_err(),
            "whose it is has to be said"
        );
    }

    #[test]
    fn every_bad_line_says_what_is_wrong() {
        for (line, expected) in [
            ("", "0 fields"),
            ("start tcp 2001:db8::1 1094", "4 fields"),
            ("start tcp 2001:db8::1 1 2001:db8::2 2 3 14 9", "9 fields"),
            ("restart tcp 2001:db8::1 1 2001:db8::2 2 3 14", "state \"restart\""),
            ("start sctp 2001:db8::1 1 2001:db8::2 2 3 14", "protocol \"sctp\""),
            ("start tcp example.org 1 2001:db8::2 2 3 14", "\"example.org\" is not an IP address"),
            ("start tcp 2001:db8::1 65536 2001:db8::2 2 3 14", "port \"65536\""),
            ("start tcp 2001:db8::1 0 2001:db8::2 2 3 14", "port 0"),
            ("start tcp 2001:db8::1 1 192.0.2.1 2 3 14", "address families"),
            ("start tcp 2001:db8::1 1 2001:db8::2 2 512 14", "1 to 511"),
            ("start tcp 2001:db8::1 1 2001:db8::2 2 3 64", "1 to 63"),
            ("start tcp 2001:db8::1 1 2001:db8::2 2 csm 1", "did you mean"),
        ] {
            let error = parsed(line).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
        assert_eq!(parse(b"start \xff", Registry::embedded()), Err(LineError::NotText));
    }
}
