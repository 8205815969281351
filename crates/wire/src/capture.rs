//! Capture files: pcap and pcapng, told apart by their first bytes.
//!
//! Place in the data flow: the command line opens a file or standard input and hands it in; [`Capture::next_record`]
//! gives one frame after the other to the packet parser. Nothing here seeks, reads ahead by more than a buffer,
//! or believes a length: memory grows only with bytes that arrived, up to [`MAX_FRAME`].
//!
//! The framing is read here and not by a library because those that we tried refuse packets longer than the snap
//! length (any `tcpdump -s`), ignore `if_tsresol`, or stop at options that they do not know.
//!
//! ```
//! use flowtag_wire::capture::Capture;
//!
//! let mut file = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x65\0\0\0".to_vec();
//! file.extend(b"\x01\0\0\0\x02\0\0\0\x01\0\0\0\x05\0\0\0\x60");
//!
//! let mut capture = Capture::new(file.as_slice())?;
//! let record = capture.next_record()?.expect("one packet");
//! assert_eq!((record.link_type, record.original_len, record.bytes), (101, 5, &[0x60][..]));
//! assert!(capture.next_record()?.is_none());
//! # Ok::<(), flowtag_wire::capture::CaptureError>(())
//! ```

mod block;
mod pcap;
mod pcapng;

use std::io::{self, BufReader, Read};

use jiff::Timestamp;

use block::{Order, Source};

/// The longest frame that is read, in bytes; twice what the largest segmentation offload makes.
pub const MAX_FRAME: u32 = 1 << 20;

/// The most interfaces that one section of a pcapng file may have.
pub const MAX_INTERFACES: usize = 4096;

/// Why a capture file could not be read. Packets are counted from 1, as tcpdump and Wireshark do.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Neither format.
    #[error(
        "the file begins with {0:02x?}, which is neither pcap nor pcapng: convert it with editcap -F pcapng"
    )]
    Magic([u8; 4]),
    /// The file ends within its header.
    #[error("the file ends within its header: it is empty or was cut off")]
    NoHeader,
    /// The file ends within a packet.
    #[error("the file ends within packet {packet}: the capture was cut off, all packets before it are whole")]
    Truncated {
        /// The packet that is not whole.
        packet: u64,
    },
    /// A field contradicts the format.
    #[error("the file is malformed at packet {packet}: {what}")]
    Malformed {
        /// The packet, or the one after the broken part.
        packet: u64,
        /// Which rule is broken.
        what: &'static str,
    },
    /// A frame or a block that describes the capture is too long.
    #[error(
        "packet {packet} says that it has {len} bytes: at most {MAX_FRAME} are read, the file is damaged"
    )]
    TooLong {
        /// The packet, or the one after the block.
        packet: u64,
        /// What the file says.
        len: u32,
    },
    /// Reading failed.
    #[error("reading packet {packet} failed")]
    Io {
        /// The packet that was being read.
        packet: u64,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
}

/// One captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the file, from 1.
    pub number: u64,
    /// When it was captured; none in pcapng's simple packet blocks.
    pub timestamp: Option<Timestamp>,
    /// The number for [`crate::packet::LinkType::from_number`].
    pub link_type: u32,
    /// Bytes that the frame had on the wire; never below those captured.
    pub original_len: u32,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
}

enum Format {
    Pcap(pcap::Header),
    Pcapng(pcapng::Section),
    Ended,
}

/// A frame without its bytes, which stay in the buffer.
struct Meta {
    timestamp: Option<Timestamp>,
    link_type: u32,
    original_len: u32,
    start: usize,
    len: usize,
}

/// A capture file that is read once, from front to back.
pub struct Capture<R> {
    source: Source<R>,
    format: Format,
}

impl<R: Read> Capture<R> {
    /// Reads the file's header. The reader needs no buffer of its own.
    ///
    /// # Errors
    /// [`CaptureError`] if the file is of another format or its header is not whole.
    pub fn new(reader: R) -> Result<Self, CaptureError> {
        let mut source = Source::new(BufReader::with_capacity(1 << 16, reader));
        let magic = source.magic()?;
        let format = match magic {
            [0x0a, 0x0d, 0x0d, 0x0a] => Format::Pcapng(pcapng::Section::first(&mut source)?),
            _ => Format::Pcap(pcap::Header::read(&mut source, magic)?),
        };
        Ok(Self { source, format })
    }

    /// The next frame, none at the end of the file. After an error the file has ended.
    ///
    /// # Errors
    /// [`CaptureError`], with the number of the packet.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        let next = match &mut self.format {
            Format::Pcap(header) => header.next(&mut self.source),
            Format::Pcapng(section) => section.next(&mut self.source),
            Format::Ended => Ok(None),
        };
        let Ok(Some(meta)) = next else {
            self.format = Format::Ended;
            return next.map(|_| None);
        };
        self.source.packet += 1;
        let bytes = self.source.buffer.get(meta.start..meta.start + meta.len).unwrap_or_default();
        Ok(Some(Record {
            number: self.source.packet - 1,
            timestamp: meta.timestamp,
            link_type: meta.link_type,
            original_len: meta.original_len.max(u32::try_from(meta.len).unwrap_or(u32::MAX)),
            bytes,
        }))
    }
}
