//! `flowtag flow`: tell the running daemon of flows, and see what it knows.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use comfy_table::Table;
use flowtag_engine::Registry;

use super::{Control, output};
use crate::client::{block_on, percent_encode};
use crate::inputs::control::model::{
    EndRequest, Flow as Shown, Flows, NameOrNumber, StartRequest, Started, WatchLine,
};

/// Start, end, list or watch flows of the running daemon.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag flow start --tag 'cms/Analysis Input' tcp '[2001:db8::1]:1094' '[2001:db8::2]:40000'\n  \
    flowtag flow start --scitag 206 tcp '[2001:db8::1]:1094' '[2001:db8::2]:40000'\n  \
    flowtag flow end tcp '[2001:db8::1]:1094' '[2001:db8::2]:40000'\n  \
    flowtag flow list --experiment cms\n  \
    flowtag --json flow watch")]
pub(crate) struct Flow {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A flow begins: mark its packets and report it
    Start(Start),
    /// A flow is over
    End(End),
    /// The flows that the daemon knows
    List(List),
    /// Flows as they start, change and end, until Ctrl-C
    Watch(Watch),
}

#[derive(Debug, Args)]
struct FiveTuple {
    /// tcp or udp
    protocol: String,
    #[arg(help = "Source, as 192.0.2.1:1094 or [2001:db8::1]:1094")]
    src: String,
    /// Destination, in the same form
    dst: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag flow start --tag 'cms/Analysis Input' tcp '[2001:db8::1]:1094' '[2001:db8::2]:40000'\n  \
    flowtag flow start --tag 3/14 --strategy label+destination tcp '[2001:db8::1]:1094' '[2001:db8::2]:40000'\n  \
    flowtag flow start --scitag 206 --application 'xrootd 5.7' udp 192.0.2.1:1094 192.0.2.2:40000")]
struct Start {
    /// Whose flow it is: EXPERIMENT/ACTIVITY, names or numbers
    #[arg(short, long, required_unless_present = "scitag", conflicts_with = "scitag")]
    tag: Option<String>,
    /// The same as one number: experiment × 64 + activity
    #[arg(long)]
    scitag: Option<u64>,
    /// Where the tag is written: label, destination, hop-by-hop, or several joined by + [default: mark.strategy]
    #[arg(long)]
    strategy: Option<String>,
    /// Name and version of the program that moves the data
    #[arg(long)]
    application: Option<String>,
    /// Report how it goes on that often, as 30s or 10m [default: flows.report_every]
    #[arg(long)]
    report_every: Option<String>,
    #[command(flatten)]
    flow: FiveTuple,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "flowtag flow end [OPTIONS] <ID>\n       flowtag flow end [OPTIONS] <PROTOCOL> <SRC> <DST>"
)]
#[command(after_help = "Examples:\n  \
    flowtag flow end 17\n  \
    flowtag flow end tcp '[2001:db8::1]:1094' '[2001:db8::2]:40000'")]
