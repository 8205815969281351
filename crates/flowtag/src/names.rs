//! Names for the numbers of records: of tags, cgroups and units, interfaces, network namespaces.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use flowtag_engine::Registry;
use flowtag_kernel::cgroup::Cgroups;
use flowtag_kernel::link;
use flowtag_kernel::probes::own_netns;
use flowtag_wire::Tag;

/// How long the list of cgroups is believed to be whole.
const LISTED: Duration = Duration::from_secs(1);
/// Names of cgroups that are remembered, of those that are gone, too.
const MAX_CGROUPS: usize = 1 << 16;

/// Looks names up, and reads what is new when it meets a number that it does not know.
#[derive(Debug)]
pub(crate) struct Names {
    registry: Cow<'static, Registry>,
    own_netns: Option<u32>,
    /// Those that were looked for, so that what is counted of a cgroup keeps its name when that is gone.
    cgroups: RefCell<HashMap<u64, String>>,
    listed: RefCell<Option<(Instant, Option<Cgroups>)>>,
    /// By network namespace and index.
    interfaces: RefCell<HashMap<(Option<u32>, u32), String>>,
}

impl Names {
    pub(crate) fn new(registry: Cow<'static, Registry>) -> Self {
        Self {
            registry,
            own_netns: own_netns().ok(),
            cgroups: RefCell::default(),
            listed: RefCell::default(),
            interfaces: RefCell::default(),
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn tag_text(&self, tag: Tag) -> String {
        self.registry.describe(tag)
    }

    /// Path below the root of all cgroups, fit to be printed; none where it is gone or not to be seen.
    pub(crate) fn cgroup(&self, id: u64) -> Option<String> {
        if let Some(known) = self.cgroups.borrow().get(&id) {
            return Some(known.clone());
        }
        let mut listed = self.listed.borrow_mut();
        if listed.as_ref().is_none_or(|(at, _)| at.elapsed() > LISTED) {
            *listed = Some((Instant::now(), Cgroups::read().ok()));
        }
        let path = listed.as_ref().and_then(|(_, all)| all.as_ref()?.path(id))?;
        let path = path.replace(|c: char| c.is_control(), "?");
        let mut known = self.cgroups.borrow_mut();
        if known.len() == MAX_CGROUPS {
            known.clear();
        }
        known.insert(id, path.clone());
        Some(path)
    }

    /// Interfaces may have other names by now.
    pub(crate) fn refresh(&self) {
        self.interfaces.borrow_mut().clear();
    }

    /// Name of an interface, where its network namespace is our own or somebody told.
    pub(crate) fn interface(&self, netns: Option<u32>, index: u32) -> Option<String> {
        let netns = netns.or(self.own_netns);
        if let Some(known) = self.interfaces.borrow().get(&(netns, index)) {
            return Some(known.clone());
        }
        if netns != self.own_netns {
            return None;
        }
        for interface in link::all().unwrap_or_default() {
            self.learn_interface(netns, interface.index, interface.name);
        }
        self.interfaces.borrow().get(&(netns, index)).cloned()
    }

    /// As above; `if3` where there is no name to be had.
    pub(crate) fn interface_text(&self, netns: Option<u32>, index: u32) -> String {
        self.interface(netns, index).unwrap_or_else(|| format!("if{index}"))
    }

    /// Somebody knows the name of an interface.
    pub(crate) fn learn_interface(&self, netns: Option<u32>, index: u32, name: String) {
        self.interfaces.borrow_mut().insert((netns, index), name);
    }
}

/// The systemd unit or container that a cgroup is of.
pub(crate) fn unit(path: &str) -> Option<String> {
    let parts = path.split('/').rev();
    parts.into_iter().find_map(|part| {
        let name = container(part).or_else(|| {
            [".service", ".scope"].iter().any(|end| part.ends_with(end)).then(|| part.to_owned())
        });
        name.filter(|n| !n.is_empty())
    })
}

/// Docker, containerd, CRI-O and Podman name their scopes `RUNTIME-ID.scope`, or the directory by the id alone.
fn container(part: &str) -> Option<String> {
    let id = part.strip_suffix(".scope").unwrap_or(part);
    let (runtime, id) = id.rsplit_once('-').map_or(("", id), |(runtime, id)| (runtime, id));
    let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| {
        format!("{}{}", if runtime.is_empty() { String::new() } else { format!("{runtime}:") }, &id[..12])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_containers_are_known_by_their_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        for (path, expected) in [
            ("/system.slice/xrootd@cms.service".to_owned(), Some("xrootd@cms.service".to_owned())),
            ("/system.slice/xrootd.service/child".to_owned(), Some("xrootd.service".to_owned())),
            (format!("/system.slice/docker-{id}.scope"), Some("docker:0123456789ab".to_owned())),
            (format!("/docker/{id}"), Some("0123456789ab".to_owned())),
            ("/user.slice/user-0.slice/session-3.scope".to_owned(), Some("session-3.scope".to_owned())),
            ("/user.slice".to_owned(), None),
            ("/".to_owned(), None),
        ] {
            assert_eq!(unit(&path), expected, "{path}");
        }
    }
}
