//! Everything of flowtag that touches eBPF, and the only crate with `unsafe`.
//!
//! In the flow of data it stands between the engine, whose decisions it writes into maps, and the kernel, whose
//! packets the programs mark. It must never decide what is marked, and its programs must never drop, delay or change
//! anything but the tag. One folder a feature: the eBPF program, the types it shares with user space (generated from
//! `bpf/abi`), and the safe Rust around them.
//!
//! ```no_run
//! use flowtag_kernel::mark::{HookChoice, Marker, Settings};
//! use flowtag_wire::{Entropy, FiveTuple, FlowLabel, Protocol, Tag};
//!
//! let mut marker = Marker::load(&Settings::default())?;
//! let eth0 = flowtag_kernel::link::find("eth0")?;
//! marker.attach(&eth0, HookChoice::Auto)?;
//! let flow = FiveTuple::new(Protocol::Tcp, "[2001:db8::1]:1094".parse()?, "[2001:db8::2]:40000".parse()?)?;
//! marker.set(&flow.into(), FlowLabel::from_tag(Tag::new(3, 14)?, Entropy::NONE).into(), 0)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod af_packet;
pub mod btf;
pub mod cgroup;
pub mod features;
pub mod kallsyms;
pub mod link;
pub mod mark;
mod netlink;
pub mod path_mtu;
pub mod peer;
pub mod probes;
pub mod socket_queue;
pub mod sockets;
pub mod tc;
pub mod tcp_info;

use std::io;

/// Why something could not be done to or asked of the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An eBPF object did not load.
    #[error(
        "the kernel did not load the eBPF programs of {feature}; `flowtag doctor` says what this host lacks"
    )]
    Load {
        /// Which feature the programs belong to.
        feature: &'static str,
        /// What libbpf or the kernel said.
        #[source]
        source: libbpf_rs::Error,
    },
    /// This kernel lacks what a probe cannot do without.
    #[error(
        "`{probe}` needs {hook}, which this kernel does not have; `flowtag doctor` lists what works here"
    )]
    Probe {
        /// Name of the probe.
        probe: &'static str,
        /// What is not there.
        hook: String,
    },
    /// A program could not be attached to or detached from an interface.
    #[error("cannot {action} interface {interface} with {hook}: {fix}")]
    Attach {
        /// `attach to` or `detach from`.
        action: &'static str,
        /// Name of the interface.
        interface: String,
        /// Kind of hook that was tried.
        hook: mark::Hook,
        /// What to do about it.
        fix: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The interface's packets begin with a header that the programs cannot skip.
    #[error(
        "interface {interface} has link type {link_type} (ARPHRD), whose header flowtag does not know; \
         supported are Ethernet and devices without a link header (tun, WireGuard, tunnels, PPP)"
    )]
    LinkType {
        /// Name of the interface.
        interface: String,
        /// `ARPHRD_*` number.
        link_type: u16,
    },
    /// The interface came long after the program was loaded and has an index above all that were foreseen.
    #[error(
        "interface {interface} has index {index}, above the {limit} that were foreseen at start: restart flowtag"
    )]
    Index {
        /// Name of the interface.
        interface: String,
        /// Its index.
        index: u32,
        /// First index that is not possible.
        limit: u32,
    },
    /// The map of flows is full; the flow is not marked.
    #[error("the kernel's flow table is full ({max} flows): raise flows.max and restart flowtag")]
    Full {
        /// Capacity in flows.
        max: u32,
    },
    /// A map could not be read or written.
    #[error("cannot {action} the kernel's {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// On which map.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: libbpf_rs::Error,
    },
    /// Rules that cannot be put into the kernel.
    #[error(transparent)]
    Rules(#[from] mark::rules::RulesError),
    /// What is to outlive the daemon could not be kept.
    #[error(
        "cannot {action} {path}: mark.pin names a directory on a bpffs (`mount -t bpf bpf /sys/fs/bpf`); leave it empty if \
         nothing shall outlive the daemon"
    )]
    Pin {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: std::path::PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No interface of that name.
    #[error("there is no network interface {0:?}: `ip link` lists them")]
    NoInterface(String),
    /// The kernel would not tell.
    #[error("cannot ask the kernel for {what}")]
    Query {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// `errno` of a libbpf error, for messages and decisions.
pub(crate) fn to_io(error: &libbpf_rs::Error) -> io::Error {
    use libbpf_rs::ErrorKind as K;
    io::Error::from(match error.kind() {
        K::NotFound => io::ErrorKind::NotFound,
        K::PermissionDenied => io::ErrorKind::PermissionDenied,
        K::AlreadyExists => io::ErrorKind::AlreadyExists,
        K::InvalidInput => io::ErrorKind::InvalidInput,
        K::OutOfMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    })
}
