//! `flowtag decode`, run as users run it, on captures that other people's libraries wrote.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use etherparse::{
    EtherType, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpHeader, UdpHeader,
};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::{DataLink, TsResolution};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::daemon::binary;

const SRC: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// cms/Analysis Input without entropy.
const CMS: u32 = 0x30038;
/// A label that nobody registered: 256/58.
const RANDOM: u32 = 0x002e8;

/// TCP from 1094 to `port` with five bytes of data.
fn tcp(port: u16) -> Vec<u8> {
    let header = TcpHeader { syn: true, ..TcpHeader::new(1094, port, 7, 512) };
    let ip = Ipv6Header { source: SRC, destination: DST, ..Default::default() };
    let checksum = header.calc_checksum_ipv6(&ip, b"hello").unwrap();
    [&TcpHeader { checksum, ..header }.to_bytes()[..], b"hello"].concat()
}

fn ipv6(label: u32, next: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 46 << 2 | 1,
        flow_label: Ipv6FlowLabel::try_new(label).unwrap(),
        payload_length: payload.len().try_into().unwrap(),
        next_header: IpNumber(next),
        hop_limit: 64,
        source: SRC,
        destination: DST,
    };
    [&header.to_bytes()[..], payload].concat()
}

fn ethernet(tags: &[(u16, u16)], ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (ethertype, vlan) in tags {
        frame.extend(ethertype.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ethertype.0.to_be_bytes());
    frame.extend(payload);
    frame
}

fn labelled(label: u32, port: u16) -> Vec<u8> {
    ethernet(&[], EtherType::IPV6, &ipv6(label, 6, &tcp(port)))
}

fn udp4() -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([0; 6], [1; 6]).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(5000, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"query").unwrap();
    frame
}

fn icmpv6() -> Vec<u8> {
    let builder = PacketBuilder::ipv6(SRC, DST, 64).icmpv6_echo_request(1, 1);
    let mut packet = Vec::new();
    builder.write(&mut packet, b"ping").unwrap();
    packet[1..4].copy_from_slice(&CMS.to_be_bytes()[1..]);
    ethernet(&[], EtherType::IPV6, &packet)
}

fn arp() -> Vec<u8> {
    ethernet(&[], EtherType::ARP, &[0; 28])
}

/// Destination options with the tag 2/19, as flowd writes them.
fn options(kind: u8, option: [u8; 8], label: u32) -> Vec<u8> {
    ethernet(&[], EtherType::IPV6, &ipv6(label, kind, &[&option[..], &tcp(40000)].concat()))
}

/// One packet each 100 ms from 2026-01-01T00:00:00Z.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let header = PcapHeader { ts_resolution: TsResolution::MicroSecond, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (frame, i) in frames.iter().zip(0..) {
        let time = Duration::from_secs(1_767_225_600) + Duration::from_millis(100) * i;
        writer.write_packet(&PcapPacket::new(time, frame.len().try_into().unwrap(), frame)).unwrap();
    }
    writer.into_writer()
}

/// A run of `flowtag decode` on a file with these bytes.
struct Run {
    _dir: TempDir,
    file: PathBuf,
    output: Output,
}

impl Run {
    #[track_caller]
    fn new(bytes: &[u8], args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("capture");
        std::fs::write(&file, bytes).unwrap();
        let output = Command::new(binary()).arg("decode").args(args).arg(&file).output().unwrap();
        Self { _dir: dir, file, output }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.output.stdout).unwrap()
    }

    /// Standard error with the file as `FILE`.
    fn error(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).replace(self.file.to_str().unwrap(), "FILE")
    }

    #[track_caller]
    fn ok(self) -> Self {
        assert!(self.output.status.success(), "{}", self.error());
        assert_eq!(self.error(), "");
        self
    }

    #[track_caller]
    fn failed(self) -> Self {
        assert_eq!(self.output.status.code(), Some(1), "{}", self.text());
        self
    }

    fn objects(&self, kind: &str) -> Vec<Value> {
        let all = self.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|object| object["kind"] == kind).collect()
    }
}

#[track_caller]
fn text(frames: &[Vec<u8>], args: &[&str]) -> String {
    Run::new(&pcap(frames), args).ok().text().to_owned()
}

#[track_caller]
fn objects(frames: &[Vec<u8>], args: &[&str], kind: &str) -> Vec<Value> {
    Run::new(&pcap(frames), &[&["--json"], args].concat()).ok().objects(kind)
}

