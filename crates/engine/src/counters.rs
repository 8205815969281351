//! What the engine has done since its start, each count with its name and meaning in one place, so that metrics,
//! JSON and documentation follow from here.

/// One count, described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Snake case, without prefix or `_total`.
    pub name: &'static str,
    /// What is counted, as a sentence.
    pub help: &'static str,
    /// The count; only ever rises while the engine lives.
    pub value: u64,
}

macro_rules! counters {
    ($(#[doc = $help:literal] $name:ident,)+) => {
        /// Counts of events and what became of them. `started == ended + ended_idle + ended_closed +
        /// Engine::len()`, always.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: u64,)+
        }

        impl Counters {
            /// All counts with name and help, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = Counter> + use<> {
                [$(Counter { name: stringify!($name), help: $help.trim_ascii(), value: self.$name },)+].into_iter()
            }
        }
    };
}

counters! {
    /// Flows that began, those that are adopted or taken over included.
    started,
    /// Flows that began with an ONGOING, because their START was never heard.
    adopted,
    /// Flows that the kernel marked already for an earlier daemon and that go on in this one.
    taken_over,
    /// Announcements that gave a known flow another tag or strategy.
    updated,
    /// Announcements of a known flow that changed nothing.
    refreshed,
    /// Flows ended by an END.
    ended,
    /// Flows ended because neither an announcement nor a packet came within the idle limit.
    ended_idle,
    /// Flows ended because their socket closed and no END came.
    ended_closed,
    /// ENDs of flows that are not in the table.
    unknown_end,
    /// Announcements refused because the flow table was full.
    rejected_full,
    /// Announcements refused because the flow is firefly traffic.
    rejected_own,
    /// Flows that the kernel could not mark because its map was full.
    mark_failed,
    /// Flows marked anew on an announcement, after the kernel's map had been full.
    mark_retried,
    /// Times the kernel was asked when it last saw a flow.
    probes,
    /// Flows whose local end changed because the addresses of the host did.
    reoriented,
    /// Application names cut to the longest that is kept.
    applications_cut,
    /// Times the clock was set back so far that the idle times were restarted.
    clock_steps,
}
