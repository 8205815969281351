//! Checks by doing: the marking program is loaded, and attached in a network namespace that nobody else sees.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use libbpf_rs::{ErrorKind, PrintLevel, set_print};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::process::Capabilities;
use super::{AS_ROOT, Check, chain, hooks, system};
use crate::mark::{Hook, HookChoice, Marker, Settings};
use crate::{Error, link};

/// Loads the marking program as the daemon would and lets go of it at once; not attached, it sees no packet.
#[must_use]
pub fn marking_program(settings: &Settings) -> Check {
    const NAME: &str = "marking program";
    let (result, said) = quietly(|| Marker::load(settings));
    match result {
        Ok(_) => Check::ok(NAME, format!("loads, with room for {} flows", settings.max_flows)),
        Err(error) => not_loaded(NAME, &error, &said),
    }
}

/// Whether sockets are followed: where they are made, for rules with a process's name, and where they close, which ends
/// their flows. Loaded and let go of, as above; the second is attached for that moment, with no flow to look for.
#[must_use]
pub fn sockets() -> [Check; 2] {
    const NAMES: [&str; 2] = ["socket creation", "socket closing"];
    let settings = Settings { max_flows: 1, ..Settings::default() };
    let marker = match quietly(|| Marker::load(&settings)).0 {
        Ok(marker) => marker,
        Err(_) => {
            let detail = "not tried: the marking program does not load";
            return NAMES.map(|name| Check::unknown(name, detail, "see the line on the marking program"));
        }
    };
    // The kernel is asked for both or for none.
    let both = marker.knows_processes();
    let refused = "this kernel does not load the programs that follow sockets";
    let creation = if both {
        Check::ok(NAMES[0], "the program loads: rules can name processes")
    } else {
        Check::missing(NAMES[0], refused, "name users or cgroups in rules, in place of processes")
    };
    let without = "flows that nobody ends last until they are silent for flows.idle_limit";
    let closing = if both {
        Check::ok(NAMES[1], "tracepoint inet_sock_set_state: flows end with their sockets")
    } else if system::knows_socket_states() == Some(false) {
        let detail = format!("no tracepoint inet_sock_set_state: {without}");
        Check::warn(NAMES[1], detail, "run a kernel with CONFIG_TRACEPOINTS=y, or shorten flows.idle_limit")
    } else {
        Check::warn(NAMES[1], format!("{refused}: {without}"), "shorten flows.idle_limit")
    };
    [creation, closing]
}

/// The verifier's refusals and those for want of a permission both come as EACCES: only the former have a log.
fn not_loaded(name: &'static str, error: &Error, said: &str) -> Check {
    let lacking = Capabilities::of_this_thread().lacking().join(", ");
    match (verifier_verdict(said), error) {
        (Some(verdict), _) => {
            let fix = "run another kernel, and report this with the line \"kernel\": flowtag means to load on 5.10 and newer";
            Check::missing(name, format!("refused by the verifier: {verdict}"), fix)
        }
        (None, Error::Load { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            if lacking.is_empty() {
                let fix = "allow bpf(2): no seccomp filter, no user namespace, on kernels before 5.11 enough memlock";
                Check::missing(name, format!("not permitted in spite of all capabilities: {source:#}"), fix)
            } else {
                Check::unknown(
                    name,
                    format!("not permitted to this process, which lacks {lacking}"),
                    to_load(),
                )
            }
        }
        (None, Error::Load { source, .. }) => {
            Check::missing(name, format!("does not load: {source:#}"), "see the lines on BTF and memlock")
        }
        (None, error) => Check::missing(name, chain(error), "see the lines on BTF and memlock"),
    }
}

/// What to do where a permission is lacking; a root that lacks one is told so elsewhere.
fn to_load() -> &'static str {
    if geteuid().is_root() { "see the line on capabilities" } else { AS_ROOT }
}

/// The line in which the verifier says what is wrong: the last of its log but for the statistics.
fn verifier_verdict(said: &str) -> Option<&str> {
    let (_, log) = said.split_once("BEGIN PROG LOAD LOG --")?;
    let log = log.split("-- END PROG LOAD LOG").next()?;
    let statistics = |line: &str| {
        ["processed ", "verification time", "stack depth", "--"].iter().any(|start| line.starts_with(start))
    };
    log.lines().map(str::trim).rfind(|line| !line.is_empty() && !statistics(line))
}

