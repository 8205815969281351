//! Probes: what happens to flows, told by eBPF programs at the kernel's tracepoints.
//!
//! One folder a probe: its program, the types that it shares with user space (`abi.h`), its [`Description`] and how its
//! events are read (`mod.rs`), and what it measures, how exactly and at which cost (`README.md`). The command, its table,
//! JSON, metrics and the page of the reference come from the description. To add one: a folder, and two lines here.
//!
//! Place in the flow: kernel → [`Record`] → command line and outputs. A probe changes nothing, and loses nothing without
//! counting it.
//!
//! ```no_run
//! use std::time::Duration;
//! use flowtag_kernel::probes::{Options, Scope, Session, retrans};
//!
//! let session = Session::start(&Scope::default(), None, &[(&retrans::PROBE, Options::default())])?;
//! for (probe, record) in session.next(Duration::from_secs(1))? {
//!     println!("{probe}: {:?}", record.context.flow);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod abi;
mod description;
mod hooks;
mod iterate;
mod load;
mod record;
mod session;
mod whose;

pub mod connect;
pub mod delay;
pub mod drops;
pub mod histogram;
pub mod life;
pub mod listen;
pub mod request;
pub mod resets;
pub mod retrans;
pub mod rtt;
pub mod top;
pub mod why;
pub mod yardstick;

pub use description::{
    Alike, Column, Decode, Description, Flag, Measure, Merge, Metric, Options, SUMS, Source, Unit,
};
pub use hooks::Need;
pub use life::{Direction, History, Listed};
pub use load::{Loaded, Losses, Missing, RunTime};
pub use record::{Context, Flow, Owner, Record, Value, monotonic, state_name, wall_clock};
pub use session::{Scope, Session, netns_of, own_netns};

/// All probes, in the order in which help lists them.
pub static PROBES: &[&Description] = &[
    &life::PROBE,
    &listen::PROBE,
    &retrans::PROBE,
    &resets::PROBE,
    &why::PROBE,
    &drops::PROBE,
    &top::PROBE,
    &connect::PROBE,
    &rtt::PROBE,
    &delay::PROBE,
    &request::PROBE,
];
