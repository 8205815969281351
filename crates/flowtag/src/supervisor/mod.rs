//! Wires the parts together: what is started in which order, which bounded channel goes where, and how all of it
//! stops. Decides nothing about flows.
//!
//! Start: lock, privileged work (load programs, attach, make socket and pipe), privileges dropped, then the tasks.
//! Stop (SIGTERM, SIGINT): inputs first, then the core gives its state back, fireflies that wait are sent for at most
//! half a second, programs are detached, our files removed.

pub(crate) mod accounts;
pub(crate) mod addresses;
pub(crate) mod core;
pub(crate) mod counters;
mod kernel;
mod links;
pub(crate) mod observe;
mod privileges;
mod registry;
mod rules;
mod runtime_dir;
pub(crate) mod service;
mod services;
mod statistics;
mod stun;
pub(crate) mod throttle;
mod watchdog;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use flowtag_engine::{Engine, Event, Guard, Settings};
use flowtag_kernel::mark::{self, Marker};
use flowtag_kernel::path_mtu::PathMtu;
use flowtag_kernel::sockets::{self, Socket};
use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::config::{self, Config};
use crate::inputs::access::Policy;
use crate::logging::Level;
use addresses::Addresses;
use core::Core;
use counters::Board;
use links::Links;
use registry::Keeper;
use service::{Daemon, Reloaded};
use services::Services;

