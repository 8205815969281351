//! What is attached to an interface by `tc`: asked of the kernel before we touch a qdisc that others may use, and
//! shown by `flowtag doctor`. Reads only.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption};

use crate::{Error, Result, netlink};

/// Parents of a clsact qdisc's filters: `TC_H_CLSACT` with `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS`.
const CLSACT_MAJOR: u16 = 0xffff;
const MIN_INGRESS: u16 = 0xfff2;
const MIN_EGRESS: u16 = 0xfff3;

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the interface into the host.
    Ingress,
    /// From the host into the interface.
    Egress,
}

/// A filter on a clsact qdisc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Which of the two hooks.
    pub direction: Direction,
    /// Lower runs first.
    pub priority: u16,
    /// Identifier within the priority.
    pub handle: u32,
    /// `bpf`, `flower`, `u32`, …
    pub kind: String,
    /// Name of the eBPF program, for kind `bpf`.
    pub name: Option<String>,
}

/// Whether the interface has a clsact qdisc.
///
/// # Errors
/// [`Error::Query`] where netlink does not answer.
pub fn has_clsact(ifindex: u32) -> Result<bool> {
    let all = dump(RouteNetlinkMessage::GetQueueDiscipline(request(ifindex, TcHandle::UNSPEC)));
    Ok(all.map_err(query)?.iter().any(|m| is_of(m, ifindex) && kind(m) == Some("clsact")))
}

/// All filters on the interface's clsact qdisc, in the order in which they run, ingress first.
///
/// # Errors
/// [`Error::Query`] where netlink does not answer.
pub fn filters(ifindex: u32) -> Result<Vec<Filter>> {
    let mut found = Vec::new();
    for (direction, minor) in [(Direction::Ingress, MIN_INGRESS), (Direction::Egress, MIN_EGRESS)] {
        let parent = TcHandle { major: CLSACT_MAJOR, minor };
        let messages = match dump(RouteNetlinkMessage::GetTrafficFilter(request(ifindex, parent))) {
            Ok(messages) => messages,
            // Kernels differ in whether an interface without the qdisc is an error or an empty answer; one that is
            // gone has no filters either.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)) => {
                continue;
            }
            Err(e) => return Err(query(e)),
        };
        found.extend(messages.iter().filter_map(|m| filter(m, direction)));
    }
    Ok(found)
}

fn dump(message: RouteNetlinkMessage) -> io::Result<Vec<TcMessage>> {
    let tc = |m| match m {
        RouteNetlinkMessage::NewTrafficFilter(m) | RouteNetlinkMessage::NewQueueDiscipline(m) => Some(m),
        _ => None,
    };
    Ok(netlink::dump(message)?.into_iter().filter_map(tc).collect())
}

fn query(source: io::Error) -> Error {
    Error::Query { what: "the tc filters of an interface", source }
}

fn request(ifindex: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = TcHeader { index: ifindex.cast_signed(), parent, ..TcHeader::default() };
    message
}

fn is_of(message: &TcMessage, ifindex: u32) -> bool {
    message.header.index == ifindex.cast_signed()
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|a| match a {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

/// A dump has one message for each priority (handle 0) and one for each filter in it.
fn filter(message: &TcMessage, direction: Direction) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    (handle != 0).then_some(())?;
    Some(Filter {
        direction,
        // linux/pkt_sched.h: tcm_info is priority in the upper half, EtherType in the lower.
        priority: (message.header.info >> 16) as u16,
        handle,
        kind: kind(message)?.to_owned(),
        name: bpf_name(message),
    })
}

fn bpf_name(message: &TcMessage) -> Option<String> {
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    })
}
