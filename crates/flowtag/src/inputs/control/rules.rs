//! The routes of rules: which there are, one more, one less.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::body::{Body, Failure};
use super::listener::Caller;
use super::model::{ModelError, Object, RuleStatus, Rules};
use super::routes::{Answer, log};
use crate::config::Rule;
use crate::rules::{Placed, RuleError, RuleView};
use crate::supervisor::service::Daemon;

pub(super) async fn list(State(daemon): State<Daemon>) -> Answer<Json<Rules>> {
    let (marking, rules) = daemon.core.ask(|state| (state.marker.is_some(), state.rules())).await?;
    Ok(Json(Rules { marking, rules: rules.into_iter().map(RuleStatus::from).collect() }))
}

pub(super) async fn add(
    State(daemon): State<Daemon>,
    Extension(caller): Extension<Caller>,
    Body(Object(request)): Body<Object<Placed>>,
) -> Answer<(StatusCode, Json<RuleStatus>)> {
    let Placed { rule, before } = request;
    let rule = Rule::new(rule, &daemon.registry_now()).map_err(ModelError::from)?;
    let name = rule.name.clone();
    let added = daemon.core.ask(move |state| {
        let name = rule.name.clone();
        state.add_rule(rule, before)?;
        find(state.rules(), &name)
    });
    let view =
        added.await?.inspect_err(|error| log(caller, "rule refused", format_args!("{name}: {error}")))?;
    log(caller, "rule added", name);
    Ok((StatusCode::CREATED, Json(view.into())))
}

pub(super) async fn delete(
    State(daemon): State<Daemon>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<Json<RuleStatus>> {
    let Path(name) = name.map_err(|e| Failure::malformed(e.body_text()))?;
    let removed = daemon.core.ask(move |state| {
        let before = find(state.rules(), &name);
        state.remove_rule(&name)?;
        before
    });
    let view = removed.await??;
    log(caller, "rule deleted", &view.rule.name);
    Ok(Json(view.into()))
}

fn find(rules: Vec<RuleView>, name: &str) -> Result<RuleView, RuleError> {
    rules.into_iter().find(|view| &*view.rule.name == name).ok_or_else(|| RuleError::Unknown(name.to_owned()))
}
