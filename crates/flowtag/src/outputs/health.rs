//! Whether somebody whom flowtag sends to can be reached: said when it changes, not each time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is wrong with a target now.
#[derive(Debug)]
pub(crate) struct Health {
    /// The target, for messages.
    name: String,
    /// How long nothing may go wrong until it counts as well again.
    patience: Duration,
    trouble: Mutex<Option<(String, Instant)>>,
}

impl Health {
    /// One that is well.
    pub(crate) const fn new(name: String, patience: Duration) -> Self {
        Self { name, patience, trouble: Mutex::new(None) }
    }

    pub(crate) fn bad(&self, error: String) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none() {
            tracing::warn!(collector = self.name, error, "a collector cannot be reached");
        }
        *trouble = Some((error, Instant::now()));
    }

    pub(crate) fn good(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref().is_some_and(|(_, last)| last.elapsed() >= self.patience) {
            tracing::info!(collector = self.name, "a collector is reached again");
            *trouble = None;
        }
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(error, _)| error.clone())
    }
}
