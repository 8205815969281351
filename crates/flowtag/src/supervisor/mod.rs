//! Wires the parts together: what is started in which order, which bounded channel goes where, and how all of it
//! stops. Decides nothing about flows.
//!
//! Start: lock, privileged work (load programs, attach, make socket and pipe), privileges dropped, then the tasks.
//! Stop (SIGTERM, SIGINT): inputs first, then the core gives its state back, fireflies that wait are sent for at most
//! half a second, programs are detached, our files removed.

pub(crate) mod core;
mod links;
mod privileges;
mod runtime_dir;
pub(crate) mod throttle;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use flowtag_engine::{Engine, Event, Guard, Registry, Settings};
use flowtag_kernel::mark::{self, Marker};
use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::config::{self, Config};
use crate::inputs::{control, pipe};
use crate::logging::Level;
use crate::outputs::firefly::{self, Collectors, Resolver};
use core::Core;
use links::Links;

/// How long fireflies that wait may take to leave when the daemon stops.
const DRAIN: Duration = Duration::from_millis(500);

/// What is done while the process still has all its privileges.
struct Prepared {
    config: Config,
    marker: Option<Marker>,
    links: Links,
    control: Option<control::Input>,
    pipe: Option<pipe::Input>,
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
    runtime.block_on(serve(prepared, path, level))
}

fn prepare(config: Config) -> Result<Prepared> {
    let lock = runtime_dir::Lock::take(&config.runtime_dir)?;
    let entropy_key = lock.entropy_key()?;
    let mut links = Links::new(config.mark.clone()).context("cannot follow the host's interfaces")?;
    let marker = config.mark.as_ref().map(|mark| prepare_marking(&config, mark, &mut links)).transpose()?;
    let control = config.control.as_ref().map(control::Input::prepare).transpose();
    let pipe = config.pipe.as_ref().map(pipe::Input::prepare).transpose();
    Ok(Prepared {
        marker,
        links,
        control: control.context("cannot open the control socket (inputs.control)")?,
        pipe: pipe.context("cannot open the named pipe (inputs.pipe)")?,
        entropy_key,
        _lock: lock,
        config,
    })
}

fn prepare_marking(config: &Config, mark: &config::Mark, links: &mut Links) -> Result<Marker> {
    let settings = mark::Settings {
        max_flows: config.max_flows,
        tc_priority: mark.tc_priority,
        state_dir: Some(config.runtime_dir.clone()),
    };
    let mut marker = Marker::load(&settings).context("cannot mark (mark.enabled)")?;
    let wanted = links.require().context("cannot mark on what mark.interfaces names")?;
    links.attach_required(&mut marker, &wanted)?;
    for name in marker.remove_leftovers().context("cannot remove what a killed flowtag left")? {
        tracing::info!(interface = name, "removed what a killed flowtag left");
    }
    Ok(marker)
}

async fn serve(prepared: Prepared, path: Option<PathBuf>, level: &Level) -> Result<()> {
    let Prepared { config, marker, links, control, pipe, entropy_key, _lock } = prepared;
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut engine_config = flowtag_engine::Config::new(entropy_key);
    engine_config.settings = engine_settings(&config);
    let registry = watch::Sender::new(Arc::clone(&config.registry));
    let collectors = Collectors::default();
    let mut outputs = JoinSet::new();
    let fireflies = start_fireflies(&config, &collectors, &mut outputs).await;
    let (queue, fireflies) = fireflies.map_or((None, None), |(queue, f)| (Some(queue), Some(f)));
    let (stop_core, stopped) = oneshot::channel();
    let (core, core_task) = Core::start(Engine::new(engine_config), marker, queue, stopped);
    let links = links.follow(core.clone());

    let mut inputs = JoinSet::new();
    let pipe_counters = pipe.map(|input| {
        let counters = Arc::new(pipe::Counters::default());
        inputs.spawn(input.run(core.clone(), registry.subscribe(), Arc::clone(&counters)));
        counters
    });
    if let Some(input) = control {
        inputs.spawn(input.run(control::Daemon {
            core: core.clone(),
            registry: registry.subscribe(),
            started: Timestamp::now(),
            fireflies: fireflies.as_ref().map(|f| Arc::clone(&f.counters)),
            collectors,
            pipe: pipe_counters,
        }));
    }
    let counters = fireflies.as_ref().map(|f| Arc::clone(&f.counters));
    announce_ready();
    let mut reloader = Reloader { path, config, core, registry, fireflies, links, level };
    while signals.next().await == Told::Reload {
        reloader.reload().await;
    }
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    inputs.shutdown().await;
    drop(reloader);
    let _ = stop_core.send(());
    let state = core_task.await.context("the core task failed")?;
    finish(state, outputs, counters.as_deref()).await
}

