//! Why a connection is not faster: from what the kernel saw of it to a verdict and a line of advice.
//!
//! Pure: [`Span`] is what happened between two looks, [`Verdict`] what that means, and [`advice()`] what to do about it.

mod advice;
mod span;

pub(crate) use advice::advice;
pub(crate) use span::{Shares, Span, Way};

/// Retransmitted parts of all segments from which on a path is said to lose.
const LOSES: f64 = 0.001;
/// Round trips longer than the least by this part, and by so many µs, wait in a queue.
const QUEUES: (f64, f64) = (0.25, 2_000.0);
/// The same where segments are lost: only a queue that is full loses, and a full one is long.
const OVERFLOWS: f64 = 0.5;
/// Part of the time limited by the receiver in which its window was shut, from which on it does not read.
const SHUT: f64 = 0.3;
/// Part of a window that arrives in each round trip, from which on the window is what limits. A window that the kernel adjusts
/// stays at twice what arrives.
const FILLS: f64 = 0.65;

/// What limits a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// No data moved.
    Idle,
    /// The application here gives less than could be sent.
    Application,
    /// The application at the other end reads slowly.
    PeerReads,
    /// The window of the other end is small for this path.
    PeerBuffer,
    /// The send buffer here is small for this path.
    SendBuffer,
    /// The path loses segments.
    Loss,
    /// The path is full: a queue stands at its slowest link.
    PathQueue,
    /// The congestion window, for neither of these reasons.
    Path,
    /// The interface or a queue of this host.
    LocalQueue,
    /// The application set a rate.
    Paced,
    /// The application here reads slowly.
    Reads,
    /// The receive buffer here is small for this path.
    ReceiveBuffer,
    /// Data comes, and this end does not limit it.
    Remote,
}

impl Verdict {
    pub(crate) fn of(span: &Span) -> Self {
        match span.way {
            Way::None => Self::Idle,
            Way::Sends => Self::of_sender(span),
            Way::Receives => Self::of_receiver(span),
        }
    }

    fn of_sender(span: &Span) -> Self {
        let shares = &span.shares;
        let candidates = [
            (shares.path(), Self::of_path(span)),
            (shares.receiver, Self::of_window(span)),
            (shares.sndbuf, Self::SendBuffer),
            (shares.queue, if span.paced.is_some() { Self::Paced } else { Self::LocalQueue }),
            (shares.application, Self::Application),
        ];
        candidates.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(Self::Idle, |(_, verdict)| verdict)
    }

    fn of_path(span: &Span) -> Self {
        let least = span.min_rtt.map_or(f64::INFINITY, f64::from);
        let loses = span.retransmission() >= LOSES || span.shares.timeout > span.shares.network;
        let (part, micros) = QUEUES;
        if span.queueing > (least * if loses { OVERFLOWS } else { part }).max(micros) {
            return Self::PathQueue;
        }
        if loses {
            return Self::Loss;
        }
        Self::Path
    }

    /// A slow reader lets the window go to nothing; a small buffer keeps it small and open.
    fn of_window(span: &Span) -> Self {
        if span.shut > SHUT * span.shares.receiver { Self::PeerReads } else { Self::PeerBuffer }
    }

    fn of_receiver(span: &Span) -> Self {
        if span.unread_share > 0.5 {
            return Self::Reads;
        }
        let fills = span.window > 0 && span.received_per_round_trip() >= FILLS * f64::from(span.window);
        if fills { Self::ReceiveBuffer } else { Self::Remote }
    }