struct End {
    /// The flow's number, as `flow list` shows it, or its protocol
    #[arg(value_name = "ID|PROTOCOL")]
    which: String,
    /// Its source, in the form of `flow start`
    src: Option<String>,
    /// Its destination
    dst: Option<String>,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag flow list\n  \
    flowtag flow list --experiment cms --limit 10\n  \
    flowtag --json flow list | jq -r 'select(.rule == \"xrootd\") | .remote'")]
struct List {
    /// Only flows of this experiment, name or number
    #[arg(short, long)]
    experiment: Option<String>,
    /// At most so many, oldest first
    #[arg(short = 'n', long)]
    limit: Option<usize>,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag flow watch\n  \
    flowtag --json flow watch | jq 'select(.change == \"ended\")'")]
struct Watch {
    #[command(flatten)]
    control: Control,
}

impl Flow {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        block_on(async {
            match self.command {
                Command::Start(command) => command.run(json).await,
                Command::End(command) => command.run(json).await,
                Command::List(command) => command.run(json).await,
                Command::Watch(command) => command.run(json).await,
            }
        })
    }
}

impl Start {
    async fn run(self, json: bool) -> Result<()> {
        let (experiment, activity) = match self.tag.as_deref().map(split_tag).transpose()? {
            Some((experiment, activity)) => (Some(experiment), Some(activity)),
            None => (None, None),
        };
        let FiveTuple { protocol, src, dst } = self.flow;
        let request = StartRequest {
            protocol,
            src,
            dst,
            experiment,
            activity,
            scitag: self.scitag,
            strategy: self.strategy,
            application: self.application,
            report_every: self.report_every,
            ..StartRequest::default()
        };
        let mut client = self.control.connect().await?;
        let started: Started = client.post("/v1/flows", &request).await?;
        if json {
            return output::json(&started);
        }
        let flow = &started.flow;
        let carries = match (&flow.label, flow.marking.as_str()) {
            (Some(label), _) if flow.strategy == LABEL => format!("packets carry label {label}"),
            (_, "marked") => format!("packets carry the tag by {}", flow.strategy),
            (_, "not-ipv6") => "IPv4 has no flow label: reported, not marked".to_owned(),
            (_, "table-full") => "not marked: the kernel's table is full (flows.max)".to_owned(),
            _ => "not marked: marking is off (mark.enabled)".to_owned(),
        };
        output::line(format_args!("flow {} {}: {}; {carries}", flow.id, started.outcome, tag_of(flow)))
    }
}

/// The usual strategy, which is not worth a word.
const LABEL: &str = "label";

/// The daemon resolves names, as it may have another registry; here they are only told apart.
fn split_tag(text: &str) -> Result<(NameOrNumber, NameOrNumber)> {
    let Some((experiment, activity)) = text.split_once('/') else {
        // Says how to write a tag.
        Registry::embedded().resolve(text).with_context(|| format!("--tag {text:?}"))?;
        bail!("--tag {text:?} is not EXPERIMENT/ACTIVITY");
    };
    let part = |text: &str| {
        text.trim().parse().map_or_else(|_| NameOrNumber::Name(text.to_owned()), NameOrNumber::Number)
    };
    Ok((part(experiment), part(activity)))
}

fn tag_of(flow: &Shown) -> String {
    let or_number = |name: &Option<String>, number: u16| name.clone().unwrap_or_else(|| number.to_string());
    let experiment = or_number(&flow.experiment_name, flow.experiment);
    format!("{experiment}/{}", or_number(&flow.activity_name, flow.activity.into()))
}

impl End {
    async fn run(self, json: bool) -> Result<()> {
        let request = match (self.which, self.src, self.dst) {
            (id, None, None) => EndRequest {
                id: Some(id.parse().with_context(|| format!("{id:?} is not a flow's number"))?),
                ..EndRequest::default()
            },
            (protocol, src @ Some(_), dst @ Some(_)) => {
                EndRequest { protocol: Some(protocol), src, dst, ..EndRequest::default() }
            }
            _ => bail!("which flow is not clear: give its number, or protocol, source and destination"),
        };
        let mut client = self.control.connect().await?;
        let flow: Shown = client.post("/v1/flows/end", &request).await?;
        if json {
            output::json(&flow)
        } else {
            output::line(format_args!("flow {} ended: {}", flow.id, tag_of(&flow)))
        }
    }
}

impl List {
    async fn run(self, json: bool) -> Result<()> {
        let mut path = "/v1/flows?".to_owned();
        if let Some(experiment) = &self.experiment {
            path.push_str(&format!("experiment={}&", percent_encode(experiment)));
        }
        if let Some(limit) = self.limit {
            path.push_str(&format!("limit={limit}"));
        }
        let mut client = self.control.connect().await?;
        let flows: Flows = client.get(&path).await?;
        if json {
            return flows.flows.iter().try_for_each(output::json);
        }
        output::print_table(&table(&flows.flows))?;
        output::line(match (flows.flows.len(), flows.total) {
            (1, 1) => "1 flow".to_owned(),
            (shown, total) if shown == total => format!("{total} flows"),
            (shown, total) => format!("{shown} of {total} flows"),
        })
    }
}

/// Columns that would have the same word in every line are left out.
fn table(flows: &[Shown]) -> Table {
    let strategies = flows.iter().any(|flow| flow.strategy != LABEL);
    let rules = flows.iter().any(|flow| flow.rule.is_some());
    let pick = |cells: [Option<String>; 10]| cells.into_iter().flatten().collect::<Vec<_>>();
    let header = ["ID", "TAG", "LABEL", "STRATEGY", "PROTO", "LOCAL", "REMOTE", "FROM", "RULE", "LAST SEEN"];
    let header = header.map(|name| match name {
        "STRATEGY" => strategies.then(|| name.to_owned()),
        "RULE" => rules.then(|| name.to_owned()),
        _ => Some(name.to_owned()),
    });
    let mut table = output::table(&pick(header).iter().map(String::as_str).collect::<Vec<_>>());
    for flow in flows {
        table.add_row(pick([
            Some(flow.id.to_string()),
            Some(tag_of(flow)),
            Some(flow.label.clone().unwrap_or_else(|| flow.marking.clone())),
            strategies.then(|| flow.strategy.clone()),
            Some(flow.protocol.clone()),
            Some(flow.local.clone()),
            Some(flow.remote.clone()),
            Some(flow.source.clone()),
            rules.then(|| flow.rule.clone().unwrap_or_default()),
            Some(ago(flow.last_activity)),
        ]));
    }
    table
}

fn ago(at: jiff::Timestamp) -> String {
    let seconds = jiff::Timestamp::now().duration_since(at).as_secs().max(0).unsigned_abs();
    format!("{} ago", humantime::format_duration(std::time::Duration::from_secs(seconds)))
}

impl Watch {
    async fn run(self, json: bool) -> Result<()> {
        let mut client = self.control.connect().await?;
        client
            .lines("/v1/watch", |line| {
                if json {
                    return output::line(String::from_utf8_lossy(line));
                }
                let line: WatchLine =
                    serde_json::from_slice(line).context("the daemon's answer is not understood")?;
                output::line(describe(&line))
            })
            .await
    }
}

fn describe(line: &WatchLine) -> String {
    let text = |at: &jiff::Timestamp, what: &str, flow: &Shown| {
        let by = Some(&flow.strategy).filter(|strategy| *strategy != LABEL);
        let strategy = by.map(|strategy| format!("  by {strategy}")).unwrap_or_default();
        let rule = flow.rule.as_ref().map(|rule| format!("  rule {rule}")).unwrap_or_default();
        let (tag, Shown { protocol, src, dst, .. }) = (tag_of(flow), flow);
        format!("{at:.3}  {what:<8} {tag}  {protocol} {src} > {dst}{strategy}{rule}")
    };
    match line {
        WatchLine::Started { at, flow } => text(at, "started", flow),
        WatchLine::Updated { at, flow } => text(at, "updated", flow),
        WatchLine::Ended { at, reason, flow } => format!("{}  ({reason})", text(at, "ended", flow)),
        WatchLine::Lost { changes } => format!("{changes} changes lost: this terminal was too slow"),
    }
}
