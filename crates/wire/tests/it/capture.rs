//! Capture files of both formats, written by another implementation or by hand, whole and damaged.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use std::borrow::Cow;
use std::io::{self, Read};
use std::time::Duration;

use flowtag_wire::capture::{MAX_FRAME, MAX_INTERFACES};
use flowtag_wire::{Capture, CaptureError};
use jiff::Timestamp;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, Endianness, TsResolution};
use proptest::prelude::*;

/// Number, nanoseconds since 1970, link type, original length, bytes.
type Row = (u64, Option<i128>, u32, u32, Vec<u8>);

fn read_all(file: &[u8]) -> (Vec<Row>, Option<CaptureError>) {
    let mut rows = Vec::new();
    let mut capture = match Capture::new(file) {
        Ok(capture) => capture,
        Err(error) => return (rows, Some(error)),
    };
    loop {
        match capture.next_record() {
            Ok(None) => return (rows, None),
            Ok(Some(r)) => {
                let time = r.timestamp.map(Timestamp::as_nanosecond);
                rows.push((r.number, time, r.link_type, r.original_len, r.bytes.to_vec()));
            }
            Err(error) => {
                assert!(capture.next_record().unwrap().is_none(), "after an error the file has ended");
                return (rows, Some(error));
            }
        }
    }
}

#[track_caller]
fn whole(file: &[u8]) -> Vec<Row> {
    let (rows, error) = read_all(file);
    assert!(error.is_none(), "{error:?}");
    rows
}

fn pcap(endianness: Endianness, ts_resolution: TsResolution) -> Vec<u8> {
    let datalink = DataLink::LINUX_SLL2;
    let header = PcapHeader { endianness, ts_resolution, datalink, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (nanos, original_len, data) in [(1_000_002_000, 3, &b"abc"[..]), (2_000_000_000, 1500, b"de")] {
        writer.write_packet(&PcapPacket::new(Duration::from_nanos(nanos), original_len, data)).unwrap();
    }
    writer.into_writer()
}

#[test]
fn pcap_of_either_byte_order_and_resolution() {
    let expected = vec![
        (1, Some(1_000_002_000), 276, 3, b"abc".to_vec()),
        (2, Some(2_000_000_000), 276, 1500, b"de".to_vec()),
    ];
    for endianness in [Endianness::Big, Endianness::Little] {
        for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
            assert_eq!(whole(&pcap(endianness, resolution)), expected, "{endianness:?} {resolution:?}");
        }
    }
}

fn pcapng(endianness: Endianness) -> Vec<u8> {
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).unwrap();
    let nanoseconds = vec![
        InterfaceDescriptionOption::IfName(Cow::Borrowed("eth0")),
        InterfaceDescriptionOption::IfTsResol(9),
    ];
    for (linktype, options) in [(DataLink::ETHERNET, nanoseconds), (DataLink::RAW, vec![])] {
        writer.write_pcapng_block(InterfaceDescriptionBlock { linktype, snaplen: 0, options }).unwrap();
    }
    for interface_id in [0, 1] {
        let packet = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(5_000_000_000_000_001),
            original_len: 9000,
            data: Cow::Borrowed(b"abcde"),
            options: vec![],
        };
        writer.write_pcapng_block(packet).unwrap();
    }
    writer.into_inner()
}

#[test]
fn pcapng_with_two_interfaces_of_different_link_type_and_clock() {
    for endianness in [Endianness::Big, Endianness::Little] {
        let expected = vec![
            (1, Some(5_000_000_000_000_001), 1, 9000, b"abcde".to_vec()),
            // The same ticks, but microseconds.
            (2, Some(5_000_000_000_000_001_000), 101, 9000, b"abcde".to_vec()),
        ];
        assert_eq!(whole(&pcapng(endianness)), expected, "{endianness:?}");
    }
}

#[test]
fn sections_of_different_byte_order_may_follow_each_other() {
    let file = [pcapng(Endianness::Little), pcapng(Endianness::Big)].concat();
    let rows = whole(&file);
    assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(rows[0].1, rows[2].1);
}

/// A little-endian block; pads the body.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let len = u32::try_from(padded + 12).unwrap().to_le_bytes();
    [&kind.to_le_bytes()[..], &len, body, &vec![0; padded - body.len()], &len].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]))
}

fn interface(snap_len: u32, options: &[u8]) -> Vec<u8> {
    block(1, &[&words(&[1, snap_len])[..], options].concat())
}

#[test]
fn all_kinds_of_packet_block_are_read_and_other_blocks_are_skipped() {
    let file = [
        section(),
        interface(4, &[]),
        block(4, b"names of hosts"),
        block(3, &[&words(&[9])[..], b"abcd"].concat()),
        block(2, &[&words(&[0xffff_0000, 0, 7, 3, 3])[..], b"abc"].concat()),
        block(5, &words(&[0, 0, 0])),
        block(6, &[&words(&[0, 0, 8, 2, 1])[..], b"ab", &[0, 0, 1, 0, 255, 255]].concat()),
        block(0x8000_0001, &vec![1; 3 << 20]),
    ]
    .concat();
    let expected = vec![
        (1, None, 1, 9, b"abcd".to_vec()),
        (2, Some(7000), 1, 3, b"abc".to_vec()),
        (3, Some(8000), 1, 2, b"ab".to_vec()),
    ];
    assert_eq!(whole(&file), expected);
}

