//! What the programs in the kernel tell, and how they learn that somebody listens.

use std::time::Duration;

use flowtag_kernel::mark::Events;

use super::core::Core;
use super::throttle::chain;

/// How long the reader waits before it looks whether the daemon still runs.
const WAIT: Duration = Duration::from_millis(200);

/// Hands what the programs tell to the core, until it stops.
pub(crate) fn follow(core: Core, events: Events) {
    let runtime = tokio::runtime::Handle::current();
    // A thread and not a task: waiting for the ring blocks. It ends with the core.
    let read = move || {
        while let Ok(told) =
            events.next(WAIT).inspect_err(|e| tracing::error!(error = chain(e), "the kernel is not heard"))
        {
            if told.is_empty() {
                continue;
            }
            let handed =
                runtime.block_on(core.ask(move |state| told.into_iter().for_each(|event| state.take(event))));
            if handed.is_err() {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("kernel".into()).spawn(read) {
        tracing::error!(%error, "the kernel is not heard: flows that rules find are marked, not reported");
    }
}

/// Keeps marking alive while the daemon is.
pub(crate) async fn renew_lease(core: Core, lease: Duration) {
    loop {
        tokio::time::sleep(lease / 4).await;
        let renewed = core.ask(|state| state.marker.as_ref().map_or(Ok(()), |marker| marker.renew_lease()));
        match renewed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = chain(&error), "the lease could not be renewed"),
            Err(_) => return,
        }
    }
}
