//! The programs alone: what looking up, judging by rules, writing and reading tags costs for one packet.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowtag_kernel::mark::{Marker, Settings};
use flowtag_wire::Strategy;
use flowtag_wire::option::Place;

use crate::report::{Figure, Report};
use crate::site;
use crate::test_run::{Case, How, MIX, Packet, key, measure};

const FLOWS: [u32; 3] = [1_000, 100_000, 1_000_000];
/// Flows from here on are in no table.
const UNKNOWN: u32 = 1 << 30;
/// Here and above are those with other strategies than the label.
const SPECIAL: u32 = 1 << 29;
/// Flows of hosts that the last rule names, in no table either.
const THEIRS: u32 = 3 << 30;
const THEIR_HOSTS: &str = "2001:db8::c00:0/102";
const DATA: Packet = Packet { label: false, options: &[], syn: false, arriving: false };
const SYN: Packet = Packet { syn: true, ..DATA };
const HOP_BY_HOP: &[Place] = &[Place::HopByHop];
const DESTINATION: &[Place] = &[Place::Destination];
const BOTH: &[Place] = &[Place::HopByHop, Place::Destination];
/// No more than there is room for what the program tells of them.
const JUDGED: How = How::Warm(2_000);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let settings = Settings { max_flows: 1 << 20, ingress: true, ..Settings::default() };
    let mut marker = Marker::load(&settings)?;
    marker.configure_test_run()?;
    marker.set_registered([site::tag()].into_iter())?;
    let (mut rows, mut filled) = (Vec::new(), 0);
    for flows in FLOWS {
        (filled..flows).try_for_each(|n| marker.set(&key(n), site::mark(Strategy::LABEL), 0))?;
        filled = flows;
        rows.push((flows, leaving(&marker, flows)?, arriving(&marker, flows)?));
    }
    tables(report, &rows);
    strategies(report, &mut marker)?;
    rules(report, &mut marker)
}

/// Flow number `n` of those in the table, spread over all of it.
fn spread(n: u32, flows: u32) -> u32 {
    ((u64::from(n.wrapping_mul(0x9e37_79b1)) * u64::from(flows)) >> 32) as u32
}

/// Figures of so many flows: leaving, arriving.
type Row = (u32, [Vec<f64>; 6], [Vec<f64>; 5]);

fn leaving(marker: &Marker, flows: u32) -> Result<[Vec<f64>; 6]> {
    let known = move |n| DATA.of(&key(spread(n, flows)));
    let unknown = |n| DATA.of(&key(UNKNOWN + n * 17));
    let cases = [
        Case::new(marker.empty_program(), How::WARM, unknown),
        Case::new(marker.mark_program(), How::WARM, unknown),
        Case::new(marker.mark_program(), How::WARM, known),
        Case::new(marker.empty_program(), How::Each, unknown),
        Case::new(marker.mark_program(), How::Each, unknown),
        Case::new(marker.mark_program(), How::Each, known),
    ];
    measure(&cases, &|| Ok(()))
}

fn arriving(marker: &Marker, flows: u32) -> Result<[Vec<f64>; 5]> {
    let arriving = Packet { arriving: true, ..DATA };
    let of = move |packet: Packet| move |n| packet.of(&key(spread(n, flows)));
    let cases = [
        Case::new(marker.empty_program(), How::WARM, of(arriving)),
        Case::new(marker.arrive_program(), How::WARM, move |n| arriving.of(&key(UNKNOWN + n * 17))),
        Case::new(marker.arrive_program(), How::WARM, of(Packet { label: true, ..arriving })),
        Case::new(marker.arrive_program(), How::WARM, of(Packet { options: DESTINATION, ..arriving })),
        Case::new(marker.arrive_program(), How::Each, of(Packet { label: true, ..arriving })),
    ];
    measure(&cases, &|| Ok(()))
}

fn tables(report: &mut Report, rows: &[Row]) {
    report.section(
        "Program: leaving",
        "ns per packet of the program at egress by `BPF_PROG_TEST_RUN`, which includes the kernel's own loop, as the \
         empty program shows. *Warm*: the same packet over and over, 32 different ones, so that the label is there \
         already but for the first time. *Each*: 2,048 packets of as many flows, one run each: caches are as cold as \
         the table is large, the label is written, and reading the clock is included. Aims: label, warm, at most \
         42/26 = 1.62 × empty; flat (at most 1.5 ×) up to 1,000,000 flows.",
        &[
            "flows in the table",
            "empty, warm",
            "no flow, warm",
            "label, warm",
            "label / empty, warm",
            "empty, each",
            "no flow − empty, each",
            "label − empty, each",
        ],
    );
    for (flows, leaving, _) in rows {
        let show = |column: usize| Figure::of(&leaving[column]).show(0);
        let ratio = Figure::ratio(&leaving[2], &leaving[0]).show(2);
        let over = |column: usize| Figure::difference(&leaving[column], &leaving[3]).show(0);
        report.row(&[flows.to_string(), show(0), show(1), show(2), ratio, show(3), over(4), over(5)]);
    }
    report.section(
        "Program: arriving",
        "ns per packet of the program at ingress, in the same way. The tags are those of the flows, so that looking for \
         a mismatch is included.",
        &[
            "flows in the table",
            "empty, warm",
            "no tag, warm",
            "label, warm",
            "destination option, warm",
            "label / empty, warm",
            "label, each",
        ],
    );
    for (flows, _, arriving) in rows {
        let show = |column: usize| Figure::of(&arriving[column]).show(0);
        let ratio = Figure::ratio(&arriving[2], &arriving[0]).show(2);
        report.row(&[flows.to_string(), show(0), show(1), show(2), show(3), ratio, show(4)]);
    }
}

