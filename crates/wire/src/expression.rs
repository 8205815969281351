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
//!
//! As there, `not` binds closest, `and` and `or` bind alike and from the left, and a value without a keyword has that of the
//! value before it: `port 80 or 443`. A flow has no direction, so `local` and `remote` are the natural qualifiers; `src` and
//! `dst` mean the same, as of what this host sends.

mod parse;

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::{Endpoint, Experiment, Tag};

/// What is known of a flow. A condition on what is not known does not hold: `port 80` is false where no port is known, and
/// `not port 80` is true.
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
    /// Path of the cgroup below the root.
    pub cgroup: Option<&'a str>,
    /// Name of the interface.
    pub interface: Option<&'a str>,
}

/// Which flows are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expression {
    /// All.
    #[default]
    Any,
    /// An address in this prefix; a host is a prefix of all its bits.
    Net(End, IpNet),
    /// A port from the first to the last of these.
    Ports(End, u16, u16),
    /// Number of the transport protocol (IANA).
    Protocol(u8),
    /// Addresses of IPv4.
    Ipv4,
    /// Addresses of IPv6.
    Ipv6,
    /// Some tag.
    Tagged,
    /// This tag.
    Tag(Tag),
    /// Any tag of this experiment.
    Experiment(Experiment),
    /// Process id.
    Pid(u32),
    /// User id.
    User(u32),
    /// Name of the process. The kernel knows its first 15 bytes, so only these count.
    Process(String),
    /// A path, with all below it; or the name of any cgroup on the way, as a unit's.
    Cgroup(String),
    /// Name of the interface.
    Interface(String),
    /// Not this.
    Not(Box<Self>),
    /// Both.
    And(Box<Self>, Box<Self>),
    /// One or both.
    Or(Box<Self>, Box<Self>),
}

/// Which end of a flow an address or port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// `src or dst`: one of them, as where nothing is said.
    #[default]
    Either,
    /// `local` or `src`: this host.
    Local,
    /// `remote` or `dst`: the other one.
    Remote,
    /// `src and dst`.
    Both,
}

/// What a name after `tag` or `experiment` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// `EXPERIMENT/ACTIVITY`
    Tag(Tag),
    /// `EXPERIMENT`
    Experiment(Experiment),
}

/// Why an expression cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}, {found}: {problem}")]
pub struct ExpressionError {
    /// Of the expression, counted from 1.
    pub position: usize,
    /// What stands there, quoted; or `its end`.
    pub found: String,
    /// What is wrong with it, and what would do.
    pub problem: String,
}

impl Expression {
    /// Parentheses and `not` within each other.
    pub const MAX_DEPTH: usize = 64;
    /// Conditions of one expression.
    pub const MAX_CONDITIONS: usize = 256;

    /// Reads an expression whose tags may have names, which `whose` knows.
    ///
    /// # Errors
    /// [`ExpressionError`] says what is wrong, where, and what would do.
    pub fn parse_with(
        text: &str,
        whose: &dyn Fn(&str) -> Result<Whose, String>,
    ) -> Result<Self, ExpressionError> {
        parse::parse(text, whose)
    }

    /// Both this and the other; all that there is adds no condition.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, one) | (one, Self::Any) => one,
            (one, other) => Self::And(Box::new(one), Box::new(other)),
        }
    }

    /// Whether a flow is wanted.
    #[must_use]
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Net(end, net) => end.is_so(facts, |e| net.contains(&e.addr())),
            Self::Ports(end, first, last) => end.is_so(facts, |e| (*first..=*last).contains(&e.port())),
            Self::Protocol(number) => facts.protocol == Some(*number),
            Self::Ipv4 => End::Either.is_so(facts, |e| e.addr().is_ipv4()),
            Self::Ipv6 => End::Either.is_so(facts, |e| e.addr().is_ipv6()),
            Self::Tagged => facts.tag.is_some(),
            Self::Tag(tag) => facts.tag == Some(*tag),
            Self::Experiment(experiment) => facts.tag.is_some_and(|tag| tag.experiment == *experiment),
            Self::Pid(pid) => facts.pid == Some(*pid),
            Self::User(user) => facts.user == Some(*user),
            Self::Process(name) => facts.process.is_some_and(|process| is_process(process, name)),
            Self::Cgroup(wanted) => facts.cgroup.is_some_and(|path| is_in_cgroup(path, wanted)),
            Self::Interface(name) => facts.interface == Some(name.as_str()),
            Self::Not(not) => !not.matches(facts),
            Self::And(one, other) => one.matches(facts) && other.matches(facts),
            Self::Or(one, other) => one.matches(facts) || other.matches(facts),
        }
    }

    fn is_pair(&self) -> bool {
        matches!(self, Self::And(..) | Self::Or(..))
    }
}