/// Whether programs are compiled to machine code. Without, each packet costs several times more.
#[must_use]
pub fn jit() -> Check {
    const NAME: &str = "JIT";
    const KEY: &str = "net.core.bpf_jit_enable";
    let off = |detail: String| {
        Check::warn(NAME, detail, format!("sysctl -w {KEY}=1, and the same in /etc/sysctl.d"))
    };
    match std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(value) if value.trim() == "0" => {
            off(format!("off ({KEY} = 0): programs are interpreted, which is slow"))
        }
        Ok(value) => Check::ok(NAME, format!("on ({KEY} = {})", value.trim())),
        // Only the first network namespace shows the key, and only to root: look at a program instead.
        Err(e) => match is_compiled() {
            Some(true) => Check::ok(NAME, "on: a program that was loaded is machine code"),
            Some(false) => off("off: a program that was loaded is not machine code".into()),
            None => Check::unknown(NAME, format!("{KEY} cannot be read ({e})"), AS_ROOT),
        },
    }
}

fn is_compiled() -> Option<bool> {
    let settings = Settings { max_flows: 1, ..Settings::default() };
    let marker = quietly(|| Marker::load(&settings)).0.ok()?;
    let info = hooks::info(marker.mark_program().as_fd()).ok()?;
    Some(info.is_compiled)
}

/// What to do where nothing could be tried: making a network namespace takes CAP_SYS_ADMIN.
const TO_TRY: &str = "run `flowtag doctor` as root, with CAP_SYS_ADMIN";

/// Whether the marking program can be attached by tcx: kernel 6.6, or one with it backported.
#[must_use]
pub fn tcx() -> Check {
    const NAME: &str = "tcx";
    const FIX: &str = "kernel 6.6 and newer have it; leave mark.hook at \"auto\" or set \"clsact\"";
    let absent = || Check::missing(NAME, "this kernel does not have it", FIX);
    match attach_in_private(HookChoice::Tcx, false) {
        Ok(_) => Check::ok(NAME, "attaches (tried in a network namespace of its own)"),
        Err(Obstacle::Refused(e)) if e.raw_os_error() == Some(libc::EINVAL) => absent(),
        Err(Obstacle::Refused(e)) => Check::missing(NAME, format!("the kernel refused to attach: {e}"), FIX),
        Err(Obstacle::NotTried(..)) if system::knows_tcx() == Some(false) => absent(),
        Err(Obstacle::NotTried(why, fix)) => {
            let hint = if system::knows_tcx().is_some() { "; the kernel's BTF has it" } else { "" };
            Check::unknown(NAME, format!("not tried: {why}{hint}"), fix)
        }
    }
}

/// Whether the marking program can be attached as a filter of a clsact qdisc.
#[must_use]
pub fn clsact() -> Check {
    const NAME: &str = "clsact";
    const FIX: &str =
        "modprobe -a sch_ingress cls_bpf, or a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF";
    match attach_in_private(HookChoice::Clsact, false) {
        Ok(_) => Check::ok(NAME, "attaches (tried in a network namespace of its own)"),
        Err(Obstacle::Refused(e)) => Check::missing(NAME, format!("the kernel refused to attach: {e}"), FIX),
        Err(Obstacle::NotTried(why, fix)) => Check::unknown(NAME, format!("not tried: {why}"), fix),
    }
}

/// Whether the program for packets that arrive can be attached the same way as the marking program.
#[must_use]
pub fn ingress(choice: HookChoice) -> Check {
    const NAME: &str = "ingress hook";
    match attach_in_private(choice, true) {
        Ok(hook) => Check::ok(NAME, format!("attaches by {hook} (tried in a network namespace of its own)")),
        Err(Obstacle::Refused(e)) => {
            let detail = format!("the kernel refused to attach: {e}; the daemon would mark on no interface");
            Check::missing(NAME, detail, "set mark.ingress = false, or see the lines on tcx and clsact")
        }
        Err(Obstacle::NotTried(why, fix)) => Check::unknown(NAME, format!("not tried: {why}"), fix),
    }
}

