//! What the service manager is told (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::common::daemon::Daemon;

#[test]
fn the_service_manager_hears_of_start_reload_and_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let next = || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    let toml = "[mark]\nenabled = false\n";
    let daemon = Daemon::start_with(toml, |args| {
        let mut command = Command::new("env");
        command.arg(format!("NOTIFY_SOCKET={}", path.display())).args(args);
        command
    });
    assert_eq!(next(), "READY=1");
    daemon.reload(toml);
    let reloading = next();
    // systemd.service(5), Type=notify-reload: with the time, so that it is not taken for an earlier reload's.
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(next(), "READY=1");
    daemon.stop();
    assert_eq!(next(), "STOPPING=1");
}

#[test]
fn the_service_manager_hears_again_and_again_that_the_daemon_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let daemon = Daemon::start_with("[mark]\nenabled = false\n", |args| {
        let mut command = Command::new("env");
        command.arg(format!("NOTIFY_SOCKET={}", path.display())).arg("WATCHDOG_USEC=200000").args(args);
        command
    });
    let mut buffer = [0; 512];
    let heard: Vec<_> = (0..4)
        .map(|_| {
            let length = socket.recv(&mut buffer).expect("a message");
            String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
        })
        .collect();
    assert_eq!(heard, ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
    daemon.stop();
}
