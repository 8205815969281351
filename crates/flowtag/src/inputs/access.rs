//! Who may tag as what.
//!
//! Every input asks before it hands an event to the core. Where events can also end flows or give them other tags, by
//! [`events`], which looks at the flow that is meant between two events: nobody may take from a flow a tag that they could
//! not have given to it.

use std::sync::Arc;

use flowtag_engine::{Announcement, Engine, Event, Outcome, Selector};
use flowtag_wire::Tag;

use crate::config::{Access, Action, Rule};
use crate::supervisor::core::Stopping;
use crate::supervisor::service::Daemon;

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

/// The same, to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcer {
    pub(crate) input: &'static str,
    pub(crate) user: Option<u32>,
    pub(crate) groups: Arc<[u32]>,
}

impl Announcer {
    /// Of an input that does not know its callers.
    pub(crate) fn anonymous(input: &'static str) -> Self {
        Self { input, user: None, groups: [].into() }
    }

    pub(crate) fn who(&self) -> Who<'_> {
        Who { input: self.input, user: self.user, groups: &self.groups }
    }
}

/// That is not for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{who} may not {what}: no [[access]] block of the configuration allows it")]
pub(crate) struct Denied {
    who: String,
    what: String,
}

impl Policy {
    pub(crate) const fn new(rules: Vec<Access>) -> Self {
        Self { rules }
    }

    /// # Errors
    /// [`Denied`] where no rule allows it.
    pub(crate) fn allows(&self, who: Who<'_>, tag: Tag) -> Result<(), Denied> {
        self.require(who, tag, || format!("tag as {tag}"))
    }

    /// # Errors
    /// [`Denied`] where no rule allows one of the tags that packets could get by it. A rule for any tag, or for none, is
    /// only for those whom nothing limits.
    pub(crate) fn allows_rule(&self, who: Who<'_>, rule: &Rule) -> Result<(), Denied> {
        let what = || format!("have rule {:?}", rule.name);
        match &rule.action {
            Action::Tags(tags) => tags.iter().try_for_each(|tag| self.require(who, *tag, what)),
            Action::Random | Action::Never if self.is_unlimited(who) => Ok(()),
            Action::Random | Action::Never => Err(Denied::new(who, what())),
        }
    }

    /// # Errors
    /// [`Denied`] unless nothing limits whoever asks.
    pub(crate) fn allows_reload(&self, who: Who<'_>) -> Result<(), Denied> {
        if self.is_unlimited(who) { Ok(()) } else { Err(Denied::new(who, "reload the configuration".into())) }
    }

    /// # Errors
    /// [`Denied`] where no rule allows the tag, or the one that the flow has until now.
    pub(crate) fn allows_event(&self, who: Who<'_>, event: &Event, engine: &Engine) -> Result<(), Denied> {
        match event {
            Event::Start(announcement) | Event::Ongoing(announcement) => {
                self.allows(who, announcement.tag)?;
                self.allows_change(who, announcement, engine)
            }
            Event::End(end) => {
                let flow = match end.which {
                    Selector::Id(id) => engine.get(id),
                    Selector::Flow(flow) => engine.find(&flow),
                };
                let what = |tag| move || format!("end a flow of {tag}");
                flow.map_or(Ok(()), |flow| self.require(who, flow.tag, what(flow.tag)))
            }
            _ => Ok(()),
        }
    }

    /// What a rule said is a guess that any announcement may correct; what was announced is not.
    fn allows_change(&self, who: Who<'_>, new: &Announcement, engine: &Engine) -> Result<(), Denied> {
        match engine.find(&new.flow) {
            Some(old) if old.tag != new.tag && old.rule.is_none() => {
                self.require(who, old.tag, || format!("give another tag to a flow of {}", old.tag))
            }
            _ => Ok(()),
        }
    }

    /// Root, our own user, or anybody where there are no rules.
    fn is_unlimited(&self, who: Who<'_>) -> bool {
        let is_ours = |uid| uid == 0 || uid == nix::unistd::geteuid().as_raw();
        self.rules.is_empty() || who.user.is_some_and(is_ours)
    }

    fn require(&self, who: Who<'_>, tag: Tag, what: impl FnOnce() -> String) -> Result<(), Denied> {
        let Who { input, user, groups } = who;
        let allows = |rule: &Access| {
            let anybody = rule.users.is_empty() && rule.groups.is_empty();
            let named = user.is_some_and(|uid| rule.users.contains(&uid))
                || groups.iter().any(|gid| rule.groups.contains(gid));
            (rule.inputs.is_empty() || rule.inputs.iter().any(|name| name == input))
                && (anybody || named)
                && rule.tags.wants_tag(tag)
        };
        if self.is_unlimited(who) || self.rules.iter().any(allows) {
            return Ok(());
        }
        Err(Denied::new(who, what()))
    }
}

impl Denied {
    fn new(who: Who<'_>, what: String) -> Self {
        let input = who.input;
        let who = who.user.map_or_else(|| format!("input {input}"), |uid| format!("user {uid}"));
        Self { who, what }
    }
}

