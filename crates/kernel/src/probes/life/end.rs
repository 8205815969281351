//! How a connection ended, from what the kernel leaves behind: the state before, the error, and who sent a RST.

use std::io;

use super::abi::life_facts as facts;
use super::listed::History;
use crate::tcp_info::state;

/// How and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// A word of the column `end`.
    pub(super) how: &'static str,
    /// Whose doing it was, where it was one end's.
    pub(super) by: Option<&'static str>,
}

const LOCAL: Option<&str> = Some("local");
const REMOTE: Option<&str> = Some("remote");

impl End {
    pub(super) const OPEN: Self = Self { how: "open", by: None };

    /// `before` is the state before the end, `seen` of `enum life_facts`.
    pub(super) fn of(history: &History, before: u16, seen: u32) -> Self {
        let before = u8::try_from(before).unwrap_or(0);
        if before == state::SYN_SENT {
            return Self::of_attempt(history, seen);
        }
        if let Some(error) = history.error.and_then(|error| Self::of_error(error.into())) {
            return error;
        }
        let is_orphan = seen & facts::LIFE_ORPHAN != 0;
        let is_closing = matches!(before, state::FIN_WAIT1 | state::FIN_WAIT2);
        if history.is_reset_by_peer() {
            // The kernel says the same where data comes for nobody any more, which it answers with a RST.
            let by = if is_orphan && is_closing { None } else { REMOTE };
            return Self { how: "RST", by };
        }
        let fin_received = seen & facts::LIFE_FIN_RECEIVED != 0;
        match before {
            _ if history.reset_sent => Self { how: "RST", by: LOCAL },
            state::LAST_ACK => Self { how: "FIN", by: REMOTE },
            state::CLOSING => Self { how: "FIN", by: LOCAL },
            state::FIN_WAIT2 if fin_received || is_orphan => Self { how: "FIN", by: LOCAL },
            // No other way leads out of these states but to give up: the RST is sent right after.
            _ => Self { how: "RST", by: LOCAL },
        }
    }

    /// Of one that was never established.
    fn of_attempt(history: &History, seen: u32) -> Self {
        if history.reset_received {
            return Self { how: "refused", by: REMOTE };
        }
        match history.error.map(i32::from) {
            Some(error) => Self::of_error(error).unwrap_or(Self { how: "error", by: None }),
            None if seen & facts::LIFE_UNSENT != 0 => Self { how: "unsent", by: LOCAL },
            None => Self { how: "aborted", by: LOCAL },
        }
    }

    /// None: the state says more.
    fn of_error(error: i32) -> Option<Self> {
        let (how, by) = match error {
            libc::ECONNREFUSED => ("refused", REMOTE),
            libc::ETIMEDOUT => ("timeout", None),
            // What ICMP says, and prohibited among it (EACCES).
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN | libc::EACCES => {
                ("unreachable", None)
            }
            libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED => return None,
            _ => ("error", None),
        };
        Some(Self { how, by })
    }
}

impl History {
    /// Told by the tracepoint, or where that is missing by the error.
    fn is_reset_by_peer(&self) -> bool {
        let error = self.error.map(i32::from);
        self.reset_received || matches!(error, Some(libc::ECONNRESET | libc::EPIPE)) && !self.reset_sent
    }
}

