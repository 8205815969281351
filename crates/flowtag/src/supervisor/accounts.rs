//! Totals by whose traffic it is, for metrics.

use crate::outputs::Record;

/// What was reported so far.
#[derive(Debug, Default)]
pub(crate) struct Accounts {}

impl Accounts {
    /// Counts what a report says.
    #[allow(clippy::unused_self, reason = "to be done")]
    pub(crate) fn reported(&mut self, _record: &Record) {}
}
