//! `flowtag decode`: whose packets are in a capture file.
//!
//! The file is read once, from front to back, and never held: [`flows`] and [`tags`] count, or [`packets`] prints one
//! line after the other; [`report`] prints what was counted. All memory is bounded by `--max-flows`. Must never claim
//! more than a packet says: a flow label that reads as a tag may as well be random, so every tag stands beside the
//! place it was read from and whether it is registered.

mod evidence;
mod flows;
mod packets;
mod report;
mod tags;
mod totals;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use flowtag_engine::Registry;
use flowtag_wire::packet::{LinkType, PacketError};
use flowtag_wire::{Capture, CaptureError, Packet, Record, Tag};

use super::tag::{RegistryFile, is_registered};
use flows::Flows;
use packets::Lines;
use report::Report;
use totals::Totals;

/// How many flows and tags are printed for people who did not say.
const DEFAULT_LIMIT: usize = 50;

/// Show the tags in a capture file (pcap or pcapng): by flow and by tag, or packet by packet.
#[derive(Debug, Args)]
#[command(after_help = "\
A flow is one direction: source, destination, protocol and ports. Bytes are whole frames, as on the wire. Checksums \
of packets captured where they were sent are often BAD: the network card fills them in.\n\n\
A flow label is only evidence. Nearly every random label reads as some tag, and Linux draws random ones by default; \
REGISTERED says whether both of its numbers have a name in the SciTags registry. A tag in an extension header \
(hop-by-hop, destination) is the stronger sign.\n\n\
Examples:\n  \
    flowtag decode capture.pcap\n  \
    flowtag decode --registered capture.pcapng\n  \
    flowtag decode --packets --tag 'cms/Analysis Input' capture.pcap\n  \
    tcpdump -i eth0 -s 128 -c 100000 -w - ip6 | flowtag decode -\n  \
    flowtag --json decode capture.pcap | jq 'select(.kind == \"tag\" and .registered)'")]
pub(crate) struct Decode {
    /// Capture file, pcap or pcapng; - reads standard input
    file: PathBuf,
    /// One line for each packet instead of the tables
    #[arg(long)]
    packets: bool,
    /// Only tags whose experiment and activity are both in the registry, and flows or packets with such a tag
    #[arg(long)]
    registered: bool,
    /// Only this tag, and flows or packets with it: EXPERIMENT/ACTIVITY, names or numbers
    #[arg(short, long)]
    tag: Option<String>,
    /// Print at most so many flows and so many tags, most bytes first [default: 50; with --json all]
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "packets")]
    limit: Option<usize>,
    /// Keep at most so many flows, about 320 bytes each; packets of others are counted, by tag too
    #[arg(long, value_name = "N", default_value_t = 1_000_000, conflicts_with = "packets",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000_000))]
    max_flows: usize,
    #[command(flatten)]
    registry: RegistryFile,
}

/// What is to be shown, and with which names.
struct View<'a> {
    registry: &'a Registry,
    tag: Option<Tag>,
    registered: bool,
    json: bool,
}

impl View<'_> {
    /// Whether everything is shown, tags or not.
    const fn is_unfiltered(&self) -> bool {
        self.tag.is_none() && !self.registered
    }

    fn wants(&self, tag: Tag) -> bool {
        self.tag.is_none_or(|only| tag == only) && (!self.registered || is_registered(self.registry, tag))
    }
}

impl Decode {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let registry = self.registry.load()?;
        let tag = self.tag.as_deref().map(|text| registry.resolve(text)).transpose().context("--tag")?;
        let view = View { registry: &registry, tag, registered: self.registered, json };
        let name = self.name();
        let opened = Capture::new(open(&self.file)?).map_err(explain);
        let mut capture = opened.with_context(|| format!("cannot decode {name}"))?;
        let mut out = BufWriter::new(io::stdout().lock());
        let (totals, ended) = if self.packets {
            self.print_packets(&mut capture, &view, &mut out)?
        } else {
            self.print_tables(&mut capture, &view, &mut out)?
        };
        out.flush()?;
        ended.map_or(Ok(()), Err).with_context(|| format!("cannot decode all of {name}"))?;
        totals.check().with_context(|| format!("cannot decode {name}"))
    }

    fn name(&self) -> String {
        if is_stdin(&self.file) { "standard input".to_owned() } else { self.file.display().to_string() }
    }

    fn print_packets(
        &self,
        capture: &mut Capture<impl Read>,
        view: &View<'_>,
        out: &mut impl Write,
    ) -> Result<(Totals, Option<CaptureError>)> {
        let mut totals = Totals::default();
        // Whoever pipes a running capture in wants to see each packet as it comes.
        let mut lines = Lines::new(view, &mut *out, is_stdin(&self.file));
        lines.begin()?;
        let ended =
            read(capture, &mut totals, |totals, record, packet| lines.packet(totals, record, packet))?;
        report::summary(view, &totals, None, ended.as_ref(), out)?;
        Ok((totals, ended))
    }

    fn print_tables(
        &self,
        capture: &mut Capture<impl Read>,
        view: &View<'_>,
        out: &mut impl Write,
    ) -> Result<(Totals, Option<CaptureError>)> {
        let mut totals = Totals::default();
        let mut flows = Flows::new(self.max_flows);
        let ended = read(capture, &mut totals, |_, record, packet| {
            if let Ok(packet) = packet {
                flows.add(packet, record);
            }
            Ok(())
        })?;
        let limit = self.limit.unwrap_or(if view.json { usize::MAX } else { DEFAULT_LIMIT });
        Report { view, totals: &totals, flows: &flows, limit }.print(ended.as_ref(), out)?;
        Ok((totals, ended))
    }
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn open(file: &Path) -> Result<Box<dyn Read>> {
    if !is_stdin(file) {
        let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        return Ok(Box::new(opened));
    }
    if io::stdin().is_terminal() {
        bail!("standard input is a terminal: pipe a capture in, or name a file");
    }
    Ok(Box::new(io::stdin().lock()))
}

/// Rotated captures are mostly compressed, and the way to read them is a pipe.
fn explain(error: CaptureError) -> anyhow::Error {
    let program = match error {
        CaptureError::Magic([0x1f, 0x8b, ..]) => "zcat",
        CaptureError::Magic([0x28, 0xb5, 0x2f, 0xfd]) => "zstdcat",
        CaptureError::Magic([0xfd, b'7', b'z', b'X']) => "xzcat",
        error => return error.into(),
    };
    anyhow!("the file is compressed: {program} FILE | flowtag decode -")
}

/// Hands over every packet of the file. The error is the caller's to print, after what came before it.
fn read<R: Read>(
    capture: &mut Capture<R>,
    totals: &mut Totals,
    mut take: impl FnMut(&Totals, &Record<'_>, Result<&Packet<'_>, &PacketError>) -> Result<()>,
) -> Result<Option<CaptureError>> {
    loop {
        let record = match capture.next_record() {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        };
        let packet =
            LinkType::from_number(record.link_type).and_then(|link| Packet::parse(link, record.bytes));
        totals.add(&record, packet.as_ref());
        take(totals, &record, packet.as_ref())?;
    }
}