fn mixture() -> Vec<Vec<u8>> {
    vec![
        labelled(CMS, 40000),
        labelled(CMS | 0x101, 40000),
        labelled(RANDOM, 40001),
        options(60, [6, 0, 0x1e, 3, 0, 2, 19, 0], 0),
        udp4(),
        icmpv6(),
        arp(),
    ]
}

#[test]
fn tables_of_a_small_capture() {
    let expected = "\
Seconds count from the first packet, 2026-01-01T00:00:00Z.

FLOW, THEN WHAT ITS PACKETS SAY                   PACKETS       BYTES REGISTERED
tcp [2001:db8::1]:1094 > [2001:db8::2]:40000
    0.000..0.300 s, label changed (entropy)             3         245
    label 0x30038  cms/Analysis Input                   1          79 yes
    label 0x30139  cms/Analysis Input                   1          79 yes
    label 0x00000  not set                              1          87
    destination    atlas/Staging                        1          87 yes
tcp [2001:db8::1]:1094 > [2001:db8::2]:40001
    0.200..0.200 s, label stable                        1          79
    label 0x002e8  256/58                               1          79 no
icmpv6 2001:db8::1 > 2001:db8::2
    0.500..0.500 s, label stable                        1          66
    label 0x30038  cms/Analysis Input                   1          66 yes
udp 192.0.2.1:5000 > 192.0.2.2:53
    0.400..0.400 s, no label (IPv4)                     1          47

TAG                          PACKETS        BYTES  SHARE  FLOWS REGISTERED FROM
cms/Analysis Input                 3          224  46.8%      2 yes        label
atlas/Staging                      1           87  18.2%      1 yes        destination
256/58                             1           79  16.5%      1 no         label
A label is only evidence: of random labels, which Linux sends by default,
98% read as some tag and 1 in 287 as a registered one.

packets 7, not IP 1, unreadable 0
";
    assert_eq!(text(&mixture(), &[]), expected);
}

#[test]
fn lines_of_a_small_capture() {
    let mut frames = mixture();
    frames.push(ethernet(&[(0x88a8, 100), (0x8100, 200)], EtherType::IPV6, &ipv6(CMS, 6, &tcp(40000))));
    frames.push(options(0, [6, 0, 0x1e, 3, 2, 0, 64, 0], CMS));
    let mut damaged = labelled(CMS, 40000);
    *damaged.last_mut().unwrap() ^= 1;
    frames.push(damaged);
    frames.push(labelled(CMS, 40000)[..60].to_vec());
    let expected = "\
SECONDS PROTO SOURCE > DESTINATION FLAGS LEN DSCP/ECN LABEL CHECKSUM TAG (FROM)
0.000000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40000 SYN 79 46/1 0x30038 ok cms/Analysis Input (label)
0.100000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40000 SYN 79 46/1 0x30139 ok cms/Analysis Input (label)
0.200000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40001 SYN 79 46/1 0x002e8 ok 256/58 (label, not registered)
0.300000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40000 SYN 87 46/1 0x00000 ok atlas/Staging (destination)
0.400000 udp 192.0.2.1:5000 > 192.0.2.2:53 - 47 0/0 - ok -
0.500000 icmpv6 2001:db8::1 > 2001:db8::2 - 66 0/0 0x30038 ok cms/Analysis Input (label)
0.600000 packet 7 not IP: the EtherType 0x0806 at offset 12 is not IP behind at most two VLAN tags
0.700000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40000 SYN 87 46/1 0x30038 ok cms/Analysis Input (label) vlan 100.200
0.800000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40000 SYN 87 46/1 0x30038 ok cms/Analysis Input (label), 512/64, out of range (hop-by-hop)
0.900000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40000 SYN 79 46/1 0x30038 BAD cms/Analysis Input (label)
1.000000 tcp [2001:db8::1]:1094 > [2001:db8::2]:40000 - 60 46/1 0x30038 - cms/Analysis Input (label) (partly read: the TCP header at offset 54 has 6 of 20 bytes: capture more bytes of each packet)

read in part only: 1 (--packets says why)
packets 11, not IP 1, unreadable 0
";
    assert_eq!(text(&frames, &["--packets"]), expected);
}

