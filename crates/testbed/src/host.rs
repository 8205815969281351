//! One host of a bed: a network namespace with its own interfaces, routes, sockets and sysctls.

use std::fs::{self, File};
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::capture::Capture;
use crate::cleanup;
use crate::exec::checked;
use crate::process::Process;
use crate::wait::{WAIT, wait_until};

/// Shows the namespace's interfaces in /sys and keeps all else that is mounted below it (cgroups, bpf, tracing),
/// which `ip netns exec` would hide. The new sysfs first stands on /sys/class/net, so no other place is needed.
pub(crate) const SYSFS: &str = "n=/sys/class/net
mount -t sysfs sysfs $n && mount -o bind $n/devices/virtual/net /sys/devices/virtual/net &&
mount -o bind $n/class/net $n || { echo 'flowtag-testbed: cannot mount the /sys of the namespace' >&2; exit 126; }
exec \"$@\"";

/// As a new host is set up: no address is ever tentative and no router is asked for, so that only the test's own
/// packets are on the wire.
const QUIET: [(&str, &str); 4] =
    [("accept_dad", "0"), ("dad_transmits", "0"), ("router_solicitations", "0"), ("accept_ra", "0")];

/// A network namespace. Clones are the same host; it goes away with its bed.
#[derive(Debug, Clone)]
pub struct Host {
    name: Arc<str>,
    namespace: Arc<str>,
}

impl Host {
    pub(crate) fn create(bed: &str, name: &str) -> Result<Self> {
        let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        ensure!(plain(name), "{name:?} is no name for a host: use letters, digits and _");
        let namespace = format!("{}{bed}-{name}", cleanup::own_prefix());
        cleanup::add(&namespace)?;
        let host = Self { name: name.into(), namespace: namespace.into() };
        host.ip(&["link", "set", "lo", "up"])?;
        for (key, value) in QUIET {
            host.set_sysctl(&format!("net/ipv6/conf/all/{key}"), value)?;
            host.set_sysctl(&format!("net/ipv6/conf/default/{key}"), value)?;
        }
        Ok(host)
    }

