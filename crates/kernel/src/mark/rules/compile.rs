//! From rules to what the program looks up: sets of rules by value, and the sets' intersection is what matches.
//!
//! Each condition of a packet (its remote address, its user, …) has a class, the number of the set of rules that it
//! meets: those that name it and those without such a condition. Equal sets are kept once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use flowtag_wire::{Entropy, FlowLabel, Tag};
use ipnet::IpNet;

use super::super::abi::{mark_action, mark_dimension as by, mark_rule_limits as limits, mark_word};
use super::{Action, Rule, canonical};

const MAX_RULES: usize = limits::MARK_MAX_RULES as usize;
const MAX_CLASSES: usize = limits::MARK_MAX_CLASSES as usize;
const MAX_TAGS: usize = limits::MARK_RULE_TAGS as usize;
/// Half of `flowtag_values`, as two banks share it.
const MAX_VALUES: usize = 2 * MAX_CLASSES;
/// Less than half of `flowtag_prefixes`, which also holds the prefixes to strip.
const MAX_PREFIXES: usize = 24 * 1024;
/// What `/proc/PID/comm` holds, less the zero at its end.
const MAX_PROCESS: usize = 15;
pub(super) const PORTS: usize = 1 << 16;
/// `::ffff:0:0`, above which IPv4 addresses are.
const MAPPED: u128 = 0xffff_0000_0000;

/// A set of rules: bit `n % 64` of word `n / 64` is rule `n`.
pub type RuleSet = [u64; limits::MARK_RULE_WORDS as usize];

/// Number of a set of rules, an index into [`Compiled::sets`]: 0 to 4095.
pub type Class = u16;

/// What is written into one bank of the maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// All sets of rules that are in use, by class.
    pub sets: Vec<RuleSet>,
    /// `struct mark_rule_bank`.
    pub bank: Bank,
    /// Exact values that rules name.
    pub values: Vec<Value>,
    /// Classes of all ports on this host; none where no rule looks at them.
    pub local_ports: Option<Box<[Class; PORTS]>>,
    /// Classes of all ports at the other end, likewise.
    pub remote_ports: Option<Box<[Class; PORTS]>>,
    /// Prefixes, of which the longest counts that an address is in.
    pub prefixes: Vec<Prefix>,
    /// What each rule does, in their order.
    pub actions: Vec<RuleAction>,
}

/// `struct mark_rule_bank`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bank {
    /// Words of the sets that are in use.
    pub words: u32,
    /// Bit per `enum mark_dimension`: some rule looks at it.
    pub used: u32,
    /// Bit per level at which a rule names a cgroup; the root is 0.
    pub cgroup_levels: u32,
    /// By `enum mark_dimension`: class of values that no rule names.
    pub any: [Class; by::MARK_DIMENSIONS as usize],
}

/// `struct mark_rule_value` and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// `enum mark_dimension`, up to `MARK_BY_CGROUP`.
    pub dimension: u8,
    /// A number and 0, or 16 bytes of a name padded with zeros, as they stand in memory.
    pub value: [u64; 2],
    /// Rules that it meets.
    pub class: Class,
}

/// `struct mark_prefix` of a rule and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Of the other end, not of this host.
    pub remote: bool,
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Bits of `addr` that count: 0 to 128.
    pub len: u8,
    /// Rules that the addresses in it meet which are in no longer prefix.
    pub class: Class,
}

/// `struct mark_rule`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleAction {
    /// `enum mark_action`.
    pub action: u32,
    /// Bits of `enum mark_word`.
    pub strategy: u32,
    /// Label without entropy, and class of the tag, as in `enum mark_word`; 1 to 16 to mark, none otherwise.
    pub tags: Vec<u32>,
}

