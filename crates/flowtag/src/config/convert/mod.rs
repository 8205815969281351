//! The configurations of flowd and flowd-go as ours: what they say, with the old keys as comments, and what became of every
//! key. Nothing of the old file is run, and nothing else is read.

mod draft;
mod flowd;
mod flowd_go;
mod node;
mod python;
mod report;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use flowtag_wire::Tag;
use serde::Serialize;

use super::ConfigError;
use draft::{COLLECTORS, Draft};
pub(crate) use report::{Became, Finding, Severity};
use report::{Key, Problem};

/// Who the file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// YAML or JSON.
    FlowdGo,
    /// `flowd.cfg`: Python.
    Flowd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FlowdGo => "flowd-go",
            Self::Flowd => "flowd",
        })
    }
}

/// An old configuration as ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Converted {
    pub(crate) format: Format,
    /// Not checked yet.
    pub(crate) toml: String,
    /// In the order of the old file.
    pub(crate) findings: Vec<Finding>,
}

/// None: it is ours. Told by the first line that says something, and not by the file's name: TOML has `key = value` and
/// `[section]`, YAML has `key:`, and flowd's keys are in upper case, which none of ours is. A `flowd.cfg` may begin with
/// anything that Python takes, but has one of two keys.
pub(super) fn detect(text: &str) -> Option<Format> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    if first.starts_with("---") || first.starts_with("%YAML") || first.starts_with('{') {
        return Some(Format::FlowdGo);
    }
    let (word, rest) = first_word(first);
    let is_upper = word.starts_with(|c: char| c.is_ascii_uppercase()) && word == word.to_ascii_uppercase();
    // flowd-go's own sample has `workDir":`.
    match rest.trim_start_matches('"').trim_start().chars().next() {
        Some(':') if !word.is_empty() => Some(Format::FlowdGo),
        Some('=') if is_upper => Some(Format::Flowd),
        _ => text.lines().any(is_of_flowd).then_some(Format::Flowd),
    }
}

/// Up to the end of the word, or of the text in quotes, with which the line begins; and what follows.
fn first_word(line: &str) -> (&str, &str) {
    let quote = line.chars().next().filter(|c| "\"'".contains(*c));
    let inner = quote.and_then(|quote| line.strip_prefix(quote));
    let quoted = inner.and_then(|inner| quote.and_then(|quote| inner.split_once(quote)));
    let letter = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    quoted.unwrap_or_else(|| line.split_at(line.find(|c| !letter(c)).unwrap_or(line.len())))
}

fn is_of_flowd(line: &str) -> bool {
    let value = ["PLUGIN", "BACKEND"].into_iter().find_map(|key| line.strip_prefix(key));
    value.is_some_and(|rest| rest.trim_start().starts_with('='))
}

/// # Errors
/// It cannot be read, or the daemon that it is for would not have taken it.
pub(super) fn convert(text: &str, path: &str, format: Format) -> Result<Converted, ConfigError> {
    let made = match format {
        Format::FlowdGo => node::from_yaml(text).and_then(flowd_go::convert),
        Format::Flowd => flowd::convert(text),
    };
    let Maker { draft, mut findings } = made.map_err(|problem| {
        let message = format!("as a configuration of {format}: {problem}");
        ConfigError::Syntax { path: path.to_owned(), message }
    })?;
    findings.sort_by_key(|finding| finding.line);
    let header = format!(
        "Made of {path}, a configuration of {format}, by flowtag {}. Above each value is where it is from.\n\
         All keys and what they mean: flowtag config default",
        env!("CARGO_PKG_VERSION"),
    );
    let mut toml = draft.to_toml(&header);
    let gone = findings.iter().filter(|f| matches!(f.became, Became::NotSupported | Became::Unknown));
    for (index, finding) in gone.enumerate() {
        if index == 0 {
            toml.push_str("\n# Not converted:\n");
        }
        toml.push_str(&format!("# {finding}\n"));
    }
    Ok(Converted { format, toml, findings })
}

/// Makes the new configuration and remembers what it was made of.
#[derive(Debug, Default)]
struct Maker {
    draft: Draft,
    findings: Vec<Finding>,
}

/// The comment for what is made of it.
fn origin(key: &Key) -> String {
    format!("{} (line {})", key.path, key.line)
}

