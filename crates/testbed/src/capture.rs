//! Captures: what really passed an interface, as tcpdump saw it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::{Builder, TempPath};

use crate::host::Host;
use crate::process::Process;
use crate::wait::{WAIT, wait_until};

/// Nothing came for this long: what was sent before has arrived.
const QUIET: Duration = Duration::from_millis(150);
/// Traffic that never pauses is cut here.
const QUIET_LIMIT: Duration = Duration::from_secs(3);

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// A running capture. Dropping it ends tcpdump and removes the file.
#[derive(Debug)]
#[must_use = "dropping it ends the capture"]
pub struct Capture {
    tcpdump: Process,
    file: TempPath,
}

/// A finished capture; the file lasts as long as this.
#[derive(Debug)]
pub struct Captured {
    file: TempPath,
    /// Packets that passed the filter and that tcpdump could not take in time.
    pub dropped: u64,
}

/// One packet of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When it was seen, since the epoch.
    pub time: Duration,
    /// All of it, link-layer header included.
    pub data: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(host: &Host, device: &str, filter: &str) -> Result<Self> {
        let file =
            Builder::new().prefix("flowtag-").suffix(".pcap").tempfile().context("making a capture file")?;
        let file = file.into_temp_path();
        let mut command = host.command("tcpdump");
        // Snapped: the kernel's ring has slots of the longest packet, and with those of GSO it would hold few.
        // Immediate: a packet is in the file as it comes. -Z: as another user tcpdump could not write it.
        command.args(["-n", "-U", "-s9216", "-B16384", "--immediate-mode", "-Z", "root", "-i", device, "-w"]);
        command.arg(&file).arg(filter);
        let mut tcpdump = host.spawn(command)?;
        // Written after the socket is bound and the filter set: from now on nothing is missed.
        tcpdump
            .wait_for_output("listening on", WAIT)
            .with_context(|| format!("capturing {filter:?} on {device} of host {}", host.name()))?;
        Ok(Self { tcpdump, file })
    }

    /// Waits until at least this many packets were captured.
    ///
    /// # Errors
    /// They did not come in time; the error says how many did.
    pub fn wait_for(&self, packets: usize, limit: Duration) -> Result<()> {
        let count = || Ok::<_, anyhow::Error>(frames(&fs::read(&self.file).unwrap_or_default()).len());
        let enough = || Ok((count()? >= packets).then_some(()));
        wait_until(&format!("{packets} packets"), limit, enough)
            .with_context(|| format!("{} were captured", count().unwrap_or_default()))
    }

    /// Ends the capture once what was sent before has arrived.
    ///
    /// # Errors
    /// tcpdump failed.
    pub fn stop(self) -> Result<Captured> {
        wait_until_quiet(&self.file);
        let ended = self.tcpdump.stop(Signal::SIGINT)?;
        ensure!(ended.status.success(), "tcpdump failed ({}): {}", ended.status, ended.stderr.trim());
        Ok(Captured { file: self.file, dropped: dropped(&ended.stderr) })
    }
}

impl Captured {
    /// The capture file, in pcap format.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The whole capture file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn pcap(&self) -> Result<Vec<u8>> {
        fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))
    }

    /// The packets in the order they were seen.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        Ok(frames(&self.pcap()?))
    }
}

/// The file has not grown for a moment.
fn wait_until_quiet(file: &Path) {
    let size = || fs::metadata(file).map(|m| m.len()).unwrap_or_default();
    let start = Instant::now();
    let (mut last, mut since) = (size(), start);
    while since.elapsed() < QUIET && start.elapsed() < QUIET_LIMIT {
        thread::sleep(Duration::from_millis(10));
        let now = size();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// From tcpdump's last words: `0 packets dropped by kernel`.
fn dropped(said: &str) -> u64 {
    let line = said.lines().find_map(|l| {
        l.split_once(" packets dropped by kernel").or(l.split_once(" packet dropped by kernel"))
    });
    line.and_then(|(number, _)| number.trim().parse().ok()).unwrap_or_default()
}

/// The whole records of a pcap file in this machine's byte order, as tcpdump writes it.
fn frames(pcap: &[u8]) -> Vec<Frame> {
    let mut rest = pcap.get(FILE_HEADER..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<RECORD_HEADER>() {
        let word = |n: usize| {
            header.get(4 * n..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
        };
        let Some((data, next)) = after.split_at_checked(word(2) as usize) else { break };
        let time = Duration::from_secs(word(0).into()) + Duration::from_micros(word(1).into());
        frames.push(Frame { time, data: data.to_vec() });
        rest = next;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(records: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut pcap = vec![0; FILE_HEADER];
        for (seconds, micros, data) in records {
            for word in [*seconds, *micros, data.len() as u32, data.len() as u32] {
                pcap.extend(word.to_ne_bytes());
            }
            pcap.extend(*data);
        }
        pcap
    }

    #[test]
    fn whole_records_are_read_and_a_cut_one_is_not() {
        let pcap = file(&[(1, 500_000, b"one"), (2, 0, b""), (3, 1, b"three")]);
        let all = frames(&pcap);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], Frame { time: Duration::from_millis(1500), data: b"one".to_vec() });
        assert_eq!(frames(&pcap[..pcap.len() - 1]).len(), 2);
        for end in 0..FILE_HEADER + RECORD_HEADER {
            assert_eq!(frames(&pcap[..end]), []);
        }
    }

    #[test]
    fn the_packets_that_tcpdump_lost_are_counted() {
        let said = "12 packets captured\n15 packets received by filter\n3 packets dropped by kernel\n";
        assert_eq!(dropped(said), 3);
        assert_eq!(dropped("tcpdump: listening on eth0"), 0);
    }
}
