//! Runs a probe until it is told to stop, and prints what it tells.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use flowtag_kernel::features::Capabilities;
use flowtag_kernel::mark::FlowTable;
use flowtag_kernel::probes::{
    self, Column, Description, Flow, Losses, Merge, Missing, Options, Record, Scope, Session, Source, Unit,
};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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
/// How often owners are looked for, at most.
const LEARN: Duration = Duration::from_secs(1);

/// What a command has beyond those of other probes that sum up in the kernel.
pub(super) struct Rows {
    /// What sums are by where nobody says; none: by all columns that tell rows apart.
    pub(super) by: Option<Dimension>,
    /// Takes over names that the probe knows.
    pub(super) learn: fn(&Session, &Names) -> Result<()>,
    /// Of rows, as they are or as they have grown, those that count.
    pub(super) choose: fn(Vec<Record>, &[Dimension]) -> Vec<Record>,
    /// Whether bytes are also told per second.
    pub(super) has_rates: bool,
}

impl Default for Rows {
    fn default() -> Self {
        Self { by: None, learn: |_, _| Ok(()), choose: |rows, _| rows, has_rates: false }
    }
}

pub(super) fn run(probe: &'static Description, options: Options, watch: Watch, json: bool) -> Result<()> {
    run_with(probe, options, &watch, json, Rows::default())
}

pub(super) fn run_with(
    probe: &'static Description,
    options: Options,
    watch: &Watch,
    json: bool,
    rows: Rows,
) -> Result<()> {
    let names = Names::new(registry::of_this_host());
    let wanted = watch.wanted(&names)?;
    let by = dimensions(probe, watch)?;
    let flows = daemon_flows(watch);
    let session = start(&watch.scope()?, flows.as_ref(), &[(probe, options)])?;
    let stop = Stop::new(watch.duration)?;
    tell_begin();
    let view = View { names: &names, epoch: probes::wall_clock() };
    let owners = Learned::new(&session);
    let running = Running { probe, session: &session, owners, wanted, view, stop, json, watch, rows };
    match probe.source {
        Source::Events(_) | Source::EventsOrSums(..) => running.events(by)?,
        Source::Rows(_) => running.sums(by)?,
    }
    summary(session.losses()?, json)
}

/// [`Session::start`], after a look at whether this process may; says what this kernel lacks.
///
/// # Errors
/// As that; and where capabilities are lacking.
pub(super) fn start(
    scope: &Scope,
    flows: Option<&FlowTable>,
    probes: &[(&'static Description, Options)],
) -> Result<Session> {
    let lacking = Capabilities::known().map_or_else(Vec::new, Capabilities::lacking_to_trace);
    if !lacking.is_empty() {
        bail!(
            "to observe takes root, or the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (for other network \
             namespaces and tags of the daemon also CAP_SYS_ADMIN and CAP_SYS_PTRACE): this process lacks {}",
            lacking.join(", ")
        );
    }
    let session = Session::start(scope, flows, probes)?;
    for Missing { hook, consequence } in session.missing() {
        eprintln!("flowtag: not known here: {consequence} (this kernel lacks {hook})");
    }
    Ok(session)
}

/// What every command says once it sees everything.
pub(super) fn tell_begin() {
    eprintln!("flowtag: watching, Ctrl-C ends");
}

/// Looks again for the owners of sockets that nobody knows, but not all the time.
struct Learned<'a> {
    session: &'a Session,
    at: Cell<Instant>,
}

impl<'a> Learned<'a> {
    /// The session has just done so.
    fn new(session: &'a Session) -> Self {
        Self { session, at: Cell::new(Instant::now()) }
    }

    fn again(&self) -> Result<()> {
        if self.at.get().elapsed() < LEARN {
            return Ok(());
        }
        self.at.set(Instant::now());
        Ok(self.session.learn_owners()?)
    }
}

fn dimensions(probe: &'static Description, watch: &Watch) -> Result<Vec<Dimension>> {
    if watch.count {
        return Ok(vec![Dimension::Flow]);
    }
    watch.by.iter().map(|name| Dimension::parse(name, probe)).collect()
}

/// The table of the daemon that runs, which knows tags; none without a daemon, or where we may not look.
pub(super) fn daemon_flows(watch: &Watch) -> Option<FlowTable> {
    let socket = watch.socket.as_deref();
    let status: Result<Status> = block_on(async { Client::connect(socket).await?.get("/v1/status").await });
    let table = status.ok().and_then(|status| FlowTable::from_id(status.flow_table?));
    if table.is_none() && watch.tag.is_some() {
        eprintln!(
            "flowtag: no tag is known, so nothing will match --tag: no daemon that marks, or no right to its table"
        );
    }
    table
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
        self.told.load(Ordering::Relaxed)
            || self.at.is_some_and(|at| Instant::now() >= at)
            || is_reader_gone()
    }

    /// How long to wait at most for `until`.
    pub(super) fn wait(&self, until: Option<Instant>) -> Duration {
        let next = [self.at, until].into_iter().flatten().min();
        let left = next.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(Instant::now()));
        left.min(Duration::from_secs(1))
    }
}

