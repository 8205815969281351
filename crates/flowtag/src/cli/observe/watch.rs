//! Runs a probe until it is told to stop, and prints what it tells.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flowtag_kernel::mark::FlowTable;
use flowtag_kernel::probes::{self, Description, Losses, Merge, Options, Record, Session, Source};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::args::{Wanted, Watch};
use super::group::{Dimension, Groups, json_of};
use super::names::{Names, unit};
use super::table::{self, Layout, View};
use crate::cli::{output, registry};
use crate::client::{Client, block_on};
use crate::inputs::control::model::Status;

/// Lines after which a terminal's header is repeated.
const REPEAT: usize = 40;
/// How often rows are told that nobody said an interval for.
const INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn run(probe: &'static Description, options: Options, watch: Watch, json: bool) -> Result<()> {
    let names = Names::new(registry::of_this_host());
    let wanted = watch.wanted(&names)?;
    let by = dimensions(probe, &watch)?;
    let flows = daemon_flows(watch.socket.as_deref());
    let session = Session::start(&watch.scope()?, flows.as_ref(), &[(probe, options)])?;
    for missing in session.missing() {
        eprintln!("flowtag: not known here: {} (this kernel lacks {})", missing.consequence, missing.hook);
    }
    let stop = Stop::new(watch.duration)?;
    eprintln!("flowtag: watching, Ctrl-C ends");
    let view = View { names: &names, epoch: probes::wall_clock() };
    let running = Running { probe, session: &session, wanted, view, stop, json, watch: &watch };
    match probe.source {
        Source::Events(_) => running.events(by)?,
        Source::Rows(_) => running.rows(by)?,
    }
    summary(session.losses()?, json)
}

fn dimensions(probe: &'static Description, watch: &Watch) -> Result<Vec<Dimension>> {
    if watch.count {
        return Ok(vec![Dimension::Flow]);
    }
    watch.by.iter().map(|name| Dimension::parse(name, probe)).collect()
}

/// The table of the daemon that runs, which knows tags; none without a daemon, or where we may not look.
pub(super) fn daemon_flows(socket: Option<&Path>) -> Option<FlowTable> {
    let status: Result<Status> = block_on(async { Client::connect(socket).await?.get("/v1/status").await });
    FlowTable::from_id(status.ok()?.flow_table?)
}

/// When to end: told by a signal, or after a time.
#[derive(Debug)]
pub(super) struct Stop {
    told: Arc<AtomicBool>,
    at: Option<Instant>,
}

impl Stop {
    pub(super) fn new(after: Option<Duration>) -> Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&told)).context("cannot wait for signals")?;
        }
        Ok(Self { told, at: after.map(|d| Instant::now() + d) })
    }

    pub(super) fn is_now(&self) -> bool {
        self.told.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// How long to wait at most for `until`.
    pub(super) fn wait(&self, until: Option<Instant>) -> Duration {
        let next = [self.at, until].into_iter().flatten().min();
        let left = next.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(Instant::now()));
        left.min(Duration::from_secs(1))
    }
}

struct Running<'a> {
    probe: &'static Description,
    session: &'a Session,
    wanted: Wanted,
    view: View<'a>,
    stop: Stop,
    json: bool,
    watch: &'a Watch,
}