/// Why nothing was attached.
#[derive(Debug)]
enum Obstacle {
    /// It could not be tried, and what would change that: says nothing about the hook.
    NotTried(String, &'static str),
    /// The kernel said no to the hook.
    Refused(io::Error),
}

/// Attaches to the loopback interface of a namespace that lives as long as this call. On a thread of its own, which
/// ends with it: the caller stays where it is.
fn attach_in_private(choice: HookChoice, ingress: bool) -> Result<Hook, Obstacle> {
    let trial = thread::Builder::new().name("hook-trial".into()).spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| {
            Obstacle::NotTried(
                format!("a network namespace to try it in cannot be made ({})", e.desc()),
                TO_TRY,
            )
        })?;
        quietly(|| attach_to_loopback(choice, ingress)).0
    });
    let trial = trial
        .map_err(|e| Obstacle::NotTried(format!("a thread to try it in cannot be made ({e})"), TO_TRY))?;
    trial.join().unwrap_or_else(|_| Err(Obstacle::NotTried("the trial broke off".into(), TO_TRY)))
}

fn attach_to_loopback(choice: HookChoice, ingress: bool) -> Result<Hook, Obstacle> {
    let not_tried = |e: Error| Obstacle::NotTried(chain(&e), TO_TRY);
    let loopback = link::find("lo").map_err(not_tried)?;
    let settings = Settings { max_flows: 1, ingress, ..Settings::default() };
    let mut marker = Marker::load(&settings).map_err(|_| {
        Obstacle::NotTried("the marking program does not load".into(), "see the line on the marking program")
    })?;
    match marker.attach(&loopback, choice) {
        Ok(hook) => Ok(hook),
        Err(Error::Attach { source, .. }) => Err(Obstacle::Refused(source)),
        Err(error) => Err(not_tried(error)),
    }
}

/// One at a time: what libbpf prints is per process.
static TURN: Mutex<()> = Mutex::new(());
static SAID: Mutex<String> = Mutex::new(String::new());

/// Does something, and gives what libbpf would have printed meanwhile.
fn quietly<T>(work: impl FnOnce() -> T) -> (T, String) {
    let _turn = locked(&TURN);
    locked(&SAID).clear();
    let before = set_print(Some((PrintLevel::Info, |_, text| locked(&SAID).push_str(&text))));
    let result = work();
    set_print(before);
    (result, std::mem::take(&mut locked(&SAID)))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libbpf printed on Linux 6.18 for a program that read a packet without looking at its length:
    /// `bpftool prog load` of `return *(int *)(long)skb->data;`.
    const LOG: &str = "libbpf: prog 'flowtag_mark': BPF program load failed: Permission denied\n\
        libbpf: prog 'flowtag_mark': -- BEGIN PROG LOAD LOG --\n\
        0: R1=ctx() R10=fp0\n\
        0: (61) r1 = *(u32 *)(r1 +76)         ; R1=pkt(r=0)\n\
        1: (61) r0 = *(u32 *)(r1 +0)\n\
        invalid access to packet, off=0 size=4, R1(id=0,off=0,r=0)\n\
        R1 offset is outside of the packet\n\
        processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n\
        -- END PROG LOAD LOG --\n\
        libbpf: prog 'flowtag_mark': failed to load: -13\n\
        libbpf: failed to load object 'bad.o'\n";

    #[test]
    fn the_verifiers_verdict_is_the_last_line_before_its_statistics() {
        assert_eq!(verifier_verdict(LOG), Some("R1 offset is outside of the packet"));
        for none in [
            "",
            "libbpf: failed\n",
            "-- BEGIN PROG LOAD LOG --\n-- END PROG LOAD LOG --",
            "BEGIN PROG LOAD LOG --",
        ] {
            assert_eq!(verifier_verdict(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_libbpf_prints_is_kept_and_printing_restored() {
        let before = libbpf_rs::get_print().map(|(level, _)| level);
        let (value, said) = quietly(|| 7);
        assert_eq!((value, said.as_str()), (7, ""));
        assert_eq!(libbpf_rs::get_print().map(|(level, _)| level), before);
    }
}