/// Whether nobody reads what we print any more, as of `| head`: there may be nothing to print for long, by which we would
/// know otherwise.
fn is_reader_gone() -> bool {
    let stdout = std::io::stdout();
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let is_told = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|n| n > 0);
    is_told && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

struct Running<'a> {
    probe: &'static Description,
    session: &'a Session,
    owners: Learned<'a>,
    wanted: Wanted,
    view: View<'a>,
    stop: Stop,
    json: bool,
    watch: &'a Watch,
    rows: Rows,
}

/// What sums are of.
#[derive(Debug, Clone, Copy)]
enum Span {
    /// All the time.
    All(Duration),
    /// Since the last time they were told.
    Last(Duration),
}

impl Span {
    fn time(self) -> Duration {
        match self {
            Self::All(time) | Self::Last(time) => time,
        }
    }
}

impl Running<'_> {
    fn events(&self, by: Vec<Dimension>) -> Result<()> {
        let is_summed = !by.is_empty() || self.watch.interval.is_some();
        let by = if by.is_empty() { self.first_key() } else { by };
        let mut groups = Groups::new(self.probe, by, true);
        let mut lines = if is_summed { None } else { Some(Lines::new(self)) };
        let mut last = Instant::now();
        let mut next = self.watch.interval.map(|i| last + i);
        loop {
            let is_last = self.stop.is_now();
            let is_due = next.is_some_and(|at| Instant::now() >= at) && !is_last;
            let mut records =
                if is_last { self.session.rest()? } else { self.session.next(self.stop.wait(next))? };
            if is_due || is_last {
                records.extend(self.session.rows()?);
            }
            for (_, record) in records {
                self.event(&record, &mut groups, lines.as_mut())?;
            }
            if is_due {
                let over = last.elapsed();
                last += over;
                next = next.zip(self.watch.interval).map(|(at, i)| (at + i).max(last));
                self.print(&groups, Some(Span::Last(over)))?;
                groups.clear();
            }
            if is_last {
                break;
            }
        }
        // In JSON each event has been told already.
        if groups.is_empty() || (self.json && !is_summed) {
            return Ok(());
        }
        self.print(&groups, next.map(|_| Span::Last(last.elapsed())))
    }

    fn event(&self, record: &Record, groups: &mut Groups, lines: Option<&mut Lines<'_>>) -> Result<()> {
        if record.context.cookie.is_some() && record.context.owner.pid.is_none() {
            self.owners.again()?;
        }
        if !self.wanted.wants(&record.context, self.view.names) {
            return Ok(());
        }
        // In JSON each event is told, and nothing is added up.
        if lines.is_none() || !self.json {
            groups.add(record, &self.view);
        }
        lines.map_or(Ok(()), |lines| lines.print(record))
    }

    /// What people want to see added up at the end: by what the first column says.
    fn first_key(&self) -> Vec<Dimension> {
        let key = self.probe.columns.iter().enumerate().find(|(_, c)| c.merge == Merge::Key);
        key.map(|(n, column)| Dimension::Column(n, column.name)).into_iter().collect()
    }

    fn sums(&self, by: Vec<Dimension>) -> Result<()> {
        let keys = self.probe.columns.iter().enumerate().filter(|(_, c)| c.merge == Merge::Key);
        let all = || keys.map(|(n, column)| Dimension::Column(n, column.name)).collect();
        let by = if by.is_empty() { self.rows.by.map_or_else(all, |by| vec![by]) } else { by };
        let interval = self.watch.interval.unwrap_or(INTERVAL);
        let begin = Instant::now();
        let (mut last, mut next) = (begin, begin + interval);
        let mut seen = Seen::default();
        loop {
            let is_last = self.stop.is_now();
            if is_last || Instant::now() >= next {
                let rows = self.read()?;
                let over = last.elapsed();
                last += over;
                next = (next + interval).max(last);
                let is_all = is_last && !self.json;
                let span = if is_all { Span::All(begin.elapsed()) } else { Span::Last(over) };
                let difference = seen.difference(self.probe, rows.clone());
                let told = (self.rows.choose)(if is_all { rows } else { difference }, &by);
                let mut groups = Groups::new(self.probe, by.clone(), false);
                let wanted = |r: &&Record| self.wanted.wants(&r.context, self.view.names);
                told.iter().filter(wanted).for_each(|record| groups.add(record, &self.view));
                self.print(&groups, Some(span))?;
            }
            if is_last {
                return Ok(());
            }
            std::thread::sleep(self.stop.wait(Some(next)).min(Duration::from_millis(100)));
        }
    }

    /// All rows, with what has been learned of their owners.
    fn read(&self) -> Result<Vec<Record>> {
        self.owners.again()?;
        (self.rows.learn)(self.session, self.view.names)?;
        Ok(self.session.rows()?.into_iter().map(|(_, record)| record).collect())
    }

    fn print(&self, groups: &Groups, span: Option<Span>) -> Result<()> {
        let over = span.map(Span::time);
        if self.json {
            return groups.print_json(Timestamp::now(), over, self.rows.has_rates);
        }
        if groups.is_empty() {
            return Ok(());
        }
        output::line("")?;
        let now = || table::clock(Timestamp::now());
        match span {
            None => {}
            Some(Span::Last(time)) => {
                output::line(format_args!("{}, the last {:.1}s:", now(), time.as_secs_f64()))?
            }
            Some(Span::All(time)) => {
                output::line(format_args!("{}, in all {:.1}s:", now(), time.as_secs_f64()))?
            }
        }
        groups.print(over.filter(|_| self.rows.has_rates))
    }
}

