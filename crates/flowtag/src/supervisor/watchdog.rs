//! Tells the service manager that the daemon works, not only that it runs (sd_notify(3), `WatchdogSec=`): each time the core
//! task has answered a question. While that is stuck, nothing is told, and the service manager restarts the daemon.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use super::core::Core;

/// Begins, if the service manager waits for it.
pub(super) fn start(core: Core) {
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(watch(core, limit, || {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }));
    }
}

/// Asks four times within `limit`, so that one late answer is no alarm.
async fn watch(core: Core, limit: Duration, told: impl Fn()) {
    let mut ticks = interval((limit / 4).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if core.ask(|_| ()).await.is_err() {
            return;
        }
        told();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use flowtag_engine::{Config, Engine};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn a_stuck_core_does_not_pass_for_one_that_works() {
        let (stop, stopped) = oneshot::channel();
        let (core, task) = Core::start(Engine::new(Config::new([0; 16])), None, stopped);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (stuck, is_stuck) = oneshot::channel();
        let holder = core.clone();
        let hold = tokio::spawn(async move {
            let hold = holder.ask(move |_| (stuck.send(()).is_ok(), held.recv().is_ok())).await;
            hold.expect("the core runs")
        });
        is_stuck.await.expect("it is stuck");
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        tokio::spawn(watch(core, Duration::from_millis(4), move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(told.load(Ordering::Relaxed), 0, "nobody answered");
        release.send(()).expect("it waits");
        hold.await.expect("it goes on");
        while told.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.send(()).expect("it runs");
        drop(task.await.expect("it stops"));
    }
}