#[test]
fn tags_are_found_behind_vlans() {
    let ip = ipv6(CMS, 6, &tcp(40000));
    for tags in [&[(0x8100, 100)][..], &[(0x88a8, 100), (0x8100, 200)], &[(0x9100, 1), (0x8100, 2)]] {
        let frames = [ethernet(tags, EtherType::IPV6, &ip)];
        let tag = objects(&frames, &[], "tag").remove(0);
        assert_eq!(
            (&tag["experiment_name"], &tag["activity_name"]),
            (&json!("cms"), &json!("Analysis Input"))
        );
        let packet = objects(&frames, &["--packets"], "packet").remove(0);
        let vlans: Vec<_> = tags.iter().map(|(_, vlan)| *vlan).collect();
        assert_eq!(packet["vlans"], json!(vlans));
    }
}

#[test]
fn both_options_headers_and_the_label_count_a_packet_once() {
    let both = [&[60, 0, 0x1e, 3, 0, 3, 14, 0][..], &[6, 0, 0x1e, 3, 0, 3, 14, 0], &tcp(40000)].concat();
    let frames = [ethernet(&[], EtherType::IPV6, &ipv6(CMS, 0, &both))];
    let tag = objects(&frames, &[], "tag").remove(0);
    assert_eq!(tag["from"], json!(["label", "hop_by_hop", "destination"]));
    assert_eq!((&tag["packets"], &tag["flows"], &tag["bytes_share"]), (&json!(1), &json!(1), &json!(1.0)));
    assert!(text(&frames, &[]).contains("label,hop-by-hop,destination\n"));
}

#[test]
fn json_has_all_fields_and_ends_with_the_summary() {
    let run = Run::new(&pcap(&mixture()), &["--json"]).ok();
    let kinds = ["flow", "flow", "flow", "flow", "tag", "tag", "tag", "summary"];
    let all: Vec<Value> = run.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(all.iter().map(|object| object["kind"].as_str().unwrap()).collect::<Vec<_>>(), kinds);
    let cms = json!({ "experiment": 3, "activity": 14, "experiment_name": "cms",
        "activity_name": "Analysis Input", "registered": true });
    let label = |label: &str| json!({ "from": "label", "flow_label": label, "tag": cms, "out_of_range": null, "packets": 1, "bytes": 79 });
    let flow = &all[0];
    assert_eq!(flow["evidence"][0], label("0x30038"));
    assert_eq!(flow["evidence"][1], label("0x30139"));
    let expected = json!({
        "protocol": "tcp", "protocol_number": 6, "src": "2001:db8::1", "src_port": 1094, "dst": "2001:db8::2",
        "dst_port": 40000, "packets": 3, "bytes": 245, "first_seen": "2026-01-01T00:00:00Z",
        "last_seen": "2026-01-01T00:00:00.3Z", "label_changes": 2, "entropy_stable": false,
        "label_tag_stable": true, "evidence_not_kept": 0,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&flow[key], value, "{key}");
    }
    assert_eq!(
        all[7],
        json!({
            "kind": "summary", "packets": 7, "bytes": 479, "not_ip": 1, "unreadable": 0, "partly_read": 0,
            "first_seen": "2026-01-01T00:00:00Z", "last_seen": "2026-01-01T00:00:00.6Z", "flows": 4,
            "packets_beyond_max_flows": 0, "bytes_beyond_max_flows": 0, "evidence_not_kept": 0,
            "first_unreadable": null, "error": null,
        })
    );
}

#[test]
fn the_label_over_the_life_of_a_flow_is_told() {
    for (labels, expected) in [
        (&[0, 0][..], "label not set"),
        (&[CMS, CMS], "label stable"),
        (&[0, CMS, CMS], "label in some packets"),
        (&[CMS, CMS | 1], "label changed (entropy)"),
        (&[CMS, 0x10024], "label changed (tag)"),
        (&[CMS, 0x10025], "label changed (tag, entropy)"),
    ] {
        let frames: Vec<_> = labels.iter().map(|label| labelled(*label, 40000)).collect();
        let text = text(&frames, &[]);
        assert!(text.contains(&format!(" s, {expected}  ")), "{labels:x?}: {text}");
    }
}

#[test]
fn a_new_label_in_each_packet_takes_no_more_memory() {
    let frames: Vec<_> = (0..100).map(|i| labelled(CMS + (i << 9), 40000)).collect();
    let flow = objects(&frames, &[], "flow").remove(0);
    assert_eq!(flow["evidence"].as_array().unwrap().len(), 16);
    assert_eq!((&flow["evidence_not_kept"], &flow["label_changes"]), (&json!(84), &json!(99)));
    assert_eq!(objects(&frames, &[], "tag").iter().map(|t| t["packets"].as_u64().unwrap()).sum::<u64>(), 100);
    let more = format!("{:49} {:>7}\n", "    more than 16 labels and options", 84);
    assert!(text(&frames, &[]).contains(&more));
}

