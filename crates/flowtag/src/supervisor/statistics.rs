//! What the kernel measures of the TCP connections of known flows: asked in one pass for all, and kept until they end.

use flowtag_engine::Report;

use crate::outputs::Record;

/// The latest values of each flow.
#[derive(Debug, Default)]
pub(crate) struct Statistics {}

impl Statistics {
    /// A report with what is known of its connection. After an END it is forgotten.
    #[allow(clippy::unused_self, reason = "to be done")]
    pub(crate) fn complete(&mut self, report: Report) -> Record {
        Record { report, tcp: None }
    }
}
