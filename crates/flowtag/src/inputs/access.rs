//! Who may tag as what.

use flowtag_wire::Tag;

use crate::config::Access;

/// The rules of the configuration. Without any, everybody may everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    rules: Vec<Access>,
}

/// Who announces something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Who<'a> {
    /// As in `access.input`.
    pub(crate) input: &'a str,
    /// None: the input cannot tell.
    pub(crate) user: Option<u32>,
    /// Groups of that user.
    pub(crate) groups: &'a [u32],
}

/// The tag is not for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{who} may not tag as {tag}: no [[access]] block of the configuration allows it")]
pub(crate) struct Denied {
    who: String,
    tag: Tag,
}

impl Policy {
    pub(crate) const fn new(rules: Vec<Access>) -> Self {
        Self { rules }
    }

    /// # Errors
    /// [`Denied`] where no rule allows it.
    pub(crate) fn allows(&self, who: Who<'_>, tag: Tag) -> Result<(), Denied> {
        let Who { input, user, groups } = who;
        let is_ours = user.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw());
        let allows = |rule: &Access| {
            let anybody = rule.users.is_empty() && rule.groups.is_empty();
            let named = user.is_some_and(|uid| rule.users.contains(&uid))
                || groups.iter().any(|gid| rule.groups.contains(gid));
            (rule.inputs.is_empty() || rule.inputs.iter().any(|name| name == input))
                && (anybody || named)
                && rule.tags.wants_tag(tag)
        };
        if self.rules.is_empty() || is_ours || self.rules.iter().any(allows) {
            return Ok(());
        }
        let who = user.map_or_else(|| format!("input {input}"), |uid| format!("user {uid}"));
        Err(Denied { who, tag })
    }
}