#[test]
fn flows_beyond_the_limit_are_counted() {
    let frames: Vec<_> = (0..10).map(|i| labelled(CMS, 40000 + i)).collect();
    let run = Run::new(&pcap(&frames), &["--json", "--max-flows", "4"]).ok();
    let summary = run.objects("summary").remove(0);
    assert_eq!((&summary["flows"], &summary["packets_beyond_max_flows"]), (&json!(4), &json!(6)));
    assert_eq!(summary["bytes_beyond_max_flows"], 6 * 79);
    assert_eq!(run.objects("tag")[0]["packets"], 10);
    let text = text(&frames, &["--max-flows", "4", "--limit", "1"]);
    assert!(text.contains("\n3 more flows are not shown (--limit 4 shows all)\n"), "{text}");
    assert!(text.contains("\n6 packets, 474 bytes: flows beyond the first 4 (--max-flows)\n"), "{text}");
}

#[test]
fn filters_choose_flows_tags_and_packets() {
    let frames = mixture();
    let registered = text(&frames, &["--registered"]);
    assert!(!registered.contains("256/58") && !registered.contains("40001"), "{registered}");
    assert!(!registered.contains("192.0.2.1"));
    let flows = objects(&frames, &["--tag", "ATLAS/staging"], "flow");
    assert_eq!(flows.len(), 1);
    assert_eq!(objects(&frames, &["--tag", "2/19"], "tag").len(), 1);
    let packets = objects(&frames, &["--packets", "--tag", "3/14"], "packet");
    assert_eq!(packets.iter().map(|p| p["number"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 6]);
    // Both together: a tag without a name is never registered.
    let none = text(&frames, &["--registered", "--tag", "256/58"]);
    assert!(none.contains("\nno flows\n") && none.contains("\nno tags\n"));
    assert!(none.ends_with("\n\npackets 7, not IP 1, unreadable 0\n"));
    let unknown = Run::new(&pcap(&frames), &["--tag", "cms/Nothing"]).failed();
    assert!(unknown.error().contains("is not in the registry"));
}

#[test]
fn two_interfaces_of_a_pcapng_file() {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    for linktype in [DataLink::ETHERNET, DataLink::RAW] {
        writer
            .write_pcapng_block(InterfaceDescriptionBlock { linktype, snaplen: 0, options: vec![] })
            .unwrap();
    }
    let frames = [labelled(CMS, 40000), ipv6(CMS, 6, &tcp(40000))];
    for (interface_id, data) in (0..).zip(&frames) {
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_secs(1),
            original_len: data.len().try_into().unwrap(),
            data: data.into(),
            options: vec![],
        };
        writer.write_pcapng_block(block).unwrap();
    }
    let run = Run::new(&writer.into_inner(), &["--json"]).ok();
    let [flow] = &run.objects("flow")[..] else { panic!("{}", run.text()) };
    assert_eq!((&flow["packets"], &flow["bytes"]), (&json!(2), &json!(79 + 65)));
}

