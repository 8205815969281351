//! The formats of flowtag on the wire: tags and their three encodings, the IPv6 flow label, extension-header
//! options, fireflies and captured packets.
//!
//! Nothing here does I/O, reads a clock or allocates without bound; every parser takes bytes and gives a value or
//! an error that names what was wrong.
//!
//! ```
//! use flowtag_wire::{Entropy, FlowLabel, Tag};
//!
//! let tag = Tag::new(3, 14)?;
//! let label = FlowLabel::from_tag(tag, Entropy::NONE);
//! assert_eq!(label.value(), 0x30038);
//! assert_eq!(label.tag(), Some(tag));
//! # Ok::<(), flowtag_wire::TagError>(())
//! ```

pub mod capture;
pub mod expression;
pub mod firefly;
pub mod flow;
pub mod ipfix;
pub mod option;
pub mod packet;
mod stamp;
mod strategy;
pub mod stun;
pub mod syslog;
pub mod tag;
pub mod xrootd;

pub use capture::{Capture, CaptureError, Record};
pub use firefly::{Firefly, ReadError, State, Usage, WriteError};
pub use flow::{Endpoint, FiveTuple, FlowError, Protocol, keyed_hash};
pub use option::Found;
pub use packet::{LinkType, Packet, PacketError};
pub use strategy::{Strategy, StrategyError};
pub use tag::{Activity, Entropy, Experiment, FlowLabel, ScitagInteger, Tag, TagError};
