//! `flowtag flow`: tell the running daemon of flows, and see what it knows.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use flowtag_engine::Registry;

use super::{Control, output};
use crate::client::{Client, block_on};
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
struct Start {
    /// Whose flow it is: EXPERIMENT/ACTIVITY, names or numbers
    #[arg(short, long, required_unless_present = "scitag", conflicts_with = "scitag")]
    tag: Option<String>,
    /// The same as one number: experiment × 64 + activity
    #[arg(long)]
    scitag: Option<u64>,
    /// Name and version of the program that moves the data
    #[arg(long)]
    application: Option<String>,
    #[command(flatten)]
    flow: FiveTuple,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Args)]
struct End {
    /// The flow's number, as `flow list` shows it, or its protocol, source and destination
    #[arg(required = true, num_args = 1..=3, value_names = ["ID|PROTOCOL", "SRC", "DST"])]
    flow: Vec<String>,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Args)]
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
            application: self.application,
            ..StartRequest::default()
        };
        let mut client = Client::connect(self.control.socket.as_deref()).await?;
        let started: Started = client.post("/v1/flows", &request).await?;
        if json {
            return output::json(&started);
        }
        let flow = &started.flow;
        let carries = match (&flow.label, flow.marking.as_str()) {
            (Some(label), _) => format!("packets carry label {label}"),
            (None, "not-ipv6") => "IPv4 has no flow label: reported, not marked".to_owned(),
            (None, "table-full") => "not marked: the kernel's table is full (flows.max)".to_owned(),
            (None, _) => "not marked: marking is off (mark.enabled)".to_owned(),
        };
        output::line(format_args!("flow {} {}: {}; {carries}", flow.id, started.outcome, tag_of(flow)))
    }
}

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
        let request = match self.flow.as_slice() {
            [id] => EndRequest {
                id: Some(id.parse().with_context(|| format!("{id:?} is not a flow's number"))?),
                ..EndRequest::default()
            },
            [protocol, src, dst] => EndRequest {
                protocol: Some(protocol.clone()),
                src: Some(src.clone()),
                dst: Some(dst.clone()),
                ..EndRequest::default()
            },
            _ => bail!("which flow is not clear: give its number, or protocol, source and destination"),
        };
        let mut client = Client::connect(self.control.socket.as_deref()).await?;
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
        let mut client = Client::connect(self.control.socket.as_deref()).await?;
        let flows: Flows = client.get(&path).await?;
        if json {
            return flows.flows.iter().try_for_each(output::json);
        }
        let mut table =
            output::table(&["ID", "TAG", "LABEL", "PROTO", "LOCAL", "REMOTE", "FROM", "LAST SEEN"]);
        for flow in &flows.flows {
            table.add_row([
                flow.id.to_string(),
                tag_of(flow),
                flow.label.clone().unwrap_or_else(|| flow.marking.clone()),
                flow.protocol.clone(),
                flow.local.clone(),
                flow.remote.clone(),
                flow.source.clone(),
                ago(flow.last_activity),
            ]);
        }
        output::print_table(&table)?;
        output::line(match (flows.flows.len(), flows.total) {
            (1, 1) => "1 flow".to_owned(),
            (shown, total) if shown == total => format!("{total} flows"),
            (shown, total) => format!("{shown} of {total} flows"),
        })
    }
}

fn ago(at: jiff::Timestamp) -> String {
    let seconds = jiff::Timestamp::now().duration_since(at).as_secs().max(0).unsigned_abs();
    format!("{} ago", humantime::format_duration(std::time::Duration::from_secs(seconds)))
}

/// RFC 3986 §2.1, for names with blanks.
fn percent_encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Watch {
    async fn run(self, json: bool) -> Result<()> {
        let mut client = Client::connect(self.control.socket.as_deref()).await?;
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
        format!("{at:.3}  {what:<8} {}  {} {} > {}", tag_of(flow), flow.protocol, flow.src, flow.dst)
    };
    match line {
        WatchLine::Started { at, flow } => text(at, "started", flow),
        WatchLine::Updated { at, flow } => text(at, "updated", flow),
        WatchLine::Ended { at, reason, flow } => format!("{}  ({reason})", text(at, "ended", flow)),
        WatchLine::Lost { changes } => format!("{changes} changes lost: this terminal was too slow"),
    }
}
