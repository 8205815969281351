//! Rules in the core task: which there are, kept over restarts, put into the kernel as cgroups and interfaces come and go,
//! and what follows for flows that are known when they change.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::{Announcement, End, Event, Outcome, Registry, Selector, Source};
use flowtag_kernel::cgroup::Cgroups;
use flowtag_kernel::link;
use flowtag_kernel::mark::rules::{self as kernel, Subject};
use flowtag_kernel::mark::{self, Strip};
use flowtag_kernel::sockets::{self, Socket};
use flowtag_wire::tag::{Activity, Experiment};
use flowtag_wire::{FiveTuple, Protocol, ScitagInteger, Strategy, Tag};

use super::core::{Core, State, engine_key};
use super::registry::rule_uses;
use super::throttle::chain;
use crate::config::{Config, Mark, Rule};
use crate::rules::{Resolved, RuleError, RuleStore, RuleView};

/// Where rules of the API are kept, below `runtime_dir`.
const FILE: &str = "rules.json";
/// What found a flow that nobody announced.
const SOURCE: Source = Source("rule");
/// A flow without a connection is over when it is silent for so long.
const DATAGRAM_IDLE: Duration = Duration::from_secs(60);
/// How often cgroups are looked for that rules name.
const LOOK: Duration = Duration::from_millis(500);

/// What the core task knows of rules.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    store: RuleStore,
    path: PathBuf,
    /// None: marking is off.
    mark: Option<Mark>,
    entropy_key: [u8; 16],
    /// Where fireflies go to: they are nobody's traffic.
    firefly_ports: BTreeSet<u16>,
    resolved: Resolved,
    /// Names of rules that the latest change left as they were.
    unchanged: HashSet<Arc<str>>,
    /// Names of the rules by the number that matches refer to; the last two, as some matches are still on their way.
    names: VecDeque<(u32, Vec<Arc<str>>)>,
}

impl Rules {
    /// The rules of the configuration, and those that an earlier daemon was given over the API.
    pub(crate) fn load(config: &Config, entropy_key: [u8; 16]) -> Self {
        let path = config.runtime_dir.join(FILE);
        let mut store = RuleStore::load(&path, &config.registry);
        store.configure(config.rules.clone());
        let firefly_ports = config.firefly_ports();
        Self { store, path, mark: config.mark.clone(), entropy_key, firefly_ports, ..Self::default() }
    }

    /// As cgroups and interfaces are now. Cgroups are read only where a rule names one.
    fn resolve(&self) -> Resolved {
        let interfaces = link::all().unwrap_or_default();
        let cgroups = self.names_cgroups().then(|| Cgroups::read().ok()).flatten();
        let find = |name: &str| cgroups.as_ref()?.resolve(name);
        Resolved::new(&self.store, self.mark.as_ref(), &self.firefly_ports, &interfaces, &find)
    }

    fn names_cgroups(&self) -> bool {
        self.store.list().iter().any(|(rule, _)| !rule.cgroups.is_empty())
    }

    /// Which tags rules give, for whoever wants to know what a tag is used for.
    pub(super) fn tags(&self) -> Vec<(String, Experiment, Option<Activity>)> {
        self.store.list().iter().flat_map(|(rule, _)| rule_uses(&rule.name, &rule.action)).collect()
    }

    fn name(&self, generation: u32, rule: u16) -> Option<Arc<str>> {
        let (_, names) = self.names.iter().find(|(number, _)| *number == generation)?;
        names.get(usize::from(rule)).cloned()
    }

    /// Bytes of headers that some flow may get.
    fn overhead(&self) -> usize {
        let own = self.mark.as_ref().map_or(0, |mark| mark.strategy.header_len());
        let of_rule = |rule: &kernel::Rule| match &rule.action {
            kernel::Action::Mark { strategy, .. } | kernel::Action::Random { strategy } => {
                strategy.header_len()
            }
            kernel::Action::Never => 0,
        };
        self.resolved.rules.iter().map(of_rule).max().unwrap_or(0).max(own)
    }
}

impl State {
    /// All rules, from first to last.
    pub(crate) fn rules(&self) -> Vec<RuleView> {
        self.rules.resolve().views
    }

