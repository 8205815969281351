//! What a probe's programs hang on, and what of it this kernel has: asked without loading anything.

use libbpf_rs::ObjectBuilder;

use super::description::Description;
use super::load::Hook;
use crate::{Error, Result};

/// What one program of a probe hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// `tracepoint tcp_probe`.
    pub hook: String,
    /// None: this kernel has it, as far as one can know without loading.
    pub lack: Option<String>,
    /// What is not known without it; none: without it the probe does not run at all.
    pub consequence: Option<&'static str>,
}

impl Description {
    /// What its programs hang on, in their order.
    ///
    /// # Errors
    /// [`Error::Load`] where libbpf cannot read the object.
    pub fn needs(&'static self) -> Result<Vec<Need>> {
        let failed = |source| Error::Load { feature: self.name, source };
        let open = ObjectBuilder::default().open_memory(self.object).map_err(failed)?;
        let need = |section: &std::ffi::OsStr, program: &str| {
            let hook = Hook::of(section)?;
            let optional = self.optional.iter().find(|(name, _)| *name == program);
            Some(Need {
                hook: hook.name(section),
                lack: hook.lack(),
                consequence: optional.map(|(_, what)| *what),
            })
        };
        Ok(open.progs().filter_map(|p| need(p.section(), &p.name().to_string_lossy())).collect())
    }
}

impl Hook<'_> {
    fn name(self, section: &std::ffi::OsStr) -> String {
        match self {
            Self::Tracepoint(name) => format!("tracepoint {name}"),
            Self::Iterator(what) => format!("iterator over {what}"),
            Self::Cgroup => section.to_string_lossy().into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PROBES;

    #[test]
    fn every_program_of_every_probe_hangs_on_something_that_can_be_looked_for() {
        for probe in PROBES {
            let needs = probe.needs().expect("an object");
            assert!(!needs.is_empty(), "{}", probe.name);
            let optional = needs.iter().filter(|need| need.consequence.is_some()).count();
            assert_eq!(optional, probe.optional.len(), "{}: optional programs that do not exist", probe.name);
        }
    }
}
