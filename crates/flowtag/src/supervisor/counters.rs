//! Counters of inputs and outputs: one place where each is defined with its meaning, from which status and metrics are
//! made.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A set of counters with names and meanings.
pub(crate) trait Counted: Send + Sync {
    /// Name, meaning and value of each, always the same names in the same order.
    fn counts(&self) -> Vec<(&'static str, &'static str, u64)>;
}

/// Defines a struct of [`Counter`]s whose doc comments are also what users read.
macro_rules! counters {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $(#[doc = $help:literal] $field:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $name { $(#[doc = $help] pub(crate) $field: $crate::supervisor::counters::Counter,)+ }

        impl $crate::supervisor::counters::Counted for $name {
            fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($field), $help.trim_ascii(), self.$field.get()),)+]
            }
        }
    };
}
pub(crate) use counters;

/// Somebody whom an output sends to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// As configured.
    pub(crate) name: String,
    /// None: its name is not resolved yet.
    pub(crate) address: Option<String>,
    /// What is wrong with it now.
    pub(crate) error: Option<String>,
}

/// An input or output at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    /// What it listens on or writes to, if that is one thing.
    pub(crate) at: Option<String>,
    /// False: it broke, and the log says why. A reload starts it again.
    pub(crate) running: bool,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) targets: Vec<Target>,
    /// What of it does not work though the rest does, and why.
    #[serde(default)]
    pub(crate) problems: Vec<String>,
}

/// What a running input or output shows.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) at: Option<String>,
    pub(crate) counters: Vec<Arc<dyn Counted>>,
    pub(crate) targets: Arc<dyn Fn() -> Vec<Target> + Send + Sync>,
    pub(crate) problems: Arc<[String]>,
    pub(crate) running: bool,
}

impl Entry {
    pub(crate) fn new(counters: Vec<Arc<dyn Counted>>) -> Self {
        Self { at: None, counters, targets: Arc::new(Vec::new), problems: [].into(), running: true }
    }
}

/// All inputs and outputs that run.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

impl Board {
    pub(crate) fn put(&self, name: &'static str, entry: Entry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, entry);
    }

    pub(crate) fn remove(&self, name: &str) -> Option<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// What runs under this name has come to its end.
    pub(crate) fn ended(&self, name: &str) {
        if let Some(entry) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name) {
            entry.running = false;
        }
    }

    /// In the order of their names.
    pub(crate) fn entries(&self) -> Vec<(&'static str, Entry)> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.iter().map(|(name, entry)| (*name, entry.clone())).collect()
    }

    /// By name.
    pub(crate) fn status(&self) -> BTreeMap<String, ServiceStatus> {
        let status = |entry: &Entry| ServiceStatus {
            at: entry.at.clone(),
            running: entry.running,
            counts: entry
                .counters
                .iter()
                .flat_map(|c| c.counts())
                .map(|(name, _, value)| (name.to_owned(), value))
                .collect(),
            targets: (entry.targets)(),
            problems: entry.problems.to_vec(),
        };
        self.entries().into_iter().map(|(name, entry)| (name.to_owned(), status(&entry))).collect()
    }
}