    /// # Errors
    /// [`RuleError`]; nothing changed then.
    pub(crate) fn add_rule(&mut self, rule: Rule, before: Option<String>) -> Result<(), RuleError> {
        self.change(|store| store.add(rule, before))
    }

    /// # Errors
    /// As [`Self::add_rule`].
    pub(crate) fn remove_rule(&mut self, name: &str) -> Result<(), RuleError> {
        self.change(|store| store.remove(name))
    }

    /// Puts rules with a change into force and keeps them, or leaves everything as it was.
    fn change(
        &mut self,
        change: impl FnOnce(&mut RuleStore) -> Result<(), RuleError>,
    ) -> Result<(), RuleError> {
        let mut next = self.rules.store.clone();
        change(&mut next)?;
        let before = std::mem::replace(&mut self.rules.store, next);
        let put = self.put_rules().map_err(RuleError::Kernel);
        match put.and_then(|changed| self.rules.store.save(&self.rules.path).map(|()| changed)) {
            Ok(changed) => {
                self.judge_open(changed);
                Ok(())
            }
            Err(error) => {
                self.rules.store = before;
                self.rules_changed();
                Err(error)
            }
        }
    }

    /// The rules of a changed configuration.
    pub(crate) fn configure_rules(&mut self, config: &Config) {
        self.rules.mark.clone_from(&config.mark);
        self.rules.firefly_ports = config.firefly_ports();
        self.rules.store.configure(config.rules.clone());
        self.set_marking();
        self.rules_changed();
    }

    /// What else the kernel is told by the configuration.
    pub(crate) fn set_marking(&mut self) {
        let (Some(marker), Some(config)) = (&mut self.marker, &self.rules.mark) else { return };
        let strip: Vec<_> = config
            .strip
            .iter()
            .map(|s| Strip { prefix: s.prefix, egress: s.egress, ingress: s.ingress })
            .collect();
        if let Err(error) = marker.set_strip(&strip) {
            tracing::error!(error = chain(&error), "mark.strip is not in force");
        }
    }

    /// Puts the rules into the kernel if they came to something else since, and judges anew what is open.
    pub(crate) fn rules_changed(&mut self) {
        match self.put_rules() {
            Ok(changed) => self.judge_open(changed),
            Err(error) => self.throttle.warn("the rules are not in force, the old ones stay", &error),
        }
    }

    fn judge_open(&mut self, changed: bool) {
        if changed {
            let open = sockets::open_sockets().unwrap_or_default();
            self.judge(&open, &HashMap::new());
        }
    }

    /// True if they are others than before.
    pub(crate) fn put_rules(&mut self) -> flowtag_kernel::Result<bool> {
        let resolved = self.rules.resolve();
        let changed = resolved.rules != self.rules.resolved.rules;
        let Some(marker) = &mut self.marker else { return Ok(false) };
        if changed || self.rules.names.is_empty() {
            // Where no rule marks anything, packets need not be judged.
            let marks = resolved.rules.iter().any(|rule| rule.action != kernel::Action::Never);
            let generation = marker.set_rules(if marks { &resolved.rules } else { &[] })?;
            let names = resolved.rules.iter().map(|rule| Arc::clone(&rule.name)).collect();
            self.rules.names.push_front((generation, names));
            self.rules.names.truncate(2);
            let before = std::mem::replace(&mut self.rules.resolved, resolved).rules;
            let same = self.rules.resolved.rules.iter().filter(|rule| before.contains(rule));
            self.rules.unchanged = same.map(|rule| Arc::clone(&rule.name)).collect();
        }
        // Also mark.strategy may be another.
        let overhead = u8::try_from(self.rules.overhead()).unwrap_or(u8::MAX);
        marker.set_overhead(overhead)?;
        Ok(changed)
    }

