//! Which interfaces are marked on and which addresses are local, kept true while links and addresses come and go.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use flowtag_kernel::link::{self, Address, Interface, Watch};
use flowtag_kernel::mark::{HookChoice, Marker};
use tokio::sync::{mpsc, watch};

use crate::config::{self, Pattern};
use crate::supervisor::core::{Core, State};
use crate::supervisor::throttle::chain;

/// Changes come in bursts: an interface that appears gets its addresses one by one.
const SETTLE: Duration = Duration::from_millis(50);

/// Follows the host's links and addresses.
pub(crate) struct Links {
    changes: Watch,
    rules: Rules,
}

/// Changes what [`Links`] follows while it does.
pub(crate) struct Handle {
    patterns: watch::Sender<Vec<Pattern>>,
}

impl Handle {
    pub(crate) fn configure(&self, patterns: Vec<Pattern>) {
        self.patterns.send_replace(patterns);
    }
}

impl Links {
    /// Without `mark` only addresses are followed.
    pub(crate) fn new(mark: Option<config::Mark>) -> Result<Self> {
        let (patterns, hook) = mark.map(|m| (m.interfaces, m.hook)).unwrap_or_default();
        Ok(Self { changes: Watch::new()?, rules: Rules { patterns, hook, refused: HashMap::new() } })
    }

    /// The interfaces to mark on now.
    ///
    /// # Errors
    /// An interface that is named, not by a pattern, and does not exist.
    pub(crate) fn require(&self) -> Result<Vec<Interface>> {
        let all = link::all()?;
        let names: Vec<_> = all.iter().map(|i| i.name.as_str()).collect();
        for pattern in &self.rules.patterns {
            match pattern {
                Pattern::Name(name) if !names.contains(&name.as_str()) => bail!(missing(name, &names)),
                _ => {}
            }
        }
        Ok(self.rules.wanted(all, &link::addresses()?))
    }

    /// Attaches at start. One that was named must work; one that a pattern found may fail.
    pub(crate) fn attach_required(&mut self, marker: &mut Marker, interfaces: &[Interface]) -> Result<()> {
        for interface in interfaces {
            let named = self.rules.patterns.contains(&Pattern::Name(interface.name.clone()));
            match self.rules.attach(marker, interface) {
                Err(error) if named => return Err(error.into()),
                _ => {}
            }
        }
        if interfaces.is_empty() {
            tracing::warn!("no interface matches mark.interfaces yet: nothing is marked until one appears");
        }
        Ok(())
    }

    /// Goes on until the core stops.
    pub(crate) fn follow(self, core: Core) -> Handle {
        let Self { changes, rules } = self;
        let (patterns, new_patterns) = watch::channel(rules.patterns.clone());
        let (told, changed) = mpsc::channel(1);
        // A thread and not a task: the netlink socket blocks. It ends with the process.
        let watching = std::thread::Builder::new().name("links".into()).spawn(move || {
            while changes.wait().is_ok() {
                let _ = told.try_send(()); // full: a look is due anyway
            }
        });
        if let Err(error) = watching {
            tracing::error!(%error, "changes of links and addresses are not followed");
        }
        tokio::spawn(keep_true(rules, core, changed, new_patterns));
        Handle { patterns }
    }
}

fn missing(name: &str, known: &[&str]) -> String {
    let hint = config::suggest(name, known.iter().copied()).map(|h| format!("; did you mean {h:?}?"));
    format!(
        "mark.interfaces = {name:?} is not an interface of this host{} (here are {}; for one that comes later write \
         a pattern, as \"{name}*\")",
        hint.unwrap_or_default(),
        known.join(", ")
    )
}

async fn keep_true(
    mut rules: Rules,
    core: Core,
    mut changed: mpsc::Receiver<()>,
    mut patterns: watch::Receiver<Vec<Pattern>>,
) {
    loop {
        let now = rules.clone();
        match core.ask(move |state| now.look(state)).await {
            Ok(Ok(after)) => rules = after,
            Ok(Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), "cannot follow links and addresses")
            }
            Err(_) => return,
        }
        tokio::select! {
            Some(()) = changed.recv() => tokio::time::sleep(SETTLE).await,
            new = patterns.changed() => match new {
                Ok(()) => rules.patterns = patterns.borrow_and_update().clone(),
                Err(_) => return,
            },
        }
    }
}

/// Which interfaces, how, and which of them failed.
#[derive(Clone)]
struct Rules {
    patterns: Vec<Pattern>,
    hook: HookChoice,
    /// Interfaces that could not be attached to and why, so that it is said once.
    refused: HashMap<u32, String>,
}

impl Rules {
    fn wanted(&self, all: Vec<Interface>, addresses: &BTreeSet<Address>) -> Vec<Interface> {
        let has_global_ipv6 =
            |i: &Interface| addresses.iter().any(|a| a.interface == i.index && a.global && a.addr.is_ipv6());
        let matches = |i: &Interface| self.patterns.iter().any(|p| p.matches(&i.name, has_global_ipv6(i)));
        all.into_iter().filter(matches).collect()
    }

    fn attach(&mut self, marker: &mut Marker, interface: &Interface) -> flowtag_kernel::Result<()> {
        match marker.attach(interface, self.hook) {
            Ok(hook) => {
                tracing::info!(interface = interface.name, %hook, "marking on interface");
                Ok(())
            }
            Err(error) => {
                let reason = chain(&error);
                if self.refused.insert(interface.index, reason.clone()).as_ref() != Some(&reason) {
                    tracing::warn!(interface = interface.name, reason, "not marking on interface");
                }
                Err(error)
            }
        }
    }

    /// Makes what is attached and what counts as local as the host is now.
    fn look(mut self, state: &mut State) -> Result<Self> {
        let (all, addresses) = (link::all()?, link::addresses()?);
        state.set_addresses(addresses.iter().map(|a| a.addr).collect::<BTreeSet<IpAddr>>());
        let Some(marker) = &mut state.marker else { return Ok(self) };
        let wanted = self.wanted(all, &addresses);
        let attached: Vec<Interface> = marker.interfaces().map(|(interface, _)| interface.clone()).collect();
        for gone in attached.iter().filter(|a| !wanted.iter().any(|w| w.index == a.index)) {
            tracing::info!(interface = gone.name, "no longer marking on interface");
            marker.detach(gone.index).with_context(|| format!("letting go of {}", gone.name))?;
        }
        wanted.iter().try_for_each(|interface| marker.refresh(interface))?;
        self.refused.retain(|index, _| wanted.iter().any(|w| w.index == *index));
        for new in wanted.iter().filter(|w| !attached.iter().any(|a| a.index == w.index)) {
            let _ = self.attach(marker, new); // said once, and tried again at the next change
        }
        state.rules_changed(); // some may name an interface that came or went
        Ok(self)
    }
}
