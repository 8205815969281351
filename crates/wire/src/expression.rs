//! Expressions that choose flows, in the manner of pcap-filter(7), over what is known of a flow in place of the bytes of a
//! packet.
//!
//! ```
//! use flowtag_wire::expression::{Expression, Facts};
//!
//! let wanted: Expression = "tcp and port 443 and not net 192.0.2.0/24".parse()?;
//! let flow = Facts { protocol: Some(6), remote: Some("[2001:db8::2]:443".parse()?), ..Facts::default() };
//! assert!(wanted.matches(&flow));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::str::FromStr;

use crate::{Endpoint, Tag};

/// What is known of a flow. What is not known matches nothing, nor its contrary: `not port 80` holds where no port is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Number of the transport protocol (IANA).
    pub protocol: Option<u8>,
    /// This host's end.
    pub local: Option<Endpoint>,
    /// The other end.
    pub remote: Option<Endpoint>,
    /// Whose it is.
    pub tag: Option<Tag>,
    /// Process id.
    pub pid: Option<u32>,
    /// User id.
    pub user: Option<u32>,
    /// Name of the process.
    pub process: Option<&'a str>,
    /// Path of the cgroup below the root, or name of a unit.
    pub cgroup: Option<&'a str>,
    /// Name of the interface.
    pub interface: Option<&'a str>,
}

/// Which flows are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// All.
    Any,
    /// Local or remote port.
    Port(u16),
}

/// Why an expression cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ExpressionError {
    problem: String,
}

impl Expression {
    /// Whether a flow is wanted.
    #[must_use]
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Port(port) => {
                [facts.local, facts.remote].into_iter().flatten().any(|end| end.port() == *port)
            }
        }
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [] => Ok(Self::Any),
            ["port", port] => port.parse().map(Self::Port).map_err(|_| ExpressionError {
                problem: format!("{port:?} is no port: it must be from 0 to 65535"),
            }),
            _ => Err(ExpressionError { problem: format!("{text:?} is not understood") }),
        }
    }
}