/// What the C library says of an error, without its number.
pub(super) fn reason(error: i32) -> String {
    let text = io::Error::from_raw_os_error(error).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use libc::{ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EPIPE, ETIMEDOUT};

    use super::*;

    fn ended(
        before: u8,
        error: i32,
        [received, sent]: [bool; 2],
        seen: u32,
    ) -> (&'static str, Option<&'static str>) {
        let error = u16::try_from(error).ok().filter(|e| *e != 0);
        let history = History { error, reset_received: received, reset_sent: sent, ..History::default() };
        let end = End::of(&history, before.into(), seen);
        (end.how, end.by)
    }

    type Expected = (&'static str, Option<&'static str>);

    const NO_RST: [bool; 2] = [false, false];
    const FIN: u32 = facts::LIFE_FIN_RECEIVED;
    const ORPHAN: u32 = facts::LIFE_ORPHAN;

    /// What happened; state before, error, RST received and sent, facts; what is told.
    type Case = (&'static str, u8, i32, [bool; 2], u32, Expected);

    const ENDS: &[Case] = &[
        ("closed here, then there", state::FIN_WAIT2, 0, NO_RST, FIN, ("FIN", LOCAL)),
        (
            "closed here, and the kernel waits for the rest",
            state::FIN_WAIT2,
            0,
            NO_RST,
            ORPHAN,
            ("FIN", LOCAL),
        ),
        ("half closed here, then given up", state::FIN_WAIT2, 0, NO_RST, 0, ("RST", LOCAL)),
        ("closed at both ends at once", state::CLOSING, 0, NO_RST, FIN, ("FIN", LOCAL)),
        ("closed there, then here", state::LAST_ACK, 0, NO_RST, FIN | ORPHAN, ("FIN", REMOTE)),
        ("closed here with data unread", state::ESTABLISHED, 0, NO_RST, 0, ("RST", LOCAL)),
        ("the same after a FIN", state::CLOSE_WAIT, 0, NO_RST, FIN, ("RST", LOCAL)),
        ("reset there", state::ESTABLISHED, ECONNRESET, [true, false], 0, ("RST", REMOTE)),
        ("reset there after its FIN", state::CLOSE_WAIT, EPIPE, [true, false], FIN, ("RST", REMOTE)),
        (
            "reset there, and no tracepoint said so",
            state::ESTABLISHED,
            ECONNRESET,
            NO_RST,
            0,
            ("RST", REMOTE),
        ),
        (
            "data or RST after the last process closed",
            state::FIN_WAIT2,
            ECONNRESET,
            [true, false],
            ORPHAN,
            ("RST", None),
        ),
        ("killed by the administrator", state::ESTABLISHED, ECONNABORTED, [false, true], 0, ("RST", LOCAL)),
        ("no answer any more", state::ESTABLISHED, ETIMEDOUT, NO_RST, 0, ("timeout", None)),
        ("no answer to probes", state::ESTABLISHED, ETIMEDOUT, [false, true], 0, ("timeout", None)),
        (
            "a router says that there is no way",
            state::ESTABLISHED,
            EHOSTUNREACH,
            NO_RST,
            0,
            ("unreachable", None),
        ),
        ("nobody listens", state::SYN_SENT, ECONNREFUSED, [true, false], 0, ("refused", REMOTE)),
        ("nobody answers", state::SYN_SENT, ETIMEDOUT, NO_RST, 0, ("timeout", None)),
        ("no neighbour of that address", state::SYN_SENT, EHOSTUNREACH, NO_RST, 0, ("unreachable", None)),
        ("closed before there was an answer", state::SYN_SENT, 0, NO_RST, 0, ("aborted", LOCAL)),
        (
            "the application asked for the error first",
            state::SYN_SENT,
            0,
            [true, false],
            0,
            ("refused", REMOTE),
        ),
        ("another error", state::SYN_SENT, libc::EPROTO, NO_RST, 0, ("error", None)),
    ];

    #[test]
    fn each_way_to_end_has_its_word() {
        for (what, before, error, resets, seen, expected) in ENDS {
            assert_eq!(ended(*before, *error, *resets, *seen), *expected, "{what}");
        }
    }

    #[test]
    fn an_attempt_without_a_segment_was_not_sent() {
        let end = End::of(&History::default(), state::SYN_SENT.into(), facts::LIFE_UNSENT);
        assert_eq!((end.how, end.by), ("unsent", LOCAL));
    }

    #[test]
    fn errors_are_words() {
        assert_eq!(reason(ETIMEDOUT), "Connection timed out");
    }
}
