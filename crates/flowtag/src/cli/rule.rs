//! `flowtag rule`: whose traffic it is that nobody announced.

use anyhow::Result;
use clap::{Args, Subcommand};
use comfy_table::Table;

use super::{Control, output};
use crate::client::{block_on, percent_encode};
use crate::config::{Many, NameOrNumber, RuleText};
use crate::inputs::control::model::{RuleStatus, Rules};
use crate::rules::{Origin, Placed};

/// Characters of a line.
const WIDTH: usize = 80;
/// Conditions get no less, also where names are long.
const LEAST: usize = 24;

/// List, add or delete rules of the running daemon.
///
/// A rule says whose traffic it is that nobody announced: by program, user, port, network or interface. Rules that are to
/// stay belong into the configuration (its `rules`).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag rule list\n  \
    flowtag rule add --name site --remote 2001:db8::/32 --tag cms/default\n  \
    flowtag rule add --name ssh --before site --remote-port 22 --tag never\n  \
    flowtag rule del site")]
pub(crate) struct Rule {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The rules, from first to last: the first that matches applies
    List(List),
    /// One more rule, kept until it is deleted or the host boots
    Add(Box<Add>),
    /// Delete a rule that was added
    Del(Del),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag rule list\n  \
    flowtag rule list --all\n  \
    flowtag --json rule list | jq 'select(.resolved | not) | .rule'")]
struct List {
    /// Also the built-in rules, which keep traffic within the host and private networks from all others
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Of several values for one option, one has to match; all options that are given have to. Without\n\
    any condition the rule matches all traffic.\n\n\
    Examples:\n  \
    flowtag rule add --name xrootd --cgroup xrootd@cms.service --tag 'cms/Analysis Input'\n  \
    flowtag rule add --name door --user dcache --local-port 1094,20000-25000 --tag atlas/default\n  \
    flowtag rule add --name site --remote 2001:db8::/32 --tag cms/default --strategy label+destination\n  \
    flowtag rule add --name ssh --before site --remote-port 22 --tag never\n  \
    flowtag rule add --name test --remote-port 5201 --tag 3/14 --tag 2/9"
)]
struct Add {
    /// What it is called: letters, digits and any of -_.@+
    #[arg(long)]
    name: String,
    /// Whose traffic it is: EXPERIMENT/ACTIVITY, names or numbers; of several, each flow gets one at random. `random`:
    /// any tag; `never`: not marked
    #[arg(short, long, required = true)]
    tag: Vec<String>,
    /// Where the tag is written: label, destination, hop-by-hop, or several joined by + [default: mark.strategy]
    #[arg(long)]
    strategy: Option<String>,
    /// Rule that this one goes before [default: after all others]
    #[arg(long, value_name = "NAME")]
    before: Option<String>,
    #[command(flatten)]
    control: Control,
    #[command(flatten)]
    conditions: Conditions,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Conditions")]
struct Conditions {
    /// systemd unit, or path below the root of cgroup2: /system.slice/xrootd.service
    #[arg(long)]
    cgroup: Vec<String>,
    /// Who made the socket: name in /etc/passwd, or number
    #[arg(long, value_delimiter = ',')]
    user: Vec<String>,
    /// Process that made the socket, as /proc/PID/comm has it
    #[arg(long, value_name = "NAME")]
    process: Vec<String>,
    /// tcp, udp, icmpv6 or number
    #[arg(long, value_delimiter = ',')]
    protocol: Vec<String>,
    /// Ports or ranges on this host: 1094,20000-25000
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    local_port: Vec<String>,
    /// Ports or ranges at the other end
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    remote_port: Vec<String>,
    /// Addresses or prefixes of this host
    #[arg(long, value_delimiter = ',', value_name = "PREFIX")]
    local: Vec<String>,
    /// Addresses or prefixes at the other end: 2001:db8::/32
    #[arg(long, value_delimiter = ',', value_name = "PREFIX")]
    remote: Vec<String>,
    /// Interface that the packet leaves by, or pattern: eth*
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    interface: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag rule del site")]
struct Del {
    /// As `rule list` shows it
    name: String,
    #[command(flatten)]
    control: Control,
}

impl Rule {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        block_on(async {
            match self.command {
                Command::List(command) => command.run(json).await,
                Command::Add(command) => command.run(json).await,
                Command::Del(command) => command.run(json).await,
            }
        })
    }
}

impl List {
    async fn run(self, json: bool) -> Result<()> {
        let mut client = self.control.connect().await?;
        let Rules { marking, rules } = client.get("/v1/rules").await?;
        if json {
            return rules.iter().try_for_each(output::json);
        }
        let is_shown = |rule: &&RuleStatus| self.all || rule.origin != Origin::Builtin;
        let shown: Vec<_> = rules.iter().filter(is_shown).collect();
        output::print_table(&table(&shown))?;
        if let hidden @ 1.. = rules.len() - shown.len() {
            output::line(format_args!(
                "{hidden} built-in rules go first (mark.exclude_private); --all shows them"
            ))?;
        }
        if marking { Ok(()) } else { output::line("marking is off (mark.enabled): no rule applies") }
    }
}

impl Add {
    async fn run(self, json: bool) -> Result<()> {
        let mut client = self.control.connect().await?;
        let added: RuleStatus = client.post("/v1/rules", &self.placed()).await?;
        if json {
            return output::json(&added);
        }
        let nowhere =
            if added.resolved { "" } else { "; what it names is not there yet, so nothing matches" };
        let RuleText { name, .. } = &added.rule;
        output::line(format_args!(
            "rule {} added: {}{nowhere}",
            name.as_deref().unwrap_or_default(),
            tag_of(&added.rule)
        ))
    }

