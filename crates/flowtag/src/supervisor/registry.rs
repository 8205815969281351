//! Keeps the registry of a running daemon as new as its URL has it, and says when what is in use changes its meaning.
//!
//! Flows and rules keep their numbers whatever a new registry says: names are only for people. What the configuration names
//! is looked up again with the next reload or start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtag_engine::Registry;
use flowtag_engine::registry::{Change, ChangeKind};
use flowtag_wire::tag::{Activity, Experiment};
use flowtag_wire::{ScitagInteger, Tag};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::core::{Core, State};
use super::counters::{Board, Entry, Target, counters};
use super::rules;
use super::throttle::chain;
use crate::config::{Action, Config, RegistryUrl};
use crate::registry::{self, Copy};

/// Name on the board.
const NAME: &str = "registry";
/// Bounds on the wait after a failure; it doubles in between, and is never longer than `registry.refresh`.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
/// Log lines about one new registry; the rest is summed up.
const MAX_LINES: usize = 20;
/// Places that one log line names.
const MAX_PLACES: usize = 10;

counters! {
    /// What became of fetches.
    pub(crate) struct Counters {
        /// Times that the registry was asked for.
        fetches,
        /// Answers that had nothing new.
        unchanged,
        /// Answers that were put into force.
        updated,
        /// Times that there was no answer or none that is a registry.
        failures,
    }
}

/// Something that names a tag: what it is for a person to find, and the numbers.
type Use = (String, Experiment, Option<Activity>);

/// The daemon's registry.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    board: Board,
    fetcher: Option<JoinHandle<()>>,
}

/// What the fetching task needs, too.
struct Shared {
    core: Core,
    sender: watch::Sender<Arc<Registry>>,
    counters: Arc<Counters>,
    runtime_dir: PathBuf,
    /// What the configuration names, rules apart: those the core knows.
    uses: Mutex<Vec<Use>>,
    error: Mutex<Option<String>>,
}

impl Keeper {
    /// Begins to fetch, if that is configured: at once if there is no copy that is new enough.
    pub(crate) fn start(
        config: &Config,
        core: Core,
        sender: watch::Sender<Arc<Registry>>,
        board: Board,
    ) -> Self {
        let shared = Shared {
            core,
            sender,
            counters: Arc::default(),
            runtime_dir: config.runtime_dir.clone(),
            uses: Mutex::new(uses(config)),
            error: Mutex::default(),
        };
        let mut keeper = Self { shared: Arc::new(shared), board, fetcher: None };
        say(config);
        keeper.follow(config.registry_url.as_ref(), false);
        keeper
    }

    /// Puts the registry of a changed configuration into force, and fetches at once.
    pub(crate) async fn configure(&mut self, config: &Config) {
        if let Some(fetcher) = self.fetcher.take() {
            fetcher.abort();
            let _ = fetcher.await; // two would overwrite each other's copy
        }
        say(config);
        *lock(&self.shared.uses) = uses(config);
        let url = config.registry_url.as_ref().map(|from| from.url.as_str());
        let newest = registry::newest(url, &self.shared.runtime_dir);
        let wanted = newest.map_or_else(|| Arc::clone(&config.registry), |newest| newest.registry);
        self.shared.put_into_force(wanted).await;
        self.follow(config.registry_url.as_ref(), true);
    }

