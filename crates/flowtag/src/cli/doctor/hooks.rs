//! Which of the two hooks the daemon would use, and whether a lack of the other matters.

use flowtag_kernel::features::{Check, Status};
use flowtag_kernel::mark::{Hook, HookChoice};

use super::unneeded;

/// The checks of both hooks in the light of the configuration.
pub(super) struct Hooks {
    pub(super) tcx: Check,
    pub(super) clsact: Check,
    /// None: marking is off.
    pub(super) used: Option<Hook>,
}

/// `choice` is none where marking is off.
pub(super) fn judge(choice: Option<HookChoice>, tcx: Check, clsact: Check) -> Hooks {
    let used = used(choice, tcx.status);
    match used {
        None => {
            let why = "not needed, as mark.enabled = false";
            Hooks { tcx: unneeded(tcx, why), clsact: unneeded(clsact, why), used }
        }
        // Nothing is instead of the other where both are missing.
        Some(Hook::Clsact) if clsact.status == Status::Missing => Hooks { tcx, clsact, used },
        Some(Hook::Clsact) => Hooks { tcx: instead_of_tcx(tcx), clsact, used },
        Some(Hook::Tcx) => Hooks { tcx, clsact: unneeded(clsact, "tcx is used instead"), used },
    }
}

/// As `Marker::attach` chooses.
fn used(choice: Option<HookChoice>, tcx: Status) -> Option<Hook> {
    match choice? {
        HookChoice::Auto if tcx == Status::Missing => Some(Hook::Clsact),
        HookChoice::Auto | HookChoice::Tcx => Some(Hook::Tcx),
        HookChoice::Clsact => Some(Hook::Clsact),
    }
}

fn instead_of_tcx(tcx: Check) -> Check {
    if tcx.status != Status::Missing {
        return tcx;
    }
    let remedy =
        "none needed; kernel 6.6 and newer have tcx, where programs run before all filters of clsact";
    Check { remedy: Some(remedy.into()), ..unneeded(tcx, "clsact is used instead") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Missing, Ok, Unknown, Warn};

    fn check(status: Status) -> Check {
        Check { status, ..Check::missing("hook", "detail", "remedy") }
    }

    #[test]
    fn a_hook_is_missed_only_where_no_other_will_do() {
        use HookChoice::{Auto, Clsact, Tcx};
        for (description, choice, before, after, used) in [
            ("both there", Some(Auto), (Ok, Ok), (Ok, Ok), Some(Hook::Tcx)),
            ("before 6.6", Some(Auto), (Missing, Ok), (Warn, Ok), Some(Hook::Clsact)),
            ("no clsact", Some(Auto), (Ok, Missing), (Ok, Warn), Some(Hook::Tcx)),
            ("neither", Some(Auto), (Missing, Missing), (Missing, Missing), Some(Hook::Clsact)),
            ("not root", Some(Auto), (Unknown, Unknown), (Unknown, Unknown), Some(Hook::Tcx)),
            ("tcx asked for", Some(Tcx), (Missing, Ok), (Missing, Ok), Some(Hook::Tcx)),
            ("clsact asked for", Some(Clsact), (Ok, Missing), (Ok, Missing), Some(Hook::Clsact)),
            ("clsact asked for, before 6.6", Some(Clsact), (Missing, Ok), (Warn, Ok), Some(Hook::Clsact)),
            ("marking is off", None, (Missing, Missing), (Warn, Warn), None),
        ] {
            let hooks = judge(choice, check(before.0), check(before.1));
            assert_eq!((hooks.tcx.status, hooks.clsact.status), after, "{description}");
            assert_eq!(hooks.used, used, "{description}");
        }
    }

    #[test]
    fn what_is_used_instead_is_said() {
        let hooks = judge(Some(HookChoice::Auto), check(Missing), check(Ok));
        assert!(hooks.tcx.detail.ends_with("clsact is used instead"), "{}", hooks.tcx.detail);
    }
}
