//! The routes of rules: which there are, one more, one less.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::asker::Asker;
use super::body::{Body, Failure};
use super::model::{ModelError, Object, RuleStatus, Rules};
use super::routes::Answer;
use crate::config::Rule;
use crate::rules::{Placed, RuleError, RuleView};
use crate::supervisor::service::Daemon;

pub(super) async fn list(State(daemon): State<Daemon>) -> Answer<Json<Rules>> {
    let (marking, rules) = daemon.core.ask(|state| (state.marker.is_some(), state.rules())).await?;
    Ok(Json(Rules { marking, rules: rules.into_iter().map(RuleStatus::from).collect() }))
}

pub(super) async fn add(
    State(daemon): State<Daemon>,
    asker: Asker,
    Body(Object(request)): Body<Object<Placed>>,
) -> Answer<(StatusCode, Json<RuleStatus>)> {
    let Placed { rule, before } = request;
    let rule = Rule::new(rule, &daemon.registry_now()).map_err(ModelError::from)?;
    let name = rule.name.clone();
    let allowed = daemon.policy_now().allows_rule(asker.announcer.who(), &rule);
    allowed.inspect_err(|error| asker.log_denied("rule added", error))?;
    let added = daemon.core.ask(move |state| {
        let name = rule.name.clone();
        state.add_rule(rule, before)?;
        find(state.rules(), &name)
    });
    let view =
        added.await?.inspect_err(|error| asker.log("rule refused", format_args!("{name}: {error}")))?;
    asker.log("rule added", name);
    Ok((StatusCode::CREATED, Json(view.into())))
}

pub(super) async fn delete(
    State(daemon): State<Daemon>,
    asker: Asker,
    name: Result<Path<String>, PathRejection>,
) -> Answer<Json<RuleStatus>> {
    let Path(name) = name.map_err(|e| Failure::malformed(e.body_text()))?;
    let (policy, announcer) = (daemon.policy_now(), asker.announcer.clone());
    let removed = daemon.core.ask(move |state| {
        let before = find(state.rules(), &name);
        if let Ok(view) = &before {
            policy.allows_rule(announcer.who(), &view.rule)?;
        }
        Ok(state.remove_rule(&name).and(before))
    });
    let view = removed.await?.inspect_err(|error| asker.log_denied("rule deleted", error))??;
    asker.log("rule deleted", &view.rule.name);
    Ok(Json(view.into()))
}

fn find(rules: Vec<RuleView>, name: &str) -> Result<RuleView, RuleError> {
    rules.into_iter().find(|view| &*view.rule.name == name).ok_or_else(|| RuleError::Unknown(name.to_owned()))
}