#[test]
fn clocks_tick_in_powers_of_ten_or_two_and_from_any_second() {
    for (options, ticks, nanos) in [
        (&[9, 0, 1, 0, 3, 0, 0, 0][..], 1500, 1_500_000_000),
        (&[9, 0, 1, 0, 0x81, 0, 0, 0], 3, 1_500_000_000),
        (&[9, 0, 1, 0, 0, 0, 0, 0], 3, 3_000_000_000),
        (&[14, 0, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255], 3_000_000, 2_000_000_000),
        // A time zone of four bytes, as the format says, and no end-of-options marker.
        (&[10, 0, 4, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0], 5, 5),
    ] {
        let packet = block(6, &words(&[0, 0, ticks, 0, 0]));
        let rows = whole(&[section(), interface(0, options), packet].concat());
        assert_eq!(rows[0].1, Some(nanos), "{options:?}");
    }
}

#[track_caller]
fn damaged(file: &[u8], whole: usize, message: &str) {
    let (rows, error) = read_all(file);
    let error = error.expect("an error").to_string();
    assert_eq!(rows.len(), whole, "{error}");
    assert!(error.contains(message), "{error:?} does not say {message:?}");
}

#[test]
fn damage_is_reported_with_the_number_of_the_packet() {
    let start = || [section(), interface(0, &[])].concat();
    let packet = |interface, len| block(6, &words(&[interface, 0, 0, len, len]));
    damaged(b"", 0, "the file ends within its header");
    damaged(b"\x7fELF rest", 0, "neither pcap nor pcapng");
    damaged(&section()[..20], 0, "the file ends within its header");
    damaged(
        &[start(), packet(1, 0)].concat(),
        0,
        "packet 1: a packet names an interface that is not described",
    );
    damaged(
        &[start(), packet(0, 0), packet(0, 1)].concat(),
        1,
        "packet 2: a packet is longer than its block",
    );
    damaged(&[start(), words(&[6, 13, 0])].concat(), 0, "not a multiple of 4");
    damaged(&[start(), words(&[6, 8])].concat(), 0, "below 12");
    damaged(&[start(), words(&[6, 16, 0, 20])].concat(), 0, "the two lengths of a block differ");
    damaged(&[start(), words(&[7, 16, 0, 20])].concat(), 0, "the two lengths of a block differ");
    damaged(&[start(), words(&[6, 0xffff_fff0])].concat(), 0, "packet 1 says that it has 4294967272 bytes");
    damaged(&[start(), words(&[7, 0xffff_fff0])].concat(), 0, "the file ends within packet 1");
    let endless: Vec<u8> = (0..=MAX_INTERFACES).flat_map(|_| interface(0, &[])).collect();
    damaged(&[section(), endless].concat(), 0, "more than 4096 interfaces");
    let too_fine = interface(0, &[9, 0, 1, 0, 127, 0, 0, 0]);
    damaged(&[section(), too_fine].concat(), 0, "if_tsresol is too fine");
}

#[test]
fn a_pcap_that_claims_a_huge_packet_is_refused_before_memory_is_taken() {
    let mut file = pcap(Endianness::Little, TsResolution::MicroSecond);
    file.extend(words(&[0, 0, MAX_FRAME + 1, 0]));
    damaged(&file, 2, "packet 3 says that it has 1048577 bytes");
}

#[test]
fn a_file_cut_anywhere_gives_its_whole_packets_and_an_error_or_a_clean_end() {
    let files = [pcap(Endianness::Big, TsResolution::MicroSecond), pcapng(Endianness::Little)];
    for file in files {
        let all = whole(&file);
        let clean = (0..file.len()).filter(|len| {
            let (rows, error) = read_all(&file[..*len]);
            assert_eq!(rows, all[..rows.len()], "{len}");
            error.is_none()
        });
        // Cut behind the header, the descriptions or a packet.
        assert!(clean.count() <= 5);
    }
}

/// Gives one byte at a time, and then fails.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let [first, rest @ ..] = self.0 else { return Err(io::Error::other("disk on fire")) };
        buffer[0] = *first;
        self.0 = rest;
        Ok(1)
    }
}

#[test]
fn a_slow_reader_is_waited_for_and_its_failure_is_passed_on() {
    let file = pcap(Endianness::Big, TsResolution::NanoSecond);
    let mut capture = Capture::new(Drip(&file)).unwrap();
    assert!(capture.next_record().unwrap().is_some());
    assert!(capture.next_record().unwrap().is_some());
    let Err(CaptureError::Io { packet: 3, source }) = capture.next_record() else { panic!("no error") };
    assert_eq!(source.to_string(), "disk on fire");
}

proptest! {
    #[test]
    fn any_bytes_behind_a_good_header_end(ng: bool, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let start = if ng { [section(), interface(0, &[])].concat() } else { words(&[0xa1b2_c3d4, 0, 0, 0, 0, 1]) };
        let _ = read_all(&[start, bytes].concat());
    }
}
