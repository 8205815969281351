//! The passes over all TCP sockets: a task beside the core, which gets what they find in portions.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use flowtag_kernel::mark::{Key, Marker};
use flowtag_kernel::tcp_info::{Inquiry, Sample, Sweep};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use super::Counters;
use crate::config;
use crate::supervisor::core::{Core, State, engine_key};
use crate::supervisor::counters::Entry;
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::{Throttle, chain};

/// Sockets that the core is told of at a time: it is busy with them for about 0.1 ms.
const PORTION: usize = 512;

/// How the kernel is asked.
enum Way {
    /// It knows the flows: those of the marking program's table.
    Sweep(Sweep),
    /// It tells of all sockets, and the core knows which are of flows.
    Inquiry(Inquiry),
}

/// # Errors
/// The kernel can be asked in neither way.
pub(in crate::supervisor) async fn prepare(config: &config::Statistics, daemon: &Daemon) -> Result<Service> {
    let (counters, alive) = (Arc::new(Counters::default()), Arc::new(()));
    let (weak, shared) = (Arc::downgrade(&alive), Arc::clone(&counters));
    let begun = daemon.core.ask(move |state| {
        state.statistics.begin(weak, shared);
        state.marker.as_ref().map(Marker::statistics).transpose()
    });
    let sweep = begun.await?.inspect_err(|error| {
        tracing::info!(error = chain(error), "statistics come from sock_diag, more slowly");
    });
    let way = match sweep.ok().flatten().flatten() {
        Some(sweep) => Way::Sweep(sweep),
        None => Way::Inquiry(Inquiry::open().context("statistics.enabled = false does without")?),
    };
    let how = if matches!(way, Way::Sweep(_)) { "iter/tcp" } else { "sock_diag" };
    let entry = Entry { at: Some(how.to_owned()), ..Entry::new(vec![counters.clone()]) };
    let (core, period) = (daemon.core.clone(), config.period);
    let run = async move {
        let _alive = alive;
        let mut passes = tokio::time::interval(period);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut way, mut throttle) = (way, Throttle::default());
        loop {
            passes.tick().await;
            match core.ask(|state| state.engine.is_empty()).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => return,
            }
            let pass =
                Pass { core: core.clone(), counters: Arc::clone(&counters), runtime: Handle::current() };
            let done = tokio::task::spawn_blocking(move || (pass.run(&mut way), way)).await;
            let Ok((result, back)) = done else { return };
            way = back;
            if let Err(error) = result {
                counters.failed.add(1);
                throttle.warn("the kernel does not tell of its TCP sockets", &error);
            }
        }
    };
    Ok(Service { entry, feed: None, run: Box::pin(run) })
}

/// One pass, on a thread that may wait.
struct Pass {
    core: Core,
    counters: Arc<Counters>,
    runtime: Handle,
}

impl Pass {
    fn run(&self, way: &mut Way) -> flowtag_kernel::Result<()> {
        let began = Instant::now();
        let mut found = Vec::with_capacity(PORTION);
        let mut take = |key, sample| {
            found.push((key, sample));
            if found.len() == PORTION {
                self.hand_over(std::mem::replace(&mut found, Vec::with_capacity(PORTION)), began);
            }
        };
        let seen = match way {
            Way::Sweep(sweep) => sweep.all(&mut take)?,
            Way::Inquiry(inquiry) => inquiry.all(&mut |keys| self.known(keys), &mut take)?,
        };
        self.hand_over(found, began);
        self.counters.passes.add(1);
        self.counters.sockets.add(seen);
        let taken = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.microseconds.add(taken);
        Ok(())
    }

    /// A core that is gone needs nothing any more.
    fn hand_over(&self, found: Vec<(Key, Sample)>, began: Instant) {
        let kept = self.runtime.block_on(self.core.ask(move |state| state.measured(found, began)));
        self.counters.sampled.add(kept.unwrap_or(0));
    }

    /// Which of the sockets are of flows.
    fn known(&self, keys: &[Key]) -> Vec<bool> {
        let keys = keys.to_vec();
        let known = self.core.ask(move |state| {
            let is_known = |key: &Key| state.engine.at(&engine_key(key)).is_some();
            keys.iter().map(is_known).collect()
        });
        self.runtime.block_on(known).unwrap_or_default()
    }
}

impl State {
    /// What a pass found that began then. Says of how many flows.
    fn measured(&mut self, found: Vec<(Key, Sample)>, began: Instant) -> u64 {
        if !self.statistics.is_running() {
            return 0;
        }
        let mut kept = 0;
        for (key, sample) in found {
            let Some((id, tag)) = self.engine.at(&engine_key(&key)) else { continue };
            let sample = Arc::new(sample);
            if self.statistics.put(id, Arc::clone(&sample), began, false) {
                kept += 1;
                self.accounts.sampled(id, tag, &sample);
            }
        }
        kept
    }
}
