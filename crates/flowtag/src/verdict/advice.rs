//! One line on what to do.

use super::{Span, Verdict};

/// What would help, with the numbers and the knob.
pub(crate) fn advice(verdict: Verdict, span: &Span) -> String {
    match verdict {
        Verdict::Idle => "no data moved".to_owned(),
        Verdict::Application => {
            "the process has nothing to send most of the time: look at its disk, CPU or protocol, not at the \
                                 network"
                .to_owned()
        }
        Verdict::PeerReads => format!(
            "the process at the other end does not read in time: its window was shut {:.0}% of the time; look at its disk or CPU",
            span.shut * 100.0
        ),
        Verdict::PeerBuffer => peer_buffer(span),
        Verdict::SendBuffer => send_buffer(span),
        Verdict::Loss => loss(span),
        Verdict::PathQueue => path_queue(span),
        Verdict::Path => format!(
            "neither loss nor queueing: this is what congestion control (window {} segments) takes the path for; after a start it \
             grows for a while: look longer (-d 30)",
            span.cwnd
        ),
        Verdict::LocalQueue => {
            "data waits in this host before the wire: see `tc -s qdisc`, and the speed of the interface"
                .to_owned()
        }
        Verdict::Paced => format!(
            "the application limits itself to {}bit/s (SO_MAX_PACING_RATE)",
            scaled(span.paced.unwrap_or(0) as f64 * 8.0)
        ),
        Verdict::Reads => format!(
            "the process here does not read in time ({}B wait): look at its disk or CPU, not at the network",
            scaled(span.unread.max(span.unread_max).into())
        ),
        Verdict::ReceiveBuffer => receive_buffer(span),
        Verdict::Remote => {
            "this end does not limit it: look at the other end, `flowtag why` there".to_owned()
        }
    }
}

/// What a window allows on this path, in bits per second.
fn ceiling(window: u32, rtt: Option<u32>) -> String {
    let Some(rtt) = rtt else { return String::new() };
    let rate = f64::from(window) * 8e6 / f64::from(rtt);
    format!(", at most {}bit/s over {}", scaled(rate), millis(rtt.into()))
}

fn peer_buffer(span: &Span) -> String {
    format!(
        "the other end's window is {}B{}: raise net.ipv4.tcp_rmem (max) there, or have its application not set SO_RCVBUF",
        scaled(span.peer_window_max.into()),
        ceiling(span.peer_window_max, span.min_rtt)
    )
}

fn send_buffer(span: &Span) -> String {
    let size = scaled(span.sndbuf.into());
    if span.sndbuf_fixed {
        return format!(
            "the application set SO_SNDBUF ({size}B): have it leave that to the kernel, or ask for more"
        );
    }
    format!("the send buffer is {size}B: raise net.ipv4.tcp_wmem (max)")
}

fn receive_buffer(span: &Span) -> String {
    let what =
        format!("the window here is {}B{}", scaled(span.window.into()), ceiling(span.window, span.rcv_rtt));
    if span.rcvbuf_fixed {
        return format!(
            "{what}: the application set SO_RCVBUF; have it leave that to the kernel, or ask for more"
        );
    }
    format!("{what}: raise net.ipv4.tcp_rmem (max)")
}

fn loss(span: &Span) -> String {
    let percent = span.retransmission() * 100.0;
    if span.shares.timeout > span.shares.recovery + span.shares.network {
        return format!(
            "{percent:.1}% sent again, and most of the time nothing came back: look for an outage, a filter or an MTU on the path"
        );
    }
    format!(
        "{percent:.1}% sent again while round trips stay short: look for a bad link or port (`ethtool -S`, `flowtag drops` here \
         and on the path), not for a lack of bandwidth"
    )
}

fn path_queue(span: &Span) -> String {
    let least = f64::from(span.min_rtt.unwrap_or(0));
    format!(
        "round trips take {} where {} would do: the slowest link of the path, or a shaper, is full at {}bit/s",
        millis(least + span.queueing),
        millis(least),
        scaled(span.tx_rate() * 8.0)
    )
}

/// Of µs.
fn millis(micros: f64) -> String {
    if micros < 950.0 {
        return format!("{micros:.0} µs");
    }
    if micros < 9_950.0 { format!("{:.1} ms", micros / 1e3) } else { format!("{:.0} ms", micros / 1e3) }
}

/// Three digits at most and a prefix of SI, for a unit to follow.
fn scaled(number: f64) -> String {
    let mut rest = number;
    for prefix in ["", "k", "M", "G"] {
        if rest < 999.5 {
            let digits = if rest < 9.95 && !prefix.is_empty() { 1 } else { 0 };
            return format!("{rest:.digits$} {prefix}");
        }
        rest /= 1000.0;
    }
    format!("{rest:.1} T")
}

#[cfg(test)]
mod tests {
    use super::super::Shares;
    use super::*;

    #[test]
    fn advice_names_the_knob() {
        let span = Span {
            time: 1.0,
            sent: 1_250_000,
            min_rtt: Some(20_000),
            queueing: 60_000.0,
            peer_window_max: 65_536,
            sndbuf: 32_768,
            segments: 100,
            retransmitted: 2,
            shares: Shares { network: 1.0, ..Shares::default() },
            ..Span::default()
        };
        for (verdict, span, part) in [
            (
                Verdict::PeerBuffer,
                span.clone(),
                "66 kB, at most 26 Mbit/s over 20 ms: raise net.ipv4.tcp_rmem",
            ),
            (Verdict::SendBuffer, span.clone(), "33 kB: raise net.ipv4.tcp_wmem (max)"),
            (Verdict::SendBuffer, Span { sndbuf_fixed: true, ..span.clone() }, "set SO_SNDBUF (33 kB)"),
            (Verdict::PathQueue, span.clone(), "round trips take 80 ms where 20 ms would do"),
            (Verdict::PathQueue, span.clone(), "full at 10 Mbit/s"),
            (Verdict::Loss, span.clone(), "2.0% sent again"),
        ] {
            let text = advice(verdict, &span);
            assert!(text.contains(part), "{text:?} has {part:?}");
        }
    }
}