    fn placed(self) -> Placed {
        let Self { conditions, mut tag, .. } = self;
        let number =
            |text: String| text.trim().parse().map_or(NameOrNumber::Name(text), NameOrNumber::Number);
        let numbers = |list: Vec<String>| Many(list.into_iter().map(number).collect());
        let only = if tag.len() == 1 { tag.pop() } else { None };
        let rule = RuleText {
            name: Some(self.name),
            cgroup: Many(conditions.cgroup),
            user: numbers(conditions.user),
            process: Many(conditions.process),
            protocol: numbers(conditions.protocol),
            local_port: numbers(conditions.local_port),
            remote_port: numbers(conditions.remote_port),
            local: Many(conditions.local),
            remote: Many(conditions.remote),
            interface: Many(conditions.interface),
            tag: only,
            tags: Many(tag),
            strategy: self.strategy,
        };
        Placed { rule, before: self.before }
    }
}

impl Del {
    async fn run(self, json: bool) -> Result<()> {
        let mut client = self.control.connect().await?;
        let path = format!("/v1/rules/{}", percent_encode(&self.name));
        let deleted: RuleStatus = client.delete(&path).await?;
        if json { output::json(&deleted) } else { output::line(format_args!("rule {} deleted", self.name)) }
    }
}

fn tag_of(rule: &RuleText) -> String {
    rule.tag.clone().unwrap_or_else(|| rule.tags.0.join(", "))
}

/// A line for each condition. A column for the strategy only where some rule has one.
fn table(rules: &[&RuleStatus]) -> Table {
    let strategies = rules.iter().any(|rule| rule.rule.strategy.is_some());
    let mut header = vec!["NAME", "TAG", "FROM", "MATCHES"];
    if strategies {
        header.insert(2, "STRATEGY");
    }
    let mut table = output::table(&header);
    let firsts: Vec<_> = rules.iter().map(|rule| first_cells(rule, strategies)).collect();
    let columns = header.len() - 1;
    let widest = |column: usize| firsts.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let taken: usize = (0..columns).map(|column| widest(column).max(header[column].len()) + 2).sum();
    for (rule, mut cells) in rules.iter().zip(firsts) {
        for line in matches(rule, WIDTH.saturating_sub(taken).max(LEAST)) {
            cells.push(line);
            table.add_row(std::mem::replace(&mut cells, vec![String::new(); columns]));
        }
    }
    table
}

fn first_cells(RuleStatus { rule, origin, .. }: &RuleStatus, strategies: bool) -> Vec<String> {
    let origin = match origin {
        Origin::Builtin => "builtin",
        Origin::Config => "config",
        Origin::Api => "api",
        Origin::Default => "default",
    };
    let mut cells = vec![rule.name.clone().unwrap_or_default(), tag_of(rule), origin.to_owned()];
    if strategies {
        cells.insert(2, rule.strategy.clone().unwrap_or_default());
    }
    cells
}

/// Conditions in the words of the configuration, in lines of at most `width` where values are short enough.
fn matches(status: &RuleStatus, width: usize) -> Vec<String> {
    fn texts<T: ToString>(Many(list): &Many<T>) -> Vec<String> {
        list.iter().map(T::to_string).collect()
    }
    let rule = &status.rule;
    let conditions = [
        ("cgroup", texts(&rule.cgroup)),
        ("user", texts(&rule.user)),
        ("process", texts(&rule.process)),
        ("protocol", texts(&rule.protocol)),
        ("local port", texts(&rule.local_port)),
        ("remote port", texts(&rule.remote_port)),
        ("local", texts(&rule.local)),
        ("remote", texts(&rule.remote)),
        ("interface", texts(&rule.interface)),
    ];
    let given = conditions.into_iter().filter(|(_, values)| !values.is_empty());
    let mut lines: Vec<_> = given.flat_map(|(key, values)| fill(key, &values, width)).collect();
    if lines.is_empty() {
        lines.push("everything".to_owned());
    }
    if !status.resolved {
        lines.push("(absent: matches nothing)".to_owned());
    }
    lines
}

/// `key a, b,` and on the next lines, indented, the rest.
fn fill(key: &str, values: &[String], width: usize) -> Vec<String> {
    let mut lines = vec![key.to_owned()];
    for (number, value) in values.iter().enumerate() {
        let value = if number + 1 < values.len() { format!("{value},") } else { value.clone() };
        match lines.last_mut() {
            // The first value stands beside its key, however long it is.
            Some(line) if number == 0 || line.chars().count() + 1 + value.chars().count() <= width => {
                line.push(' ');
                line.push_str(&value);
            }
            _ => lines.push(format!("  {value}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str, origin: Origin, resolved: bool) -> RuleStatus {
        RuleStatus { origin, resolved, rule: serde_json::from_str(json).expect("a rule") }
    }

    #[test]
    fn rules_are_shown_in_80_columns_with_a_line_for_each_condition() {
        let prefixes: Vec<_> = (1..8).map(|n| format!("\"2001:db8:{n}::/48\"")).collect();
        let many = format!(
            "{{\"name\": \"xrootd\", \"cgroup\": \"xrootd@cms.service\", \"remote\": [{}], \
            \"tag\": \"cms/Analysis Input\", \"strategy\": \"destination\"}}",
            prefixes.join(", ")
        );
        let rules = [
            status(&many, Origin::Config, false),
            status(
                r#"{"name": "test", "local_port": [1094, "2000-3000"], "tags": ["3/14", "2/9"]}"#,
                Origin::Api,
                true,
            ),
            status(r#"{"name": "rest", "tag": "random"}"#, Origin::Default, true),
        ];
        let lines = output::table_lines(&table(&rules.iter().collect::<Vec<_>>()));
        assert_eq!(
            lines,
            [
                "NAME    TAG                 STRATEGY     FROM     MATCHES",
                "xrootd  cms/Analysis Input  destination  config   cgroup xrootd@cms.service",
                "                                                  remote 2001:db8:1::/48,",
                "                                                    2001:db8:2::/48,",
                "                                                    2001:db8:3::/48,",
                "                                                    2001:db8:4::/48,",
                "                                                    2001:db8:5::/48,",
                "                                                    2001:db8:6::/48,",
                "                                                    2001:db8:7::/48",
                "                                                  (absent: matches nothing)",
                "test    3/14, 2/9                        api      local port 1094, 2000-3000",
                "rest    random                           default  everything",
            ]
        );
    }
}