/// What is done while the process still has all its privileges.
struct Prepared {
    config: Config,
    marker: Option<Marker>,
    /// Sockets that were open at start and whose they are; none: they could not be listed.
    open: Option<Vec<Socket>>,
    processes: HashMap<u32, String>,
    path_mtu: Option<PathMtu>,
    links: Links,
    services: services::Prepared,
    entropy_key: [u8; 16],
    _lock: runtime_dir::Lock,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Anything that was asked for in the configuration and cannot be had at start.
pub(crate) fn run(config: Config, path: Option<PathBuf>, level: &Level) -> Result<()> {
    let prepared = prepare(config)?;
    privileges::drop_all_but_needed().context("cannot give up privileges that are not needed")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // one for the engine, one for everything that waits
        .enable_all()
        .build()
        .context("cannot start worker threads")?;
    let outcome = runtime.block_on(serve(prepared, path, level));
    // A disk that hangs must not keep the daemon from its end.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

fn prepare(config: Config) -> Result<Prepared> {
    let lock = runtime_dir::Lock::take(&config.runtime_dir)?;
    let entropy_key = lock.entropy_key()?;
    let mut links = Links::new(config.mark.clone()).context("cannot follow the host's interfaces")?;
    let mark = config.mark.as_ref();
    if mark.is_none() {
        let removed = mark::remove_pinned(config.pin.as_deref(), Some(&config.runtime_dir));
        for what in removed.context("cannot remove what an earlier flowtag left (mark.enabled = false)")? {
            tracing::info!(what, "removed what an earlier flowtag left");
        }
    }
    let marker = mark.map(|mark| prepare_marking(&config, mark, entropy_key, &mut links)).transpose()?;
    if config.observe.is_some()
        && let Err(error) = flowtag_kernel::kallsyms::keep_open()
    {
        tracing::info!(%error, "where packets are dropped is not told by name");
    }
    let services = services::Prepared::new(&config)?;
    let open = sockets::open_sockets();
    Ok(Prepared {
        marker,
        open: open
            .inspect_err(|e| tracing::warn!(error = throttle::chain(e), "open sockets are not picked up"))
            .ok(),
        processes: sockets::owners(),
        path_mtu: PathMtu::open().ok(),
        links,
        services,
        entropy_key,
        _lock: lock,
        config,
    })
}

fn prepare_marking(
    config: &Config,
    mark: &config::Mark,
    entropy_key: [u8; 16],
    links: &mut Links,
) -> Result<Marker> {
    let settings = mark::Settings {
        max_flows: config.max_flows,
        tc_priority: mark.tc_priority,
        state_dir: Some(config.runtime_dir.clone()),
        pin: config.pin.clone(),
        entropy_key,
        lease: mark.lease,
        inner: mark.inner,
        ingress: mark.ingress,
    };
    let mut marker = Marker::load(&settings).context("cannot mark (mark.enabled)")?;
    marker.set_registered(rules::registered(&config.registry).into_iter())?;
    let wanted = links.require().context("cannot mark on what mark.interfaces names")?;
    links.attach_required(&mut marker, &wanted)?;
    for name in marker.remove_leftovers().context("cannot remove what a killed flowtag left")? {
        tracing::info!(interface = name, "removed what a killed flowtag left");
    }
    Ok(marker)
}

/// Tells the core what there was before it, in the order in which it matters.
async fn begin(core: &Core, prepared: Beginning) -> Result<()> {
    let Beginning { rules, open, processes, path_mtu } = prepared;
    let begin = core.ask(move |state| {
        state.rules = rules;
        state.path_mtu = path_mtu;
        let addresses = flowtag_kernel::link::addresses().unwrap_or_default();
        state.set_addresses(addresses.iter().map(|a| a.addr).collect());
        state.adopt(open.as_deref());
        state.set_marking();
        state.put_rules()?;
        state.judge(&open.unwrap_or_default(), &processes);
        state.marker.as_ref().map(Marker::events).transpose()
    });
    let begun = begin.await.context("the core task failed")?;
    let events = begun.context("cannot put the rules into force, or hear what they match (rules)")?;
    if let Some(events) = events {
        kernel::follow(core.clone(), events);
    }
    tokio::spawn(rules::follow_cgroups(core.clone()));
    Ok(())
}

/// What the core task is told once, when it starts.
struct Beginning {
    rules: rules::Rules,
    open: Option<Vec<Socket>>,
    processes: HashMap<u32, String>,
    path_mtu: Option<PathMtu>,
}

async fn serve(prepared: Prepared, path: Option<PathBuf>, level: &Level) -> Result<()> {
    let Prepared { config, marker, links, services, entropy_key, open, processes, path_mtu, _lock } =
        prepared;
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut engine_config = flowtag_engine::Config::new(entropy_key);
    engine_config.settings = engine_settings(&config);
    let registry = watch::Sender::new(Arc::clone(&config.registry));
    let policy = watch::Sender::new(Arc::new(Policy::new(config.access.clone())));
    let (stop_core, stopped) = oneshot::channel();
    let (core, core_task) = Core::start(Engine::new(engine_config), marker, stopped);
    let rules = rules::Rules::load(&config, entropy_key);
    let board = Board::default();
    let addresses = Addresses::start(&config.addresses, &board);
    let reloaded = watch::Sender::default();
    let daemon = Daemon {
        core: core.clone(),
        reloaded: reloaded.subscribe(),
        registry: registry.subscribe(),
        policy: policy.subscribe(),
        board,
        started: Timestamp::now(),
        addresses,
        fireflies: Arc::default(),
        observer: observe::Observer::default(),
    };
    let mut running = Services::start_outputs(&config, &daemon).await?;
    begin(&core, Beginning { rules, open, processes, path_mtu }).await?;
    if let Some(mark) = &config.mark {
        tokio::spawn(kernel::renew_lease(core.clone(), mark.lease));
    }
    let links = links.follow(core);
    running.start_inputs(services, &config, &daemon).await?;
    announce_ready();
    watchdog::start(daemon.core.clone());
    let registry = Keeper::start(&config, daemon.core.clone(), registry, daemon.board.clone());
    let mut reloader =
        Reloader { path, config, daemon, services: running, registry, policy, links, level, reloaded };
    while signals.next().await == Told::Reload {
        reloader.reload().await;
    }
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let Reloader { config, daemon, services, .. } = reloader;
    services.stop(&daemon).await;
    let _ = stop_core.send(());
    let state = core_task.await.context("the core task failed")?;
    let keep = config.mark.as_ref().is_some_and(|mark| mark.on_stop == config::OnStop::Keep);
    finish(state, keep)
}

/// Detaches, and says what was done in all.
fn finish(state: core::State, keep: bool) -> Result<()> {
    let (engine, marker) = state.into_parts();
    let counters = engine.counters();
    tracing::info!(
        started = counters.started,
        ended = counters.ended + counters.ended_idle + counters.ended_closed,
        rejected = counters.rejected_full + counters.rejected_own,
        still_open = engine.len(),
        "flows in all"
    );
    let Some(mut marker) = marker else { return Ok(()) };
    for interface in marker.counters().unwrap_or_default() {
        let total = |pick: fn(&(mark::Verdict, mark::Count)) -> bool| {
            interface.counts.iter().filter(|c| pick(c)).map(|(_, c)| c.packets).sum::<u64>()
        };
        let marked = total(|(v, _)| *v == mark::Verdict::Marked);
        let unmarked = total(|(v, _)| *v != mark::Verdict::Marked);
        tracing::info!(interface = interface.interface.name, marked, unmarked, "packets in all");
    }
    if keep && marker.is_pinned() {
        tracing::info!("marking goes on until the lease ends: `flowtag detach` ends it now");
        marker.leave();
        return Ok(());
    }
    marker.detach_all().context("cannot detach from all interfaces")
}

fn engine_settings(config: &Config) -> Settings {
    // A collector given by name is guarded by its port: its address may change at any time.
    let guard = Guard { ports: config.firefly_ports(), ..Guard::default() };
    Settings {
        max_flows: config.max_flows as usize,
        idle_limit: config.idle_limit,
        strategy: config.mark.as_ref().map(|mark| mark.strategy).unwrap_or_default(),
        report_every: config.report_every,
        guard,
    }
}

fn announce_ready() {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "flowtag is ready");
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}

/// Puts a changed configuration into force without losing a flow.
struct Reloader<'a> {
    path: Option<PathBuf>,
    config: Config,
    daemon: Daemon,
    services: Services,
    registry: Keeper,
    policy: watch::Sender<Arc<Policy>>,
    links: links::Handle,
    level: &'a Level,
    reloaded: watch::Sender<Reloaded>,
}

