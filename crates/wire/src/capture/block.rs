//! Bytes from the reader, counted and bounded, and numbers of either byte order.

use std::io::{BufReader, ErrorKind, Read};

use super::{CaptureError, MAX_FRAME};

/// Byte order of the machine that wrote the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Big,
    Little,
}

impl Order {
    /// Zero beyond the end, which callers have ruled out.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let bytes = bytes.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }

    /// Zero beyond the end, which callers have ruled out.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let bytes = bytes.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }
}

/// The file, the last thing read from it, and how far it was read.
pub(super) struct Source<R> {
    reader: BufReader<R>,
    pub(super) buffer: Vec<u8>,
    /// Number of the packet that comes next.
    pub(super) packet: u64,
}

impl<R: Read> Source<R> {
    pub(super) const fn new(reader: BufReader<R>) -> Self {
        Self { reader, buffer: Vec::new(), packet: 1 }
    }

    /// The first four bytes of the file.
    pub(super) fn magic(&mut self) -> Result<[u8; 4], CaptureError> {
        if self.fill(4)? < 4 {
            return Err(CaptureError::NoHeader);
        }
        Ok(self.buffer.first_chunk().copied().unwrap_or_default())
    }

    /// Reads up to `len` bytes into the buffer and says how many there were. The buffer grows only as bytes arrive.
    pub(super) fn fill(&mut self, len: u32) -> Result<usize, CaptureError> {
        self.buffer.clear();
        let packet = self.packet;
        let io = |source| CaptureError::Io { packet, source };
        self.reader.by_ref().take(len.into()).read_to_end(&mut self.buffer).map_err(io)
    }

    /// Reads exactly `len` bytes of a packet into the buffer.
    pub(super) fn body(&mut self, len: u32) -> Result<(), CaptureError> {
        if len > MAX_FRAME {
            return Err(CaptureError::TooLong { packet: self.packet, len });
        }
        if self.fill(len)? < len as usize { Err(self.truncated()) } else { Ok(()) }
    }

    /// Reads `len` bytes for which there is no use, without keeping them.
    pub(super) fn skip(&mut self, len: u32) -> Result<(), CaptureError> {
        let copied = std::io::copy(&mut self.reader.by_ref().take(len.into()), &mut std::io::sink());
        match copied {
            Ok(copied) if copied == u64::from(len) => Ok(()),
            Ok(_) => Err(self.truncated()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.truncated()),
            Err(source) => Err(CaptureError::Io { packet: self.packet, source }),
        }
    }

    pub(super) const fn truncated(&self) -> CaptureError {
        CaptureError::Truncated { packet: self.packet }
    }

    pub(super) const fn malformed(&self, what: &'static str) -> CaptureError {
        CaptureError::Malformed { packet: self.packet, what }
    }
}