#[test]
fn standard_input_is_read() {
    let mut child = Command::new(binary())
        .args(["--json", "decode", "--packets", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&pcap(&[labelled(CMS, 40000)])).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let packet: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let expected = json!({
        "kind": "packet", "number": 1, "timestamp": "2026-01-01T00:00:00Z", "protocol": "tcp",
        "protocol_number": 6, "src": "2001:db8::1", "src_port": 1094, "dst": "2001:db8::2", "dst_port": 40000,
        "vlans": [], "tcp_flags": "SYN", "bytes": 79, "payload_bytes": 5, "dscp": 46, "ecn": 1,
        "flow_label": "0x30038", "checksum_ok": true, "partly_read": null,
        "evidence": [{ "from": "label", "flow_label": "0x30038", "out_of_range": null, "tag": {
            "experiment": 3, "activity": 14, "experiment_name": "cms", "activity_name": "Analysis Input",
            "registered": true } }],
    });
    assert_eq!(packet, expected);
}

#[test]
fn a_truncated_file_gives_what_came_before() {
    let whole = pcap(&[labelled(CMS, 40000), labelled(CMS, 40000)]);
    let cut = &whole[..whole.len() - 1];
    let run = Run::new(cut, &[]).failed();
    assert!(run.text().ends_with("\npackets 1, not IP 0, unreadable 0\n"), "{}", run.text());
    assert_eq!(
        run.error(),
        "flowtag: cannot decode all of FILE\n  because: the file ends within packet 2: the capture was cut off, \
         all packets before it are whole\n"
    );
    let run = Run::new(cut, &["--json", "--packets"]).failed();
    assert_eq!(run.objects("packet").len(), 1);
    let summary = run.objects("summary").remove(0);
    assert!(summary["error"].as_str().unwrap().starts_with("the file ends within packet 2"));
    assert_eq!(summary["flows"], Value::Null);
}

#[test]
fn every_cut_of_a_file_ends_in_an_answer() {
    let whole = pcap(&mixture());
    for len in (0..whole.len()).step_by(13) {
        let run = Run::new(&whole[..len], &["--packets"]);
        let code = run.output.status.code();
        assert!(matches!(code, Some(0 | 1)), "{len} bytes: {code:?} {}", run.error());
    }
}

#[test]
fn what_is_no_capture_is_an_error() {
    let empty = Run::new(b"", &[]).failed();
    assert!(
        empty.error().contains("cannot decode FILE\n  because: the file ends within its header: it is empty")
    );
    let garbage = Run::new(b"#!/bin/sh\necho hello\n", &[]).failed();
    assert!(garbage.error().contains("which is neither pcap nor pcapng"), "{}", garbage.error());
    let gzip = Run::new(b"\x1f\x8b\x08\x08rest", &[]).failed();
    assert!(gzip.error().contains("because: the file is compressed: zcat FILE | flowtag decode -"));
    let folder = Command::new(binary()).args(["decode", "/"]).output().unwrap();
    assert_eq!(folder.status.code(), Some(1));
    let missing = Command::new(binary()).args(["decode", "/nonexistent"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&missing.stderr)
            .contains("cannot open /nonexistent\n  because: No such file")
    );
}

#[test]
fn a_header_without_packets_is_an_empty_capture() {
    let text = text(&[], &[]);
    assert!(text.contains("no flows\n") && text.ends_with("\npackets 0, not IP 0, unreadable 0\n"), "{text}");
}

#[test]
fn unreadable_packets_are_counted_and_fatal_only_if_there_are_no_others() {
    let short = labelled(CMS, 40000)[..30].to_vec();
    let some = text(&[labelled(CMS, 40000), short.clone()], &[]);
    assert!(
        some.contains("\nfirst unreadable: packet 2: the IPv6 header at offset 14 has 16 of 40 bytes"),
        "{some}"
    );
    assert!(some.ends_with("\npackets 2, not IP 0, unreadable 1\n"), "{some}");
    let all = Run::new(&pcap(&[short]), &[]).failed();
    assert!(all.error().contains("no packet can be read, the first is packet 1\n  because: the IPv6 header"));
}

#[test]
fn fragments_and_udp_are_flows_too() {
    let udp = UdpHeader::without_ipv4_checksum(5000, 6000, 5).unwrap().to_bytes();
    let first = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &udp, b"hello"].concat();
    let later = [&[17, 0, 0, 0x10, 0, 0, 0, 9][..], b"world"].concat();
    let frames = [first, later].map(|p| ethernet(&[], EtherType::IPV6, &ipv6(CMS, 44, &p)));
    let flows = objects(&frames, &[], "flow");
    assert_eq!(flows.len(), 2);
    assert_eq!((&flows[0]["src_port"], &flows[1]["src_port"]), (&json!(5000), &Value::Null));
    assert!(text(&frames, &[]).contains("\nudp 2001:db8::1 > 2001:db8::2\n"));
}

#[test]
fn nothing_is_wider_than_a_terminal() {
    let frames = [labelled(CMS, 40000), labelled(RANDOM, 40001), udp4()];
    let ipv4 = Ipv4Header::new(0, 1, IpNumber(89), [192, 0, 2, 1], [224, 0, 0, 5]).unwrap();
    let ospf = ethernet(&[], EtherType::IPV4, &ipv4.to_bytes());
    let text = text(&[&frames[..], &[ospf]].concat(), &[]);
    assert!(text.contains("\nprotocol-89 192.0.2.1 > 224.0.0.5\n"));
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