    /// As the bed was asked for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `flowtag-<pid>-<bed>-<host>`, as `ip netns` lists it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn namespace_path(&self) -> PathBuf {
        cleanup::path(&self.namespace)
    }

    /// A command that runs on this host: in its network namespace, and with its interfaces in /sys. The process id is
    /// that of the program; a program that is not found shows as exit status 127.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace_path().display()));
        command.args(["unshare", "--mount", "sh", "-c", SYSFS, "sh"]).arg(program);
        command
    }

    /// Runs `ip` with these arguments and gives what it printed.
    ///
    /// # Errors
    /// `ip` failed; the error has the whole command and what it said.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        checked(Command::new("ip").args(["-n", &self.namespace]).args(args))
            .with_context(|| format!("on host {}", self.name))
    }

    /// Runs a closure on a fresh thread inside the namespace: sockets it opens belong to this host and stay so. Only
    /// the network is the host's; `/proc/self/net` is still that of the whole process, `/proc/thread-self/net` is not.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// As the closure does.
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T> {
        let entered = || -> Result<T> {
            let path = self.namespace_path();
            let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {}: needs CAP_SYS_ADMIN", path.display()))?;
            Ok(closure())
        };
        thread::scope(|scope| scope.spawn(entered).join().unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Starts a command, best made by [`command`](Self::command), that is killed when the guard is dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        Process::spawn(command).with_context(|| format!("on host {}", self.name))
    }

    /// Captures what passes an interface, in both directions, with tcpdump and one of its filters (empty for all).
    /// When this returns, tcpdump is listening.
    ///
    /// # Errors
    /// tcpdump does not start, or does not understand the filter.
    pub fn capture(&self, device: &str, filter: &str) -> Result<Capture> {
        Capture::start(self, device, filter)
    }

    /// Sets a sysctl of this host, as a path (`net/ipv6/conf/eth0/mtu`) or with dots.
    ///
    /// # Errors
    /// No such sysctl, or not this value.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("writing {value:?} to {} on host {}", path.display(), self.name))
    }

    /// Reads a sysctl of this host.
    ///
    /// # Errors
    /// No such sysctl.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let value = self
            .run(|| fs::read_to_string(&path))?
            .with_context(|| format!("reading {} on host {}", path.display(), self.name))?;
        Ok(value.trim_end().to_owned())
    }

    /// Gives an interface one more address, `ADDRESS/PREFIX`, and waits until it can be used.
    ///
    /// # Errors
    /// Not an address, or no such interface.
    pub fn add_address(&self, device: &str, address: &str) -> Result<()> {
        let mut args = vec!["addr", "add", address, "dev", device];
        args.extend(address.contains(':').then_some("nodad"));
        self.ip(&args)?;
        self.wait_for_addresses(device)
    }

    /// Adds a route, in the words of `ip route`: `add_route("2001:db8::/32", &["via", "fd00:f1:1::2"])`.
    ///
    /// # Errors
    /// `ip` does not accept it.
    pub fn add_route(&self, destination: &str, how: &[&str]) -> Result<()> {
        let family =
            if destination.contains(':') || how.iter().any(|w| w.contains(':')) { "-6" } else { "-4" };
        self.ip(&[&[family, "route", "add", destination], how].concat()).map(drop)
    }

    /// Lets the host forward packets between its interfaces.
    ///
    /// # Errors
    /// The sysctls cannot be written.
    pub fn forward(&self) -> Result<()> {
        self.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.set_sysctl("net/ipv4/ip_forward", "1")
    }

    /// Adds a tun device without a program at its other end: for looking at what is sent, not for traffic. A link
    /// of two is [`Testbed::tun_link`](crate::Testbed::tun_link).
    ///
    /// # Errors
    /// The kernel has no tun devices.
    pub fn add_tun(&self, name: &str, addresses: &[&str]) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", name, "mode", "tun"]).context("needs a kernel with tun")?;
        self.bring_up(name, addresses)
    }

    /// Sets an interface up with these addresses and waits until they can be used.
    pub(crate) fn bring_up(&self, device: &str, addresses: &[&str]) -> Result<()> {
        self.ip(&["link", "set", "dev", device, "up"])?;
        addresses.iter().try_for_each(|address| self.add_address(device, address))
    }

    /// Turns offloads off or on with `ethtool -K`.
    ///
    /// # Errors
    /// No ethtool, or a feature that the device has not.
    pub fn offloads(&self, device: &str, settings: &[&str]) -> Result<()> {
        let mut ethtool = Command::new("nsenter");
        ethtool.arg(format!("--net={}", self.namespace_path().display())).args(["ethtool", "-K", device]);
        checked(ethtool.args(settings)).map(drop).with_context(|| format!("on host {}", self.name))
    }

    /// The interface as `ip -json -details address show` tells it.
    ///
    /// # Errors
    /// No such interface.
    pub fn interface(&self, device: &str) -> Result<Value> {
        let text = self.ip(&["-json", "-details", "address", "show", "dev", device])?;
        let list: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))?;
        // Where an address is filtered out, `ip` leaves an empty object.
        list.into_iter().find(|i| i["ifname"] == device).with_context(|| format!("no interface {device}"))
    }

    /// Waits until the interface has a carrier.
    pub(crate) fn wait_for_carrier(&self, device: &str) -> Result<()> {
        wait_until(&format!("{device} of host {} to be up", self.name), WAIT, || {
            let flags = &self.interface(device)?["flags"];
            Ok(flags.as_array().is_some_and(|f| f.iter().any(|f| f == "LOWER_UP")).then_some(()))
        })
    }

    /// Waits until no address of the interface is tentative.
    pub(crate) fn wait_for_addresses(&self, device: &str) -> Result<()> {
        wait_until(&format!("the addresses of {device} on host {}", self.name), WAIT, || {
            let addresses = &self.interface(device)?["addr_info"];
            let tentative = |a: &Value| a["tentative"] == true;
            Ok((!addresses.as_array().is_some_and(|a| a.iter().any(tentative))).then_some(()))
        })
    }

    /// Sends one echo request and tells whether the answer came within two seconds.
    ///
    /// # Errors
    /// `ping` cannot be started.
    pub fn reaches(&self, address: IpAddr) -> Result<bool> {
        let mut ping = self.command("ping");
        ping.args(["-n", "-q", "-c", "1", "-W", "2", &address.to_string()]);
        Ok(ping.output().context("starting ping")?.status.success())
    }
}

/// Dots separate only where no slash does: the name of a VLAN interface has a dot of its own.
fn sysctl_path(key: &str) -> PathBuf {
    let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    PathBuf::from("/proc/sys").join(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_is_named_with_dots_or_slashes() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(
            sysctl_path("net/ipv6/conf/eth0.5/mtu"),
            PathBuf::from("/proc/sys/net/ipv6/conf/eth0.5/mtu")
        );
    }
}