impl Reloader<'_> {
    async fn reload(&mut self) {
        if let Ok(reloading) = NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[NotifyState::Reloading, reloading]);
        }
        let problems = match Config::load(self.path.as_deref()) {
            Ok(config) => self.put_into_force(config).await,
            Err(error) => {
                let error = throttle::chain(&error);
                tracing::error!(error, "the new configuration is not used, the old one stays in force");
                vec![format!("the old configuration stays in force: {error}")]
            }
        };
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        self.reloaded.send_modify(|last| *last = Reloaded { number: last.number + 1, problems });
    }

    /// Says what is not in force.
    async fn put_into_force(&mut self, wanted: Config) -> Vec<String> {
        let mut problems = Vec::new();
        wanted.log_findings();
        for key in needs_restart(&self.config, &wanted) {
            tracing::warn!(key, "this change takes effect only with a restart");
            problems.push(format!("{key}: this change takes effect only with a restart"));
        }
        let new = changeable(&self.config, wanted);
        self.level.set(&new.log_level);
        self.registry.configure(&new).await;
        self.policy.send_replace(Arc::new(Policy::new(new.access.clone())));
        self.daemon.addresses.configure(&new.addresses, &self.daemon.board);
        for error in self.services.apply(&new, &self.daemon).await {
            let error = throttle::chain(&*error);
            tracing::error!(
                error,
                "an input or output goes on as it was: correct the configuration and reload"
            );
            problems.push(format!("{error}: it goes on as it was"));
        }
        if let Some(mark) = &new.mark {
            self.links.configure(mark.interfaces.clone());
        }
        let (changed, settings) = (new.clone(), engine_settings(&new));
        let applied = self.daemon.core.ask(move |state| {
            state.handle(Event::Configure(settings));
            state.configure_rules(&changed);
        });
        if applied.await.is_ok() {
            tracing::info!("the new configuration is in force");
        }
        self.config = new;
        problems
    }
}

/// What will be in force: `new`, with what runs on until a restart as it is.
fn changeable(old: &Config, new: Config) -> Config {
    let mark = match (&old.mark, new.mark) {
        (Some(old), Some(new)) => Some(config::Mark {
            hook: old.hook,
            tc_priority: old.tc_priority,
            lease: old.lease,
            inner: old.inner,
            ingress: old.ingress,
            ..new
        }),
        (old, _) => old.clone(),
    };
    Config {
        mark,
        pin: old.pin.clone(),
        max_flows: old.max_flows,
        runtime_dir: old.runtime_dir.clone(),
        ..new
    }
}

/// Keys that differ and cannot be changed while running.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let hook = |c: &Config| c.mark.as_ref().map(|m| (m.hook, m.tc_priority));
    let loaded = |c: &Config| c.mark.as_ref().map(|m| (m.lease, m.inner, m.ingress));
    let changed = [
        ("runtime_dir", old.runtime_dir != new.runtime_dir),
        ("mark.enabled, mark.hook or mark.tc_priority", hook(old) != hook(new)),
        ("mark.lease, mark.encapsulated or mark.ingress", loaded(old) != loaded(new)),
        ("mark.pin", old.pin != new.pin),
        ("flows.max", old.max_flows != new.max_flows),
    ];
    changed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