    /// Judges flows that rules found, and open sockets of which no flow is known, by the rules that are in force.
    pub(crate) fn judge(&mut self, open: &[Socket], processes: &HashMap<u32, String>) {
        let cgroups = self.rules.names_cgroups().then(|| Cgroups::read().ok()).flatten();
        let interfaces: HashMap<IpAddr, u32> =
            link::addresses().unwrap_or_default().iter().map(|a| (a.addr, a.interface)).collect();
        let mut found: HashMap<FiveTuple, Subject> = HashMap::new();
        for socket in open {
            let Ok(flow) = FiveTuple::new(socket.protocol, socket.local, socket.remote) else { continue };
            let above = socket.cgroup.zip(cgroups.as_ref()).map_or_else(Vec::new, |(id, c)| c.ancestors(id));
            let interface = interfaces.get(&socket.local.addr()).copied().unwrap_or(0);
            found.insert(flow, socket.subject(interface, processes.get(&socket.inode).cloned(), above));
        }
        self.judge_flows(&mut found);
        let marked: HashSet<u32> =
            self.marker.iter().flat_map(mark::Marker::interfaces).map(|(i, _)| i.index).collect();
        for (flow, subject) in found.into_iter().filter(|(_, s)| marked.contains(&s.interface)) {
            if self.engine.find(&flow).is_none() {
                self.start_by_rule(flow, &subject);
            }
        }
    }

    /// Flows that rules found: by the rules as they are now some are others', some nobody's.
    fn judge_flows(&mut self, found: &mut HashMap<FiveTuple, Subject>) {
        let by_rule: Vec<_> = self.engine.iter().filter(|view| view.rule.is_some()).collect();
        for view in by_rule {
            let Ok(flow) = FiveTuple::new(view.key.protocol, view.key.local, view.key.remote) else {
                continue;
            };
            let stays = match found.remove(&flow) {
                Some(mut subject) => {
                    subject.process =
                        subject.process.or_else(|| view.application.as_deref().map(str::to_owned));
                    self.start_by_rule(flow, &subject)
                }
                None => self.judge_unseen(flow, view.rule.as_deref()),
            };
            if !stays {
                self.handle(Event::End(End::new(Selector::Id(view.id), SOURCE)));
            }
        }
    }

    /// A flow without a socket that could be listed: one of datagrams, or forwarded. Whose it is nobody can say any more,
    /// so the rule that found it stays, unless one before it applies whoever it is.
    fn judge_unseen(&mut self, flow: FiveTuple, found_by: Option<&str>) -> bool {
        let subject = Subject::new(flow.protocol().number(), flow.src(), flow.dst());
        let asks_more = |rule: &kernel::Rule| {
            rule.interfaces.is_some()
                || rule.cgroups.is_some()
                || !rule.users.is_empty()
                || !rule.processes.is_empty()
        };
        for rule in &self.rules.resolved.rules {
            if found_by == Some(&*rule.name) && self.rules.unchanged.contains(&rule.name) {
                return true;
            }
            if !asks_more(rule) && rule.matches(&subject) {
                return self.start_by_rule(flow, &subject);
            }
        }
        false
    }

    /// False: no rule marks it.
    fn start_by_rule(&mut self, flow: FiveTuple, subject: &Subject) -> bool {
        let Some(at) = kernel::first(&self.rules.resolved.rules, subject) else { return false };
        let rule = &self.rules.resolved.rules[at];
        let Some(mark) = rule.action.mark(&flow.into(), &self.rules.entropy_key) else { return false };
        let name = Arc::clone(&rule.name);
        self.start(flow, mark, Some(name), subject.process.clone());
        true
    }

    fn start(&mut self, flow: FiveTuple, mark: mark::Mark, rule: Option<Arc<str>>, process: Option<String>) {
        let Some(tag) = mark.label.tag() else { return };
        let announcement = Announcement {
            strategy: Some(mark.strategy),
            rule: Some(rule.unwrap_or_else(|| Arc::from("earlier rule"))),
            idle_limit: (flow.protocol() == Protocol::Udp).then_some(DATAGRAM_IDLE),
            application: process.map(Into::into),
            ..Announcement::new(flow, tag, SOURCE)
        };
        if let Outcome::Rejected(rejection) = self.handle(Event::Start(announcement)) {
            self.throttle.warn("a flow that a rule found is not followed", &rejection);
        }
    }