/// Hands to the core, in order, those events that `announcer` may say, and tells what became of each.
pub(crate) async fn events(
    daemon: &Daemon,
    announcer: &Announcer,
    events: Vec<Event>,
) -> Result<Vec<Result<Outcome, Denied>>, Stopping> {
    let policy = daemon.policy_now();
    if policy.is_unlimited(announcer.who()) {
        return Ok(daemon.core.events(events).await?.into_iter().map(Ok).collect());
    }
    let announcer = announcer.clone();
    let judged = daemon.core.ask(move |state| {
        let one = |event: Event| {
            policy.allows_event(announcer.who(), &event, &state.engine)?;
            Ok(state.handle(event))
        };
        events.into_iter().map(one).collect()
    });
    judged.await
}

#[cfg(test)]
mod tests {
    use flowtag_engine::{Config, End, Source};

    use super::*;
    use crate::config::Filter;

    const TEST: Source = Source("test");

    fn tag(experiment: u64, activity: u64) -> Tag {
        Tag::new(experiment, activity).expect("a tag")
    }

    fn access(inputs: &[&str], users: &[u32], groups: &[u32], tags: &[Tag]) -> Access {
        let tags = tags.iter().map(|tag| (tag.experiment, None)).collect();
        Access {
            inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
            users: users.to_vec(),
            groups: groups.to_vec(),
            tags: Filter { tags, ..Filter::default() },
        }
    }

    fn who<'a>(input: &'a str, user: Option<u32>, groups: &'a [u32]) -> Who<'a> {
        Who { input, user, groups }
    }

    #[test]
    fn one_block_has_to_allow_input_person_and_tag() {
        let (cms, atlas) = (tag(3, 14), tag(2, 9));
        let policy = Policy::new(vec![
            access(&["control"], &[1000], &[50], &[cms]),
            access(&["pipe"], &[], &[], &[atlas]),
        ]);
        let allowed = |input, user, groups: &[u32], tag| policy.allows(who(input, user, groups), tag).is_ok();
        assert!(allowed("control", Some(1000), &[], cms), "by user");
        assert!(allowed("control", Some(1001), &[7, 50], cms), "by group");
        assert!(!allowed("control", Some(1001), &[7], cms), "by nothing");
        assert!(!allowed("control", Some(1000), &[50], atlas), "another experiment");
        assert!(!allowed("control-tcp", None, &[], cms), "nobody knows who it is");
        assert!(allowed("pipe", None, &[], atlas) && !allowed("pipe", None, &[], cms), "anybody");
        assert!(allowed("control", Some(0), &[], atlas), "root");
        assert!(Policy::default().allows(who("flowd-go", None, &[]), cms).is_ok(), "no blocks, no limits");
        let denied = policy.allows(who("control", Some(1001), &[]), cms).expect_err("denied").to_string();
        assert!(denied.starts_with("user 1001 may not tag as "), "{denied}");
    }

    #[test]
    fn nobody_takes_a_tag_from_a_flow_that_they_could_not_give() {
        let (cms, atlas) = (tag(3, 14), tag(2, 9));
        let policy =
            Policy::new(vec![access(&[], &[1000], &[], &[cms]), access(&[], &[2000], &[], &[atlas])]);
        let flow = "[2001:db8::1]:1 [2001:db8::2]:2";
        let (src, dst) = flow.split_once(' ').expect("two ends");
        let flow = flowtag_wire::FiveTuple::new(
            flowtag_wire::Protocol::Tcp,
            src.parse().expect("an end"),
            dst.parse().expect("an end"),
        )
        .expect("a flow");
        let mut engine = Engine::new(Config::new([0; 16]));
        let end = |flow| Event::End(End::new(Selector::Flow(flow), TEST));
        let start = |tag| Event::Start(Announcement::new(flow, tag, TEST));
        let may = |engine: &Engine, user, event: &Event| {
            policy.allows_event(who("control", Some(user), &[]), event, engine).map_err(|e| e.to_string())
        };
        may(&engine, 1000, &end(flow)).expect("there is no such flow, and that is for the engine to say");
        may(&engine, 1000, &start(cms)).expect("a new flow");
        drop(engine.handle(jiff::Timestamp::now(), start(cms)));
        may(&engine, 1000, &start(cms)).expect("a refresh");
        may(&engine, 2000, &start(cms)).expect_err("not their tag");
        let denied = may(&engine, 2000, &start(atlas)).expect_err("it is a flow of cms");
        assert!(denied.starts_with("user 2000 may not give another tag to a flow of "), "{denied}");
        let denied = may(&engine, 2000, &end(flow.reversed())).expect_err("it is a flow of cms");
        assert!(denied.starts_with("user 2000 may not end a flow of "), "{denied}");
        may(&engine, 1000, &end(flow)).expect("their own");
        let mut found = Announcement::new(flow, cms, TEST);
        found.rule = Some("site".into());
        let mut engine = Engine::new(Config::new([0; 16]));
        drop(engine.handle(jiff::Timestamp::now(), Event::Start(found)));
        may(&engine, 2000, &start(atlas)).expect("a rule only guessed");
    }
}