    /// As JSON has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Application => "application",
            Self::PeerReads => "peer_reads_slowly",
            Self::PeerBuffer => "peer_receive_buffer",
            Self::SendBuffer => "send_buffer",
            Self::Loss => "loss",
            Self::PathQueue => "path_queue",
            Self::Path => "congestion_window",
            Self::LocalQueue => "local_queue",
            Self::Paced => "pacing",
            Self::Reads => "reads_slowly",
            Self::ReceiveBuffer => "receive_buffer",
            Self::Remote => "peer_or_path",
        }
    }

    /// For people, in 11 characters at most.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Application => "app writes",
            Self::PeerReads => "peer reads",
            Self::PeerBuffer => "peer buffer",
            Self::SendBuffer => "send buffer",
            Self::Loss => "loss",
            Self::PathQueue => "path full",
            Self::Path => "cwnd",
            Self::LocalQueue => "host queue",
            Self::Paced => "paced",
            Self::Reads => "app reads",
            Self::ReceiveBuffer => "recv buffer",
            Self::Remote => "peer/path",
        }
    }

    /// For people, in a few words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Application => "application writes slowly",
            Self::PeerReads => "peer reads slowly",
            Self::PeerBuffer => "peer's receive buffer",
            Self::SendBuffer => "send buffer",
            Self::Loss => "loss on the path",
            Self::PathQueue => "path is full",
            Self::Path => "congestion window",
            Self::LocalQueue => "queue of this host",
            Self::Paced => "pacing rate",
            Self::Reads => "application reads slowly",
            Self::ReceiveBuffer => "receive buffer",
            Self::Remote => "peer or path",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sends(shares: Shares) -> Span {
        Span {
            way: Way::Sends,
            time: 5.0,
            shares,
            min_rtt: Some(20_000),
            segments: 10_000,
            ..Span::default()
        }
    }

    #[test]
    fn the_largest_share_decides_and_the_evidence_tells_causes_apart() {
        let network = Shares { network: 0.9, application: 0.1, ..Shares::default() };
        let receiver = Shares { receiver: 0.8, network: 0.2, ..Shares::default() };
        for (what, span, expected) in [
            (
                "a slow writer",
                sends(Shares { application: 0.9, network: 0.1, ..Shares::default() }),
                Verdict::Application,
            ),
            (
                "a small send buffer",
                sends(Shares { sndbuf: 0.7, network: 0.3, ..Shares::default() }),
                Verdict::SendBuffer,
            ),
            ("a window that stays open", sends(receiver), Verdict::PeerBuffer),
            ("a window that closes", Span { shut: 0.6, ..sends(receiver) }, Verdict::PeerReads),
            ("loss", Span { retransmitted: 100, queueing: 1_000.0, ..sends(network) }, Verdict::Loss),
            (
                "a full queue",
                Span { retransmitted: 100, queueing: 60_000.0, ..sends(network) },
                Verdict::PathQueue,
            ),
            (
                "loss, and round trips that vary",
                Span { retransmitted: 350, queueing: 6_000.0, ..sends(network) },
                Verdict::Loss,
            ),
            (
                "a queue that does not overflow",
                Span { queueing: 6_000.0, ..sends(network) },
                Verdict::PathQueue,
            ),
            ("neither", sends(network), Verdict::Path),
            (
                "loss and its repair together",
                Span {
                    retransmitted: 500,
                    ..sends(Shares {
                        network: 0.2,
                        recovery: 0.2,
                        timeout: 0.2,
                        application: 0.4,
                        ..Shares::default()
                    })
                },
                Verdict::Loss,
            ),
            (
                "a queue here",
                sends(Shares { queue: 0.9, network: 0.1, ..Shares::default() }),
                Verdict::LocalQueue,
            ),
            (
                "a rate that was asked for",
                Span { paced: Some(1_000_000), ..sends(Shares { queue: 0.9, ..Shares::default() }) },
                Verdict::Paced,
            ),
        ] {
            assert_eq!(Verdict::of(&span), expected, "{what}");
        }
    }

    #[test]
    fn who_receives_knows_whether_it_is_this_end() {
        let receives = Span {
            way: Way::Receives,
            time: 5.0,
            received: 5_000_000,
            rcv_rtt: Some(50_000),
            window: 55_000,
            ..Span::default()
        };
        for (what, span, expected) in [
            ("unread data", Span { unread_share: 0.9, ..receives.clone() }, Verdict::Reads),
            ("a window's worth in each round trip", receives.clone(), Verdict::ReceiveBuffer),
            ("a window with room", Span { window: 200_000, ..receives.clone() }, Verdict::Remote),
            ("nothing", Span::default(), Verdict::Idle),
        ] {
            assert_eq!(Verdict::of(&span), expected, "{what}");
        }
    }
}