/// Sends what waits, detaches, and says what was done in all.
async fn finish(
    state: core::State,
    mut outputs: JoinSet<()>,
    fireflies: Option<&firefly::Counters>,
) -> Result<()> {
    let (engine, marker) = state.into_parts();
    if tokio::time::timeout(DRAIN, async { while outputs.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("not all fireflies could be sent in time");
    }
    let counters = engine.counters();
    tracing::info!(
        started = counters.started,
        ended = counters.ended + counters.ended_idle,
        rejected = counters.rejected_full + counters.rejected_own,
        still_open = engine.len(),
        "flows in all"
    );
    if let Some(firefly::Snapshot { sent, dropped, failed, unresolved, .. }) = fireflies.map(|c| c.snapshot())
    {
        tracing::info!(sent, dropped, failed, unresolved, "fireflies in all");
    }
    let Some(mut marker) = marker else { return Ok(()) };
    for interface in marker.counters().unwrap_or_default() {
        let total = |pick: fn(&(mark::Verdict, mark::Count)) -> bool| {
            interface.counts.iter().filter(|c| pick(c)).map(|(_, c)| c.packets).sum::<u64>()
        };
        let marked = total(|(v, _)| *v == mark::Verdict::Marked);
        let unmarked = total(|(v, _)| *v != mark::Verdict::Marked);
        tracing::info!(interface = interface.interface.name, marked, unmarked, "packets in all");
    }
    marker.detach_all().context("cannot detach from all interfaces")
}

fn engine_settings(config: &Config) -> Settings {
    let mut guard = Guard::default();
    if let Some(firefly) = &config.firefly {
        guard.ports.extend(firefly.destination_port);
        // A collector given by name is guarded by its port: its address may change at any time.
        guard.ports.extend(firefly.collectors.iter().map(|c| c.port));
    }
    Settings { max_flows: config.max_flows as usize, idle_limit: config.idle_limit, guard }
}

/// The handles by which a running firefly output is changed and looked at.
struct Fireflies {
    settings: watch::Sender<config::Firefly>,
    resolver: Resolver,
    counters: Arc<firefly::Counters>,
}

async fn start_fireflies(
    config: &Config,
    collectors: &Collectors,
    outputs: &mut JoinSet<()>,
) -> Option<(firefly::Queue, Fireflies)> {
    let wanted = config.firefly.clone()?;
    let mut resolver = Resolver::new(collectors.clone());
    resolver.configure(&wanted.collectors);
    let settings = watch::Sender::new(wanted);
    let (output, queue, counters) = firefly::Output::new(settings.subscribe(), collectors.clone()).await;
    outputs.spawn(output.run());
    Some((queue, Fireflies { settings, resolver, counters }))
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
    core: Core,
    registry: watch::Sender<Arc<Registry>>,
    fireflies: Option<Fireflies>,
    links: links::Handle,
    level: &'a Level,
}

impl Reloader<'_> {
    async fn reload(&mut self) {
        if let Ok(reloading) = NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[NotifyState::Reloading, reloading]);
        }
        match Config::load(self.path.as_deref()) {
            Ok(config) => self.put_into_force(config).await,
            Err(error) => {
                let error = throttle::chain(&error);
                tracing::error!(error, "the new configuration is not used, the old one stays in force");
            }
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    async fn put_into_force(&mut self, wanted: Config) {
        for key in needs_restart(&self.config, &wanted) {
            tracing::warn!(key, "this change takes effect only with a restart");
        }
        let new = changeable(&self.config, wanted);
        self.level.set(&new.log_level);
        self.registry.send_replace(Arc::clone(&new.registry));
        if let (Some(fireflies), Some(wanted)) = (&mut self.fireflies, &new.firefly) {
            fireflies.resolver.configure(&wanted.collectors);
            fireflies.settings.send_replace(wanted.clone());
        }
        if let Some(mark) = &new.mark {
            self.links.configure(mark.interfaces.clone());
        }
        if self.core.event(Event::Configure(engine_settings(&new))).await.is_ok() {
            tracing::info!("the new configuration is in force");
        }
        self.config = new;
    }
}

/// What will be in force: `new`, with what runs on until a restart as it is.
fn changeable(old: &Config, new: Config) -> Config {
    let mark = match (&old.mark, new.mark) {
        (Some(old), Some(new)) => Some(config::Mark { interfaces: new.interfaces, ..old.clone() }),
        (old, _) => old.clone(),
    };
    let firefly = match (&old.firefly, new.firefly) {
        (Some(old), Some(new)) => Some(config::Firefly { queue: old.queue, ..new }),
        (old, _) => old.clone(),
    };
    let (control, pipe) = (old.control.clone(), old.pipe.clone());
    Config {
        mark,
        firefly,
        control,
        pipe,
        max_flows: old.max_flows,
        runtime_dir: old.runtime_dir.clone(),
        ..new
    }
}

/// Keys that differ and cannot be changed while running.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let hook = |c: &Config| c.mark.as_ref().map(|m| (m.hook, m.tc_priority));
    let queue = |c: &Config| c.firefly.as_ref().map(|f| f.queue);
    let changed = [
        ("runtime_dir", old.runtime_dir != new.runtime_dir),
        ("mark.enabled, mark.hook or mark.tc_priority", hook(old) != hook(new)),
        ("flows.max", old.max_flows != new.max_flows),
        ("inputs.control", old.control != new.control),
        ("inputs.pipe", old.pipe != new.pipe),
        ("outputs.firefly.enabled or outputs.firefly.queue", queue(old) != queue(new)),
    ];
    changed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