impl Running<'_> {
    fn events(&self, by: Vec<Dimension>) -> Result<()> {
        let lines = Lines::new(self);
        let is_summed = !by.is_empty() || self.watch.interval.is_some();
        let by = if by.is_empty() { self.first_key() } else { by };
        let mut groups = Groups::new(self.probe, by, true);
        let mut lines = if is_summed { None } else { Some(lines) };
        let mut next = self.watch.interval.map(|i| Instant::now() + i);
        loop {
            let is_last = self.stop.is_now();
            for (_, record) in self.session.next(self.stop.wait(next))? {
                if !self.wanted.wants(&record.context, self.view.names) {
                    continue;
                }
                groups.add(&record, &self.view);
                lines.as_mut().map_or(Ok(()), |lines| lines.print(&record))?;
            }
            if next.is_some_and(|at| Instant::now() >= at) && !is_last {
                next = next.zip(self.watch.interval).map(|(at, i)| at + i);
                self.print(&groups)?;
                groups.clear();
            }
            if is_last {
                break;
            }
        }
        // In JSON each event has been told already.
        if groups.is_empty() || (self.json && !is_summed) { Ok(()) } else { self.print(&groups) }
    }

    /// What people want to see added up at the end: by what the first column says.
    fn first_key(&self) -> Vec<Dimension> {
        let key = self.probe.columns.iter().enumerate().find(|(_, c)| c.merge == Merge::Key);
        key.map(|(n, column)| Dimension::Column(n, column.name)).into_iter().collect()
    }

    fn rows(&self, by: Vec<Dimension>) -> Result<()> {
        let keys = self.probe.columns.iter().enumerate().filter(|(_, c)| c.merge == Merge::Key);
        let all = keys.map(|(n, column)| Dimension::Column(n, column.name)).collect();
        let by: Vec<_> = if by.is_empty() { all } else { by };
        let interval = self.watch.interval.unwrap_or(INTERVAL);
        let mut next = Instant::now() + interval;
        let mut before = Groups::new(self.probe, by.clone(), false);
        loop {
            let is_last = self.stop.is_now();
            if is_last || Instant::now() >= next {
                next += interval;
                let mut now = Groups::new(self.probe, by.clone(), false);
                for (_, record) in self.session.rows()? {
                    if self.wanted.wants(&record.context, self.view.names) {
                        now.add(&record, &self.view);
                    }
                }
                // At the end, all of it.
                self.print(&if is_last && !self.json {
                    now.since(&Groups::new(self.probe, by.clone(), false))
                } else {
                    now.since(&before)
                })?;
                before = now;
            }
            if is_last {
                return Ok(());
            }
            std::thread::sleep(self.stop.wait(Some(next)).min(Duration::from_millis(100)));
        }
    }

    fn print(&self, groups: &Groups) -> Result<()> {
        if self.json {
            return groups.print_json(Timestamp::now());
        }
        if groups.is_empty() {
            return Ok(());
        }
        output::line("")?;
        groups.print()
    }
}

/// Prints a line for each event.
struct Lines<'a> {
    running: &'a Running<'a>,
    layout: Layout,
    printed: usize,
    repeats: bool,
}

impl<'a> Lines<'a> {
    fn new(running: &'a Running<'a>) -> Self {
        let layout = Layout::new(running.probe, table::terminal_width());
        Self { running, layout, printed: 0, repeats: std::io::stdout().is_terminal() }
    }

    fn print(&mut self, record: &Record) -> Result<()> {
        let view = &self.running.view;
        if self.running.json {
            return output::json(&object(self.running.probe, record, view));
        }
        if self.printed == 0 || (self.repeats && self.printed.is_multiple_of(REPEAT)) {
            output::line(self.layout.header())?;
        }
        self.printed += 1;
        output::line(self.layout.line(record, view))
    }
}

/// A record in JSON.
pub(super) fn object(probe: &'static Description, record: &Record, view: &View<'_>) -> Map<String, Value> {
    let mut object = context(record, view);
    object.extend(probe.columns.iter().zip(&record.values).map(|(c, v)| (c.name.to_owned(), json_of(v))));
    object
}

/// Of whom a record is, in JSON.
fn context(record: &Record, view: &View<'_>) -> Map<String, Value> {
    let context = &record.context;
    let (flow, tag, owner) = (context.flow, context.tag, &context.owner);
    let cgroup = owner.cgroup.and_then(|id| view.names.cgroup(id));
    let names = tag.map(|tag| {
        let registry = view.names.registry();
        (registry.experiment_name(tag.experiment), registry.activity_name(tag.experiment, tag.activity))
    });
    let fields = [
        ("time", json!(table::timestamp(context.time, view))),
        ("protocol", json!(flow.map(|f| table::protocol(f.protocol)))),
        ("local_address", json!(flow.map(|f| f.local.addr()))),
        ("local_port", json!(flow.map(|f| f.local.port()))),
        ("remote_address", json!(flow.map(|f| f.remote.addr()))),
        ("remote_port", json!(flow.map(|f| f.remote.port()))),
        ("experiment", json!(tag.map(|t| t.experiment.get()))),
        ("activity", json!(tag.map(|t| t.activity.get()))),
        ("experiment_name", json!(names.and_then(|n| n.0))),
        ("activity_name", json!(names.and_then(|n| n.1))),
        ("pid", json!(owner.pid)),
        ("process", json!(owner.process)),
        ("user", json!(owner.user)),
        ("unit", json!(cgroup.as_deref().and_then(unit))),
        ("cgroup", json!(cgroup)),
        ("netns", json!(context.netns)),
        ("interface", json!(context.interface.and_then(|i| view.names.interface(context.netns, i)))),
        ("socket_cookie", json!(context.cookie)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What every command ends with.
pub(super) fn summary(losses: Losses, json: bool) -> Result<()> {
    let Losses { events, lost, flows, evicted } = losses;
    if json {
        let counts = json!({ "events": events, "lost": lost, "flows": flows, "evicted": evicted });
        return output::json(&json!({ "summary": counts }));
    }
    output::line(format_args!("events {events}, lost {lost}, flows {flows}, evicted {evicted}"))
}