    /// What left and what arrived, by tag; none: marking is off.
    pub(crate) fn coverage(&self) -> Option<flowtag_kernel::Result<mark::Coverage>> {
        self.marker.as_ref().map(mark::Marker::coverage)
    }

    /// What the programs in the kernel say.
    pub(crate) fn take(&mut self, event: mark::Event) {
        match event {
            mark::Event::Matched { key, mark, rule, generation, process, .. } => {
                let Ok(flow) = FiveTuple::new(key.protocol, key.local, key.remote) else { return };
                let known = self.engine.find(&flow);
                // Somebody may have announced it while the match was on its way: that goes first.
                if known.as_ref().is_none_or(|known| known.rule.is_some()) {
                    let name = self.rules.name(generation, rule).or_else(|| known?.rule);
                    self.start(flow, mark, name, process);
                }
            }
            mark::Event::Closed { key, last } => {
                let (key, at) = (engine_key(&key), jiff::Timestamp::now());
                if let (Some((id, _)), Some(last)) = (self.engine.at(&key), last) {
                    self.statistics.closed(id, *last);
                }
                self.handle(Event::Closed { key, at });
            }
            mark::Event::NoRoom { key, mark, mtu } => self.make_room(&key, mark.strategy, mtu),
        }
    }

    fn make_room(&mut self, key: &mark::Key, strategy: Strategy, mtu: u32) {
        let Some(path) = &self.path_mtu else { return };
        let wanted = mtu.saturating_sub(u32::try_from(strategy.header_len()).unwrap_or(0));
        match path.lower(key.local.addr(), key.remote.addr(), wanted) {
            Ok(true) => {
                let (remote, mtu) = (key.remote.addr(), wanted);
                tracing::info!(%remote, mtu, "the path is taken to be narrower, for room for the options header");
            }
            Ok(false) => {}
            Err(error) => self.throttle.warn("no room can be made for an options header", &error),
        }
    }

    /// Flows that an earlier daemon left in the kernel go on; those whose connection is gone since end.
    pub(crate) fn adopt(&mut self, open: Option<&[Socket]>) {
        let Some(marker) = &self.marker else { return };
        let adopted = marker.adopted().to_vec();
        for flow in &adopted {
            let (Ok(tuple), Some(tag)) =
                (FiveTuple::new(flow.key.protocol, flow.key.local, flow.key.remote), flow.mark.label.tag())
            else {
                continue;
            };
            let start =
                i64::try_from(flow.start).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
            self.handle(Event::Adopt(Announcement {
                strategy: Some(flow.mark.strategy),
                start_time: start,
                ..Announcement::new(tuple, tag, Source("kernel"))
            }));
        }
        let Some(open) = open else { return };
        let local: BTreeSet<IpAddr> =
            link::addresses().unwrap_or_default().iter().map(|address| address.addr).collect();
        let connected: HashSet<_> = open.iter().map(|s| (s.protocol, s.local, s.remote)).collect();
        let at = jiff::Timestamp::now();
        let gone = adopted.iter().map(|flow| flow.key).filter(|key| {
            key.protocol == Protocol::Tcp
                && local.contains(&key.local.addr())
                && !connected.contains(&(key.protocol, key.local, key.remote))
        });
        let gone: Vec<_> = gone.collect();
        for key in gone {
            self.handle(Event::Closed { key: engine_key(&key), at });
        }
    }
}

/// Looks at times whether cgroups that rules name came or went.
pub(crate) async fn follow_cgroups(core: Core) {
    loop {
        tokio::time::sleep(LOOK).await;
        let look = core.ask(|state| {
            if state.rules.names_cgroups() {
                state.rules_changed();
            }
        });
        if look.await.is_err() {
            return;
        }
    }
}

/// Tags that count as meant where they arrive: those of the registry.
pub(crate) fn registered(registry: &Registry) -> Vec<Tag> {
    (0..=u16::MAX >> 1)
        .filter_map(|n| ScitagInteger::new(n.into()).ok()?.try_into().ok())
        .filter(|tag: &Tag| registry.activity_name(tag.experiment, tag.activity).is_some())
        .collect()
}