/// Why rules cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// More rules than the sets have bits.
    #[error(
        "there are {count} rules, {rule:?} and those after it are above the limit of {MAX_RULES}: join rules with the \
         same tag into one with several values"
    )]
    TooManyRules {
        /// First that is too many.
        rule: Arc<str>,
        /// All.
        count: usize,
    },
    /// Two rules have one name.
    #[error("two rules are called {rule:?}: give one of them another name")]
    DuplicateName {
        /// The name.
        rule: Arc<str>,
    },
    /// A rule marks with nothing.
    #[error("rule {rule:?} has no tag: name one, or say \"random\" or \"never\"")]
    NoTag {
        /// Its name.
        rule: Arc<str>,
    },
    /// A rule has more tags to choose from than the kernel's entry holds.
    #[error("rule {rule:?} has {count} tags: name at most {MAX_TAGS}, or say \"random\"")]
    TooManyTags {
        /// Its name.
        rule: Arc<str>,
        /// How many.
        count: usize,
    },
    /// No process can have this name.
    #[error(
        "rule {rule:?} names process {process:?}, but the kernel keeps 1 to {MAX_PROCESS} bytes of a name: write what \
         /proc/PID/comm has{cut}"
    )]
    Process {
        /// Its name.
        rule: Arc<str>,
        /// The process's name.
        process: String,
        /// What is left of it, to be read after the sentence.
        cut: String,
    },
    /// A cgroup is further below the root than the program looks.
    #[error(
        "rule {rule:?} names a cgroup {level} levels below the root: name one above it, at most {max} below the root",
        max = limits::MARK_MAX_CGROUP_LEVELS - 1
    )]
    DeepCgroup {
        /// Its name.
        rule: Arc<str>,
        /// How deep.
        level: u32,
    },
    /// A kind of value, prefix or set of rules occurs too often for its map.
    #[error(
        "with rule {rule:?} the rules have more than {max} different {what}: join rules with the same tag into one, \
         and values into prefixes or ranges that do not overlap"
    )]
    TooMany {
        /// Name of a rule that has one more.
        rule: Arc<str>,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

/// Makes the sets of rules that the program looks up. `class_of_tag` gives the index by which packets with a tag are
/// counted; it is asked once for each tag of each rule.
///
/// # Errors
/// [`RulesError`] names the rule that is impossible or one too many, and what to do.
pub fn compile(rules: &[Rule], class_of_tag: &mut dyn FnMut(Tag) -> u8) -> Result<Compiled, RulesError> {
    check(rules)?;
    let mut compiler = Compiler::new(rules);
    for dimension in [
        by::MARK_BY_PROTOCOL,
        by::MARK_BY_INTERFACE,
        by::MARK_BY_USER,
        by::MARK_BY_PROCESS,
        by::MARK_BY_CGROUP,
    ] {
        compiler.exact(dimension)?;
    }
    let local_ports = compiler.ports(by::MARK_BY_LOCAL_PORT, |r| &r.local_ports)?;
    let remote_ports = compiler.ports(by::MARK_BY_REMOTE_PORT, |r| &r.remote_ports)?;
    compiler.addresses(by::MARK_BY_LOCAL_ADDRESS, |r| &r.local)?;
    compiler.addresses(by::MARK_BY_REMOTE_ADDRESS, |r| &r.remote)?;
    let levels = rules.iter().filter_map(|r| r.cgroups.as_ref()).flatten().map(|c| c.level);
    compiler.bank.cgroup_levels = levels.fold(0, |bits, level| bits | 1 << level);
    Ok(Compiled {
        sets: compiler.sets,
        bank: compiler.bank,
        values: compiler.values,
        local_ports,
        remote_ports,
        prefixes: compiler.prefixes,
        actions: rules.iter().map(|r| action(&r.action, class_of_tag)).collect(),
    })
}

/// What can be seen of each rule alone, and of their names.
fn check(rules: &[Rule]) -> Result<(), RulesError> {
    if let Some(rule) = rules.get(MAX_RULES) {
        return Err(RulesError::TooManyRules { rule: rule.name.clone(), count: rules.len() });
    }
    let mut names = HashSet::new();
    for rule in rules {
        let name = || rule.name.clone();
        if !names.insert(&rule.name) {
            return Err(RulesError::DuplicateName { rule: name() });
        }
        match &rule.action {
            Action::Mark { tags, .. } if tags.is_empty() => return Err(RulesError::NoTag { rule: name() }),
            Action::Mark { tags, .. } if tags.len() > MAX_TAGS => {
                return Err(RulesError::TooManyTags { rule: name(), count: tags.len() });
            }
            _ => {}
        }
        if let Some(process) = rule.processes.iter().find(|p| !(1..=MAX_PROCESS).contains(&p.len())) {
            let cut = process.as_bytes().get(..MAX_PROCESS).map(String::from_utf8_lossy);
            let cut = cut.map(|cut| format!(", here {cut:?}")).unwrap_or_default();
            return Err(RulesError::Process { rule: name(), process: process.clone(), cut });
        }
        let level = rule.cgroups.iter().flatten().map(|c| c.level).max().unwrap_or(0);
        if level >= limits::MARK_MAX_CGROUP_LEVELS {
            return Err(RulesError::DeepCgroup { rule: name(), level });
        }
    }
    Ok(())
}

fn action(action: &Action, class_of_tag: &mut dyn FnMut(Tag) -> u8) -> RuleAction {
    let mut word = |tag: &Tag| {
        let class = u32::from(class_of_tag(*tag)) << mark_word::MARK_WORD_CLASS_SHIFT;
        FlowLabel::from_tag(*tag, Entropy::NONE).value() | class
    };
    let (action, strategy, tags) = match action {
        Action::Mark { tags, strategy } => {
            (mark_action::MARK_ACTION_MARK, strategy.bits(), tags.iter().map(&mut word).collect())
        }
        Action::Random { strategy } => (mark_action::MARK_ACTION_RANDOM, strategy.bits(), Vec::new()),
        Action::Never => (mark_action::MARK_ACTION_NEVER, 0, Vec::new()),
    };
    RuleAction { action, strategy: u32::from(strategy) << mark_word::MARK_WORD_STRATEGY_SHIFT, tags }
}

struct Compiler<'a> {
    rules: &'a [Rule],
    sets: Vec<RuleSet>,
    classes: HashMap<RuleSet, Class>,
    bank: Bank,
    values: Vec<Value>,
    prefixes: Vec<Prefix>,
}

