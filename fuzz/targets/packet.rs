//! Views of a packet lie within its frame, agree with each other, and survive cutting the frame. The first
//! byte chooses the link type.

use flowtag_wire::packet::MAX_OPTION_TAGS;
use flowtag_wire::{LinkType, Packet, PacketError};

const LINKS: [LinkType; 4] = [LinkType::Ethernet, LinkType::Ip, LinkType::LinuxSll, LinkType::LinuxSll2];

pub(crate) fn run(data: &[u8]) {
    let Some((link, frame)) = data.split_first() else { return };
    let link = LINKS[usize::from(*link) % LINKS.len()];
    match Packet::parse(link, frame) {
        Ok(packet) => check(link, frame, &packet),
        Err(error) => check_error(&error, frame),
    }
}

fn check(link: LinkType, frame: &[u8], packet: &Packet<'_>) {
    assert!(packet.payload_offset + packet.payload.len() <= frame.len());
    if !packet.payload.is_empty() {
        assert_eq!(packet.payload, &frame[packet.payload_offset..][..packet.payload.len()]);
    }
    assert!(packet.payload_len.is_none_or(|len| len >= packet.payload.len()));
    assert!(packet.dscp < 64 && packet.ecn < 4 && packet.option_tags.len() <= MAX_OPTION_TAGS);
    assert_eq!(packet.src.is_ipv4(), packet.dst.is_ipv4());
    assert_eq!(packet.flow_label.is_some(), packet.ip_version() == 6);
    assert!(packet.tcp.is_none() || packet.ports.is_some());
    if let (Some(flow), Some(ports)) = (packet.flow(), packet.ports) {
        assert_eq!((flow.src().port(), flow.dst().port()), (ports.src, ports.dst));
    }
    if let Some(error) = &packet.stopped {
        check_error(error, frame);
        assert_eq!(packet.checksum_ok(), None);
    }
    check_cut(link, frame, packet);
}

/// The last captured byte of the payload gone: everything before it stays as it was.
fn check_cut(link: LinkType, frame: &[u8], packet: &Packet<'_>) {
    if packet.payload.is_empty() || packet.payload_len.is_none() {
        return;
    }
    let end = packet.payload_offset + packet.payload.len() - 1;
    let cut = Packet::parse(link, &frame[..end]).expect("the headers are still there");
    assert_eq!(
        (cut.ports, cut.tcp, cut.fragment, cut.protocol),
        (packet.ports, packet.tcp, packet.fragment, packet.protocol)
    );
    assert_eq!((cut.payload_len, cut.payload.len()), (packet.payload_len, packet.payload.len() - 1));
    assert_eq!((&cut.option_tags, cut.checksum_ok()), (&packet.option_tags, None));
}

fn check_error(error: &PacketError, frame: &[u8]) {
    match error {
        PacketError::Truncated { offset, need, have, .. } => {
            assert!(need > have && offset + have <= frame.len())
        }
        PacketError::NotIp { offset, .. }
        | PacketError::Malformed { offset, .. }
        | PacketError::Options { offset, .. } => {
            assert!(*offset < frame.len());
        }
        PacketError::LinkType(_) => panic!("the link type is known"),
    }
}