impl End {
    fn is_so(self, facts: &Facts<'_>, what: impl Fn(Endpoint) -> bool) -> bool {
        let (local, remote) = (facts.local.is_some_and(&what), facts.remote.is_some_and(&what));
        match self {
            Self::Either => local || remote,
            Self::Local => local,
            Self::Remote => remote,
            Self::Both => local && remote,
        }
    }
}

/// TASK_COMM_LEN without its closing zero.
const PROCESS_NAME: usize = 15;

fn is_process(process: &str, wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    wanted.get(..PROCESS_NAME).unwrap_or(wanted) == process.as_bytes()
}

/// A path means all below it; a name any directory on the way.
fn is_in_cgroup(path: &str, wanted: &str) -> bool {
    let Some(wanted) = wanted.strip_prefix('/') else { return path.split('/').any(|part| part == wanted) };
    let wanted = wanted.trim_end_matches('/');
    let below = path.trim_start_matches('/').strip_prefix(wanted);
    below.is_some_and(|rest| wanted.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

impl From<Whose> for Expression {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Tag(tag) => Self::Tag(tag),
            Whose::Experiment(experiment) => Self::Experiment(experiment),
        }
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    /// As [`Expression::parse_with`], of tags in numbers: `tag 3/14`, `experiment 3`.
    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        parse::parse(text, &parse::numbers)
    }
}

/// As it can be read again. Tags are told by their numbers.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Net(end, net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "{end}host {}", net.addr())
            }
            Self::Net(end, net) => write!(f, "{end}net {net}"),
            Self::Ports(end, first, last) if first == last => write!(f, "{end}port {first}"),
            Self::Ports(end, first, last) => write!(f, "{end}portrange {first}-{last}"),
            Self::Protocol(number) => match parse::protocol_name(*number) {
                Some(name) => f.write_str(name),
                None => write!(f, "proto {number}"),
            },
            Self::Ipv4 => f.write_str("ip"),
            Self::Ipv6 => f.write_str("ip6"),
            Self::Tagged => f.write_str("tag any"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Experiment(experiment) => write!(f, "experiment {experiment}"),
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::User(user) => write!(f, "user {user}"),
            Self::Process(name) => write!(f, "process {}", Quoted(name)),
            Self::Cgroup(path) => write!(f, "cgroup {}", Quoted(path)),
            Self::Interface(name) => write!(f, "interface {}", Quoted(name)),
            Self::Not(not) if not.is_pair() => write!(f, "not ({not})"),
            Self::Not(not) => write!(f, "not {not}"),
            Self::And(one, other) => pair(f, one, "and", other),
            Self::Or(one, other) => pair(f, one, "or", other),
        }
    }
}

/// From the left: only what stands to the right needs parentheses.
fn pair(f: &mut fmt::Formatter<'_>, one: &Expression, word: &str, other: &Expression) -> fmt::Result {
    if other.is_pair() { write!(f, "{one} {word} ({other})") } else { write!(f, "{one} {word} {other}") }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Either => "",
            Self::Local => "local ",
            Self::Remote => "remote ",
            Self::Both => "src and dst ",
        })
    }
}

/// A name, in quotes where it could be read as something else.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_alphanumeric() || "._/@:+-".contains(c);
        let is_word = !self.0.is_empty() && self.0.chars().all(is_plain);
        if is_word && !["and", "or", "not"].contains(&self.0) {
            return f.write_str(self.0);
        }
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_a_path_or_a_name_on_it() {
        for (path, wanted, expected) in [
            ("/system.slice/xrootd.service", "xrootd.service", true),
            ("/system.slice/xrootd.service/worker", "xrootd.service", true),
            ("/system.slice/xrootd.service", "xrootd", false),
            ("/system.slice/xrootd.service", "/system.slice", true),
            ("/system.slice/xrootd.service", "/system.slice/", true),
            ("/system.slices", "/system.slice", false),
            ("/system.slice", "/", true),
            ("/", "/", true),
        ] {
            assert_eq!(is_in_cgroup(path, wanted), expected, "{path} in {wanted}");
        }
    }
}