impl<'a> Compiler<'a> {
    fn new(rules: &'a [Rule]) -> Self {
        Self {
            rules,
            sets: Vec::new(),
            classes: HashMap::new(),
            bank: Bank { words: rules.len().div_ceil(64) as u32, ..Bank::default() },
            values: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    /// Of a dimension in which rules have conditions or not: notes it in the bank, and returns the rules without.
    fn dimension<T>(&mut self, dimension: u32, conditions: &[Option<T>]) -> Result<RuleSet, RulesError> {
        let mut any = RuleSet::default();
        let without = conditions.iter().enumerate().filter(|(_, condition)| condition.is_none());
        without.for_each(|(rule, _)| insert(&mut any, rule));
        if conditions.iter().any(Option::is_some) {
            self.bank.used |= 1 << dimension;
        }
        self.bank.any[dimension as usize] = self.class(&any, &any)?;
        Ok(any)
    }

    /// Class of a set; those of its rules that are not in `any` made it.
    fn class(&mut self, set: &RuleSet, any: &RuleSet) -> Result<Class, RulesError> {
        if let Some(class) = self.classes.get(set) {
            return Ok(*class);
        }
        if self.sets.len() == MAX_CLASSES {
            return Err(self.too_many(set, any, "combinations of conditions", MAX_CLASSES));
        }
        let class = self.sets.len() as Class;
        self.sets.push(*set);
        self.classes.insert(*set, class);
        Ok(class)
    }

    fn too_many(&self, set: &RuleSet, any: &RuleSet, what: &'static str, max: usize) -> RulesError {
        let last = (0..self.rules.len()).rev().find(|n| has(set, *n) && !has(any, *n));
        let rule = last.and_then(|n| self.rules.get(n)).or(self.rules.last());
        RulesError::TooMany { rule: rule.map_or_else(|| "".into(), |r| r.name.clone()), what, max }
    }

    fn exact(&mut self, dimension: u32) -> Result<(), RulesError> {
        let conditions: Vec<_> = self.rules.iter().map(|rule| exact_values(rule, dimension)).collect();
        let any = self.dimension(dimension, &conditions)?;
        let mut sets: BTreeMap<[u64; 2], RuleSet> = BTreeMap::new();
        for (rule, value) in each(&conditions) {
            insert(sets.entry(*value).or_insert(any), rule);
        }
        for (value, set) in sets {
            if self.values.len() == MAX_VALUES {
                return Err(self.too_many(
                    &set,
                    &any,
                    "users, processes, interfaces and cgroups",
                    MAX_VALUES,
                ));
            }
            let class = self.class(&set, &any)?;
            self.values.push(Value { dimension: dimension as u8, value, class });
        }
        Ok(())
    }

    /// Goes up through the ports at which some range begins or ends.
    fn ports(
        &mut self,
        dimension: u32,
        ranges: impl Fn(&'a Rule) -> &'a [RangeInclusive<u16>],
    ) -> Result<Option<Box<[Class; PORTS]>>, RulesError> {
        let conditions: Vec<_> = self.rules.iter().map(|rule| listed(ranges(rule))).collect();
        let any = self.dimension(dimension, &conditions)?;
        if conditions.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut steps: Vec<(usize, usize, bool)> = Vec::new();
        for (rule, range) in each(&conditions).filter(|(_, range)| !range.is_empty()) {
            steps.push((usize::from(*range.start()), rule, true));
            steps.push((usize::from(*range.end()) + 1, rule, false));
        }
        steps.sort_unstable();
        let mut class = self.bank.any[dimension as usize];
        let (mut table, mut from) = (vec![class; PORTS], 0);
        // Ranges of one rule may overlap: it leaves the set with its last.
        let (mut set, mut open) = (any, vec![0_u32; self.rules.len()]);
        for step in steps.chunk_by(|a, b| a.0 == b.0) {
            let at = step[0].0;
            table[from..at].fill(class);
            for (_, rule, begins) in step {
                let count = &mut open[*rule];
                *count = if *begins { *count + 1 } else { count.saturating_sub(1) };
            }
            for (_, rule, _) in step {
                if open[*rule] > 0 { insert(&mut set, *rule) } else { remove(&mut set, *rule) }
            }
            class = self.class(&set, &any)?;
            from = at;
        }
        Ok(Some(table.into_boxed_slice().try_into().expect("it has a class for each port")))
    }

    fn addresses(
        &mut self,
        dimension: u32,
        nets: impl Fn(&'a Rule) -> &'a [IpNet],
    ) -> Result<(), RulesError> {
        let conditions: Vec<_> = self.rules.iter().map(|rule| listed(nets(rule))).collect();
        let any = self.dimension(dimension, &conditions)?;
        let (mut v4, mut v6) = (Nets::new(), Nets::new());
        for (rule, net) in each(&conditions) {
            let (family, key) = match canonical(*net) {
                IpNet::V4(net) => (&mut v4, (net.addr().to_ipv6_mapped().to_bits(), 96 + net.prefix_len())),
                IpNet::V6(net) => (&mut v6, (net.addr().to_bits(), net.prefix_len())),
            };
            insert(family.entry(key).or_default(), rule);
        }
        // The map has IPv4 as part of IPv6. A rule for ::/0 does not mean it.
        if v6.keys().any(|net| covers(*net, (MAPPED, 96))) {
            v4.entry((MAPPED, 96)).or_default();
        }
        for ((addr, len), set) in [v4, v6].into_iter().flat_map(|family| nested(family, &any)) {
            if self.prefixes.len() == MAX_PREFIXES {
                return Err(self.too_many(&set, &any, "prefixes", MAX_PREFIXES));
            }
            let (remote, class) = (dimension == by::MARK_BY_REMOTE_ADDRESS, self.class(&set, &any)?);
            self.prefixes.push(Prefix { remote, addr: addr.to_be_bytes(), len, class });
        }
        Ok(())
    }
}

/// Prefixes (address without host bits, and length) and the rules that name them. A prefix comes before those in it.
type Nets = BTreeMap<(u128, u8), RuleSet>;

/// Adds to each prefix the rules of those that it is in, and the rules that name none.
fn nested(nets: Nets, any: &RuleSet) -> Vec<((u128, u8), RuleSet)> {
    let mut around: Vec<((u128, u8), RuleSet)> = Vec::new();
    let mut all = Vec::with_capacity(nets.len());
    for (net, mut set) in nets {
        while around.last().is_some_and(|(outer, _)| !covers(*outer, net)) {
            around.pop();
        }
        unite(&mut set, around.last().map_or(any, |(_, outer)| outer));
        around.push((net, set));
        all.push((net, set));
    }
    all
}

fn covers((outer, len): (u128, u8), (inner, inner_len): (u128, u8)) -> bool {
    len <= inner_len && (len == 0 || (outer ^ inner) >> (128 - len) == 0)
}

/// Values that a rule names in a dimension of exact values; none where it has no condition.
fn exact_values(rule: &Rule, dimension: u32) -> Option<Vec<[u64; 2]>> {
    let numbers = |values: &[u32]| values.iter().map(|v| [u64::from(*v), 0]).collect();
    match dimension {
        by::MARK_BY_PROTOCOL => {
            listed(&rule.protocols).map(|all| all.iter().map(|p| [u64::from(*p), 0]).collect())
        }
        by::MARK_BY_INTERFACE => rule.interfaces.as_deref().map(numbers),
        by::MARK_BY_USER => listed(&rule.users).map(numbers),
        by::MARK_BY_PROCESS => listed(&rule.processes).map(|all| all.iter().map(|p| name(p)).collect()),
        _ => rule.cgroups.as_ref().map(|all| all.iter().map(|c| [c.id, 0]).collect()),
    }
}

/// A process's name, at most 15 bytes of it, as it stands in the kernel's memory.
pub(super) fn name(process: &str) -> [u64; 2] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(process.bytes().take(MAX_PROCESS)).for_each(|(to, from)| *to = from);
    let (low, high) = bytes.split_at(8);
    [low, high].map(|half| half.try_into().map_or(0, u64::from_ne_bytes))
}

/// An empty list is no condition.
fn listed<T>(values: &[T]) -> Option<&[T]> {
    (!values.is_empty()).then_some(values)
}

/// Each rule with each of its values.
fn each<'a, T: 'a, C: AsRef<[T]>>(conditions: &'a [Option<C>]) -> impl Iterator<Item = (usize, &'a T)> {
    let values = conditions.iter().enumerate();
    values.flat_map(|(rule, values)| values.iter().flat_map(|v| v.as_ref()).map(move |value| (rule, value)))
}

fn insert(set: &mut RuleSet, rule: usize) {
    set[rule / 64] |= 1 << (rule % 64);
}

fn remove(set: &mut RuleSet, rule: usize) {
    set[rule / 64] &= !(1 << (rule % 64));
}

fn has(set: &RuleSet, rule: usize) -> bool {
    set[rule / 64] >> (rule % 64) & 1 == 1
}

fn unite(set: &mut RuleSet, with: &RuleSet) {
    set.iter_mut().zip(with).for_each(|(word, other)| *word |= other);
}