fn strategies(report: &mut Report, marker: &mut Marker) -> Result<()> {
    report.section(
        "Program: writing",
        "ns per packet by where the tag is written, 1,000,000 flows in the table. *Written*: 2,048 packets of 32 flows, \
         one run each, less the empty program in the same way. A second run of a packet finds its own option: *there \
         already*, warm.",
        &["strategy", "written − empty", "there already", "there already / empty"],
    );
    let (label, hop) = (Strategy::LABEL, Strategy::HOP_BY_HOP);
    let table = [
        (label, &[][..]),
        (Strategy::DESTINATION, DESTINATION),
        (hop, HOP_BY_HOP),
        (hop | Strategy::DESTINATION, BOTH),
        (label | Strategy::DESTINATION, DESTINATION),
    ];
    for (strategy, options) in table {
        (SPECIAL..SPECIAL + MIX).try_for_each(|n| marker.set(&key(n), site::mark(strategy), 0))?;
        let tagged = Packet { label: strategy.contains(label), options, ..DATA };
        let of = |packet: Packet| move |n| packet.of(&key(SPECIAL + n % MIX));
        let cases = [
            Case::new(marker.empty_program(), How::Each, of(DATA)),
            Case::new(marker.mark_program(), How::Each, of(DATA)),
            Case::new(marker.empty_program(), How::WARM, of(tagged)),
            Case::new(marker.mark_program(), How::WARM, of(tagged)),
        ];
        let [empty, written, empty_warm, there] = measure(&cases, &|| Ok(()))?;
        report.row(&[
            strategy.to_string(),
            Figure::difference(&written, &empty).show(0),
            Figure::of(&there).show(0),
            Figure::ratio(&there, &empty_warm).show(2),
        ]);
    }
    Ok(())
}

/// What is told of matches is read between the runs, or the program would tell it again and again.
fn rules(report: &mut Report, marker: &mut Marker) -> Result<()> {
    let mut last = site::rule(Strategy::LABEL);
    last.remote.push(THEIR_HOSTS.parse()?);
    last.remote_ports.push(40_000..=50_000);
    marker.set_rules(&site::rules(last))?;
    marker.configure_test_run()?; // now there are rules
    let events = marker.events()?;
    let read = || Ok(events.next(Duration::ZERO).map(drop)?);
    let matched = |n| key(THEIRS + n * 17);
    let unmatched = |n| key(UNKNOWN + n * 17);
    let known = |n| DATA.of(&key(spread(n, 1_000_000)));
    let cases = [
        Case::new(marker.empty_program(), How::WARM, known),
        Case::new(marker.mark_program(), How::WARM, known),
        Case::new(marker.mark_program(), How::WARM, |n| DATA.of(&unmatched(n))),
        Case::new(marker.mark_program(), How::WARM, |n| DATA.of(&matched(n))),
        Case::new(marker.mark_program(), JUDGED, |n| SYN.of(&unmatched(n))),
        Case::new(marker.mark_program(), JUDGED, |n| SYN.of(&matched(n))),
        Case::new(marker.empty_program(), How::Each, |n| DATA.of(&unmatched(n))),
        Case::new(marker.mark_program(), How::Each, |n| DATA.of(&unmatched(n))),
        Case::new(marker.mark_program(), How::Each, |n| DATA.of(&matched(n))),
    ];
    let columns = measure(&cases, &read)?;
    ensure!(
        marker.coverage()?.lost_events == 0,
        "matches were not read in time: the figures are of another case"
    );
    rules_table(report, &columns);
    Ok(())
}

fn rules_table(report: &mut Report, columns: &[Vec<f64>]) {
    report.section(
        "Program: rules",
        "ns per packet with 1,000 rules that together look at everything a rule can look at, and 1,000,000 flows in the \
         table. The verdict on a five-tuple is remembered; the first packet of a connection, and one whose verdict \
         another packet took the place of, is judged anew. *Each*: 2,048 packets of as many five-tuples.",
        &["packet", "ns", "− empty", "/ empty"],
    );
    let names = [
        "empty, warm",
        "of an announced flow, warm",
        "no rule matches, remembered, warm",
        "the last rule matches, remembered, warm",
        "SYN, no rule matches, warm",
        "SYN, the last rule matches, warm",
        "empty, each",
        "no rule matches, each",
        "the last rule matches, each",
    ];
    for (index, (name, column)) in names.iter().zip(columns).enumerate() {
        let empty = &columns[if index < 6 { 0 } else { 6 }];
        let over = Figure::difference(column, empty).show(0);
        report.row(&[
            (*name).to_owned(),
            Figure::of(column).show(0),
            over,
            Figure::ratio(column, empty).show(2),
        ]);
    }
}