    fn follow(&mut self, from: Option<&RegistryUrl>, at_once: bool) {
        let Some(from) = from else {
            self.board.remove(NAME);
            return;
        };
        let (shared, name) = (Arc::downgrade(&self.shared), from.url.clone());
        let target = move || {
            let shared = shared.upgrade()?;
            let error = lock(&shared.error).clone();
            Some(Target { name: name.clone(), address: None, error })
        };
        let counters: Arc<Counters> = Arc::clone(&self.shared.counters);
        let targets = Arc::new(move || target().into_iter().collect());
        self.board.put(NAME, Entry { at: Some(from.url.clone()), targets, ..Entry::new(vec![counters]) });
        self.fetcher = Some(tokio::spawn(Arc::clone(&self.shared).keep_fetching(from.clone(), at_once)));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.fetcher.iter().for_each(JoinHandle::abort);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an administrator should know of the registry that the configuration leads to.
fn say(config: &Config) {
    let experiments = config.registry.experiments().count();
    tracing::info!(source = %config.registry_source, experiments, "registry");
    config.registry_notes.iter().for_each(|note| tracing::warn!("{note}"));
    if config.registry_url.as_ref().is_some_and(|from| from.url.starts_with("http://")) {
        tracing::warn!(
            "registry.url is http://: whoever is on the way can change what names mean; use https://"
        );
    }
}

impl Shared {
    async fn keep_fetching(self: Arc<Self>, from: RegistryUrl, mut at_once: bool) {
        let mut copy = Copy::load(&self.runtime_dir, &from.url);
        // The configuration may have been read with an older one.
        self.put_copy_into_force(copy.as_ref()).await;
        let mut retry = RETRY.0;
        loop {
            let due = copy.as_ref().map_or(Duration::ZERO, |copy| until_due(copy.checked(), from.refresh));
            if !std::mem::take(&mut at_once) {
                tokio::time::sleep(due).await;
            }
            match self.fetch(&from, copy.as_ref()).await {
                Some(fetched) => {
                    copy = Some(fetched);
                    retry = RETRY.0;
                }
                None => {
                    tokio::time::sleep(retry.min(from.refresh)).await;
                    retry = (retry * 2).min(RETRY.1);
                    at_once = true;
                }
            }
        }
    }

    /// None: it failed, which was said.
    async fn fetch(&self, from: &RegistryUrl, copy: Option<&Copy>) -> Option<Copy> {
        self.counters.fetches.add(1);
        match registry::fetch(from, copy).await {
            Ok(fetched) => {
                *lock(&self.error) = None;
                if let Err(error) = fetched.save(&self.runtime_dir) {
                    let dir = self.runtime_dir.display();
                    tracing::warn!(%error, %dir, "the registry cannot be kept for the next start");
                }
                match self.put_copy_into_force(Some(&fetched)).await {
                    true => self.counters.updated.add(1),
                    false => self.counters.unchanged.add(1),
                }
                Some(fetched)
            }
            Err(error) => {
                self.counters.failures.add(1);
                let error = chain(&error);
                if lock(&self.error).replace(error.clone()).as_ref() != Some(&error) {
                    tracing::warn!(error, "the registry stays as it is, trying again");
                }
                None
            }
        }
    }

    /// Whether it is another than before.
    async fn put_copy_into_force(&self, copy: Option<&Copy>) -> bool {
        let Some(sourced) = copy.and_then(Copy::sourced) else { return false };
        let changed = self.put_into_force(sourced.registry).await;
        if changed {
            sourced.notes.iter().for_each(|note| tracing::warn!("{note}"));
            tracing::info!(source = %sourced.source, "a new registry is in force");
        }
        changed
    }

    /// Whether it is another than before. Says which of what is in use has another meaning now.
    async fn put_into_force(&self, new: Arc<Registry>) -> bool {
        let old = self.sender.borrow().clone();
        if *old == *new {
            return false;
        }
        self.sender.send_replace(Arc::clone(&new));
        let mut changes = old.changes_to(&new);
        changes.retain(|change| change.kind != ChangeKind::Added);
        let (tags, matter) = (rules::registered(&new), !changes.is_empty());
        let in_use = self.core.ask(move |state| {
            let registered = state.marker.as_ref().map(|marker| marker.set_registered(tags.into_iter()));
            if let Some(Err(error)) = registered {
                tracing::warn!(error = chain(&error), "tags that arrive are not told apart");
            }
            if matter { in_use(state) } else { InUse::default() }
        });
        if let Ok(mut in_use) = in_use.await {
            in_use.places.extend(lock(&self.uses).iter().cloned());
            warn(&changes, &in_use);
        }
        true
    }
}

/// How long a copy of that age is believed. A clock that was set back does not make it longer.
fn until_due(checked: Timestamp, refresh: Duration) -> Duration {
    let age = Duration::try_from(Timestamp::now().duration_since(checked)).unwrap_or(refresh);
    refresh.saturating_sub(age)
}

/// What the daemon has to do with tags.
#[derive(Debug, Default)]
struct InUse {
    flows: BTreeMap<Tag, u64>,
    places: Vec<Use>,
}

/// One look at each flow, and nothing allocated for it: the core waits.
fn in_use(state: &State) -> InUse {
    let mut flows = vec![0_u64; 1 << 15];
    for tag in state.engine.tags() {
        if let Some(count) = flows.get_mut(usize::from(ScitagInteger::from(tag).get())) {
            *count += 1;
        }
    }
    let flows = (0_u64..).zip(flows).filter(|(_, count)| *count > 0);
    let tag = |(number, count): (u64, u64)| Some((ScitagInteger::new(number).ok()?.try_into().ok()?, count));
    InUse { flows: flows.filter_map(tag).collect(), places: state.rules.tags() }
}

impl InUse {
    fn flows_of(&self, change: &Change) -> u64 {
        let of = |tag: &Tag| change.concerns(tag.experiment, Some(tag.activity));
        self.flows.iter().filter(|(tag, _)| of(tag)).map(|(_, count)| count).sum()
    }

    /// Each once, and no more than [`MAX_PLACES`].
    fn places_of(&self, change: &Change) -> Vec<&str> {
        // Whoever names a whole experiment is concerned by it alone; whoever names an activity by either.
        let of = |(_, experiment, activity): &&Use| change.concerns(*experiment, *activity);
        let mut places: Vec<_> = self.places.iter().filter(of).map(|(place, ..)| place.as_str()).collect();
        places.dedup();
        places.truncate(MAX_PLACES);
        places
    }
}

/// What may surprise somebody.
fn warn(changes: &[Change], in_use: &InUse) {
    let mut said = 0;
    for change in changes {
        let (flows, places) = (in_use.flows_of(change), in_use.places_of(change));
        if flows == 0 && places.is_empty() {
            continue;
        }
        said += 1;
        if said > MAX_LINES {
            continue;
        }
        let (tag, number, used_by) = (&change.name, change.number(), places.join(", "));
        match &change.kind {
            ChangeKind::Renumbered { to, now } => {
                let now = now.as_deref().unwrap_or("nobody's");
                tracing::warn!(
                    tag,
                    number,
                    to,
                    now,
                    flows,
                    used_by,
                    "the registry gives another number to a name that is in use: what uses the old number goes on with it until it is given the new"
                );
            }
            ChangeKind::Renamed { to } => {
                tracing::warn!(
                    tag,
                    number,
                    to,
                    flows,
                    used_by,
                    "the registry gives another name to a number that is in use"
                );
            }
            ChangeKind::Removed | ChangeKind::Added => {
                tracing::warn!(
                    tag,
                    number,
                    flows,
                    used_by,
                    "the registry removes a tag that is in use: give its number in place of its name"
                );
            }
        }
    }
    if said > MAX_LINES {
        tracing::warn!(
            more = said - MAX_LINES,
            "more such tags: `flowtag registry check` shows what changed"
        );
    }
}

/// What a configuration names, rules apart.
fn uses(config: &Config) -> Vec<Use> {
    let mut uses = Vec::new();
    let mut add = |place: &str, tags: &[(Experiment, Option<Activity>)]| {
        uses.extend(tags.iter().map(|(experiment, activity)| (place.to_owned(), *experiment, *activity)));
    };
    for collector in config.firefly.iter().flat_map(|firefly| &firefly.collectors) {
        add(&format!("collector {}", collector.address), &collector.filter.tags);
    }
    config.access.iter().for_each(|access| add("[[access]]", &access.tags.tags));
    let defaults = config.mark.iter().flat_map(|mark| &mark.defaults);
    defaults.for_each(|rule| uses.extend(rule_uses(&rule.name, &rule.action)));
    uses
}

/// The tags that a rule gives.
pub(super) fn rule_uses(name: &str, action: &Action) -> Vec<Use> {
    let Action::Tags(tags) = action else { return Vec::new() };
    tags.iter().map(|tag| (format!("rule {name}"), tag.experiment, Some(tag.activity))).collect()
}