impl Maker {
    fn note(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The plain case: the same value under another name.
    fn set(&mut self, key: &Key, to: &str, value: impl Into<toml::Value>) {
        self.draft.set(to, value, origin(key));
        self.note(Finding::converted(key, &[to]));
    }

    fn not_needed(&mut self, key: Option<Key>, why: &str) {
        if let Some(key) = key {
            self.note(Finding::not_needed(&key, why));
        }
    }

    /// A pipe that any local user may write to, as the old daemons make it.
    fn open_pipe(&mut self, key: &Key) {
        const ADVICE: &str = "every local user may write to it, as before, and tag any flow: better give your producers a group, with \
                              inputs.pipe.group and mode = \"0620\"";
        self.draft.set("inputs.pipe.enabled", true, origin(key));
        self.draft.set("inputs.pipe.mode", "0666", format!("{}: {ADVICE}", origin(key)));
        let to = ["inputs.pipe.enabled", "inputs.pipe.mode"];
        self.note(Finding::converted(key, &to).warning(ADVICE));
    }

    /// What the old daemons, which believe everybody, would have listened to at that address.
    fn believe(&mut self, listen: SocketAddr, from: &str) {
        if !listen.ip().is_loopback() {
            self.draft.set("inputs.firefly.sources", vec!["0.0.0.0/0", "::/0"], from);
        }
    }

    /// Rules are matched by the programs that mark; without a backend that marks they would not be there.
    fn mark_or_not(&mut self, marks: bool, rules_of: Option<&Key>) {
        const WARNING: &str = "its flows are found by the programs that mark, so that they are marked as well as reported; \
                               mark.interfaces says where (all with a global IPv6 address)";
        match rules_of {
            _ if marks => {}
            Some(key) if self.draft.has_rules() => {
                self.draft.set("mark.interfaces", vec!["auto"], format!("{}: {WARNING}", origin(key)));
                self.note(Finding::converted(key, &["mark.interfaces"]).warning(WARNING));
            }
            _ => self.draft.set("mark.enabled", false, "the old file has no backend that marks"),
        }
    }
}

/// `ADDRESS:PORT` as the old daemons understand the two.
fn listen(address: &Key, port: u16) -> Result<SocketAddr, Problem> {
    let text = address.text()?;
    let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(&text);
    let ip: IpAddr = match literal {
        "" => IpAddr::from([0_u16; 8]),
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        literal => literal.parse().map_err(|_| address.problem("is not an IP address: write one"))?,
    };
    Ok(SocketAddr::new(ip, port))
}

/// A host, which may be an IPv6 address without brackets, and a port.
fn host_port(host: &str, port: u16) -> String {
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// A STUN server as `HOST:PORT`; the scheme is left out, and the port may be.
fn stun_server(text: &str) -> String {
    let text = text.strip_prefix("stun:").unwrap_or(text);
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port { text.to_owned() } else { host_port(text, 3478) }
}

/// The pairs of experiments and activities that are tags, each once, and those that are not.
fn tags(pairs: impl IntoIterator<Item = (i64, i64)>) -> (Vec<String>, Vec<String>) {
    let (mut tags, mut others) = (Vec::new(), Vec::new());
    for (experiment, activity) in pairs {
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let (list, text) = match Tag::new(number(experiment), number(activity)) {
            Ok(tag) => (&mut tags, tag.to_string()),
            Err(_) => (&mut others, format!("{experiment}/{activity}")),
        };
        if !list.contains(&text) {
            list.push(text);
        }
    }
    (tags, others)
}

/// Most tags that a rule takes.
const MAX_TAGS: usize = 16;
const NO_TAG: &str =
    "experiments are 1 to 511 and activities 1 to 63, and 0 in a packet says nothing to anybody";

/// The keys of a rule that say what its packets get.
fn tag_keys(mut tags: Vec<String>) -> Vec<(&'static str, toml::Value)> {
    tags.truncate(MAX_TAGS);
    match tags.as_slice() {
        [tag] => vec![("tag", tag.as_str().into())],
        _ => vec![("tags", tags.into())],
    }
}

/// A time in the range of the key that it is for, and whether it had to be changed for that.
fn within(milliseconds: i64, max: Duration) -> (String, bool) {
    let wanted = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0));
    let time = wanted.clamp(Duration::from_secs(1), max);
    (humantime::format_duration(time).to_string().replace(' ', ""), time != wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_what_is_in_the_file() {
        use Format::{Flowd, FlowdGo};
        for (text, expected) in [
            ("", None),
            ("# nothing\n", None),
            ("[mark]\nenabled = false\n", None),
            ("runtime_dir = \"/run/x\"\n", None),
            ("\"runtime_dir\" = \"/run/x\"\n", None),
            ("mark.enabled = false\n", None),
            ("---\n# all commented out\n", Some(FlowdGo)),
            ("# x\n\nplugins:\n    api: {}\n", Some(FlowdGo)),
            ("\u{feff}pidPath: /x\n", Some(FlowdGo)),
            ("\"plugins\": {}\n", Some(FlowdGo)),
            ("workDir\": /x\n", Some(FlowdGo)),
            ("\"a b\": 1\n", Some(FlowdGo)),
            ("  {\n \"plugins\": {} }", Some(FlowdGo)),
            ("PLUGIN='netstat'\nBACKEND='udp_firefly'", Some(Flowd)),
            ("# flowd\nFLOW_MAP_API = \"https://x\"", Some(Flowd)),
            ("import os\nPLUGIN='np_api'\n", Some(Flowd)),
            ("\"\"\"Ours.\"\"\"\nsite = 'x'\nBACKEND = 'prometheus'\n", Some(Flowd)),
            ("[log]\nlevel = \"info\" # PLUGIN = 'x'\n", None),
        ] {
            assert_eq!(detect(text), expected, "{text:?}");
        }
    }

    #[test]
    fn servers_and_times_are_put_into_our_form() {
        for (text, expected) in [
            ("stun:stun.l.google.com:19305", "stun.l.google.com:19305"),
            ("foo.stun.faa", "foo.stun.faa:3478"),
            ("2001:db8::1", "[2001:db8::1]:3478"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("192.0.2.1", "192.0.2.1:3478"),
        ] {
            assert_eq!(stun_server(text), expected);
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(within(1500, hour), ("1s500ms".into(), false));
        assert_eq!(within(0, hour), ("1s".into(), true));
        assert_eq!(within(i64::MAX, hour), ("1h".into(), true));
        assert_eq!(host_port("2001:720::a", 10515), "[2001:720::a]:10515");
    }
}