/// What tells a row from all others, however much becomes known of its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    netns: Option<u32>,
    interface: Option<u32>,
    flow: Option<Flow>,
    /// Of what has no flow of its own, such as a listener.
    cookie: Option<u64>,
    keys: Vec<String>,
}

impl Identity {
    fn of(probe: &Description, record: &Record) -> Self {
        let context = &record.context;
        let is_whole = context.flow.is_some_and(|flow| flow.remote.port() != 0);
        let keys = probe.columns.iter().zip(&record.values).filter(|(c, _)| c.merge == Merge::Key);
        Self {
            netns: context.netns,
            interface: context.interface,
            flow: context.flow,
            cookie: context.cookie.filter(|_| !is_whole),
            keys: keys.map(|(_, value)| format!("{value:?}")).collect(),
        }
    }
}

/// Sums as they were told last.
#[derive(Debug, Default)]
struct Seen(HashMap<Identity, Vec<probes::Value>>);

impl Seen {
    /// What came since; rows whose sums are as they were are left out.
    fn difference(&mut self, probe: &Description, rows: Vec<Record>) -> Vec<Record> {
        let sums = || probe.columns.iter().enumerate().filter(|(_, c)| c.merge == Merge::Sum).map(|(n, _)| n);
        let has_sums = sums().next().is_some();
        let mut changed = Vec::new();
        for (identity, mut new) in united(probe, rows) {
            let before = self.0.insert(identity, new.values.clone());
            let mut is_same = has_sums;
            for n in sums() {
                let Some(probes::Value::Count(now)) = new.values.get_mut(n) else { continue };
                if let Some(probes::Value::Count(old)) = before.as_ref().and_then(|values| values.get(n)) {
                    *now = now.saturating_sub(*old);
                }
                is_same &= *now == 0;
            }
            changed.extend((!is_same).then_some(new));
        }
        changed
    }
}

/// Rows that nothing tells apart are one: what is of no flow, and what had no room.
fn united(probe: &Description, rows: Vec<Record>) -> Vec<(Identity, Record)> {
    let mut all: Vec<(Identity, Record)> = Vec::with_capacity(rows.len());
    let mut places: HashMap<Identity, usize> = HashMap::with_capacity(rows.len());
    for record in rows {
        let identity = Identity::of(probe, &record);
        let Some((_, first)) = places.get(&identity).and_then(|n| all.get_mut(*n)) else {
            places.insert(identity.clone(), all.len());
            all.push((identity, record));
            continue;
        };
        for ((sum, more), column) in first.values.iter_mut().zip(record.values).zip(probe.columns) {
            if let (Merge::Sum, probes::Value::Count(sum), probes::Value::Count(more)) =
                (column.merge, sum, more)
            {
                *sum += more;
            }
        }
    }
    all
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
    let value = |column: &Column, value: &probes::Value| match (column.unit, value) {
        (Unit::Moment, probes::Value::Count(ns)) => json!(table::timestamp(Duration::from_nanos(*ns), view)),
        _ => json_of(value),
    };
    object.extend(probe.columns.iter().zip(&record.values).map(|(c, v)| (c.name.to_owned(), value(c, v))));
    object
}

/// Of whom a record is, in JSON.
pub(super) fn context(record: &Record, view: &View<'_>) -> Map<String, Value> {
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
        ("interface", json!(context.interface.map(|i| view.names.interface_text(context.netns, i)))),
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
