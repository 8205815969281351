//! The registry: what people may write, and what a wrong registry or a slip is answered with.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test does")]

use flowtag_engine::registry::Edition;
use flowtag_engine::{Registry, RegistryError, ResolveError};
use flowtag_wire::{Experiment, Tag};
use proptest::prelude::*;

fn resolve(text: &str) -> Result<String, String> {
    Registry::embedded().resolve(text).map(|tag| tag.to_string()).map_err(|e| e.to_string())
}

fn experiment(number: u64) -> Experiment {
    Experiment::new(number).unwrap()
}

fn registry(experiments: &str) -> Result<Registry, RegistryError> {
    Registry::from_json(&format!("{{\"experiments\": [{experiments}], \"version\": 1}}"))
}

#[test]
fn the_built_in_registry_is_read() {
    let registry = Registry::embedded();
    assert_eq!(registry.experiments().count(), 14);
    assert_eq!(registry.experiments().next(), Some((experiment(1), "default")));
    assert_eq!(registry.activities(experiment(3)).count(), 24);
    assert_eq!(registry.activities(experiment(500)).count(), 0);
}

#[test]
fn names_are_taken_without_case_spaces_and_punctuation() {
    for (text, tag) in [
        ("cms/Analysis Input", "3/14"),
        ("CMS/analysis-input", "3/14"),
        (" cms / analysis_input ", "3/14"),
        ("cms/AnalysisInput", "3/14"),
        ("belle-II/raw export", "6/19"),
        ("Belle II/RawExport", "6/19"),
        ("atlas/DataChallenge", "2/26"),
        ("cms/Data Challenge", "3/4"),
        ("cms/Upload/Download (Job)", "3/19"),
        ("cms/upload-download-job", "3/19"),
        ("3/14", "3/14"),
        ("cms/14", "3/14"),
        ("3/analysis input", "3/14"),
        ("511/63", "511/63"),
        ("juno/default", "12/1"),
        ("500/Default", "500/1"),
    ] {
        assert_eq!(resolve(text), Ok(tag.to_owned()), "{text}");
    }
}

#[test]
fn what_is_described_can_be_read_back() {
    let registry = Registry::embedded();
    for (experiment, _) in registry.experiments() {
        for (activity, _) in registry.activities(experiment) {
            let tag = Tag { experiment, activity };
            assert_eq!(registry.resolve(&registry.describe(tag)), Ok(tag));
        }
    }
    assert_eq!(registry.describe(Tag::new(3, 60).unwrap()), "cms/60");
    assert_eq!(registry.describe(Tag::new(500, 1).unwrap()), "500/1");
}

#[test]
fn a_slip_is_answered_with_the_likely_names_and_the_list() {
    let error = resolve("cmss/default").unwrap_err();
    assert_eq!(
        error,
        "experiment \"cmss\" is not in the registry; did you mean \"cms\"? (`flowtag tag list` shows all names; \
         numbers work too)"
    );
    let error = resolve("cms/Analysis Inptu").unwrap_err();
    assert!(error.contains("activity \"Analysis Inptu\" of experiment cms"), "{error}");
    assert!(error.contains("did you mean \"Analysis Input\" or \"Analysis Output\""), "{error}");
    let error = resolve("zzzzz/default").unwrap_err();
    assert!(!error.contains("mean") && error.contains("flowtag tag list"), "{error}");
    let error = resolve("500/cache").unwrap_err();
    assert!(error.contains("of experiment 500"), "{error}");
}

#[test]
fn a_number_out_of_range_is_not_a_name() {
    for (text, what) in [
        ("0/1", "experiment 0 is out of range: use 1 to 511"),
        ("512/1", "experiment 512 is out of range: use 1 to 511"),
        ("cms/64", "activity 64 is out of range: use 1 to 63"),
        ("cms/99999999999999999999", "activity 99999999999999999999 is out of range: use 1 to 63"),
    ] {
        assert_eq!(resolve(text), Err(what.to_owned()), "{text}");
    }
}

#[test]
fn a_tag_has_two_parts() {
    let error = Registry::embedded().resolve("196").unwrap_err();
    assert_eq!(error, ResolveError::Form("196".to_owned()));
    assert!(error.to_string().contains("EXPERIMENT/ACTIVITY"));
    assert!(resolve("/").is_err());
}

#[test]
fn long_text_is_neither_searched_nor_repeated() {
    let error = resolve(&format!("cms/{}", "a".repeat(100_000))).unwrap_err();
    assert!(error.len() < 400, "{error}");
    assert!(resolve(&format!("cms{}/1", " ".repeat(100_000))).is_err());
}

#[test]
fn a_wrong_registry_names_the_entry() {
    let activity = |name: &str, id: &str| {
        format!(
            r#"{{"expName": "x", "expId": 1, "activities": [{{"activityName": "{name}", "activityId": {id}}}]}}"#
        )
    };
    for (json, expected) in [
        (r#"{"expName": "x", "expId": 512}"#.to_owned(), "experiment \"x\" has the number 512: use 1 to 511"),
        (r#"{"expName": "x", "expId": -1}"#.to_owned(), "experiment \"x\" has the number -1: use 1 to 511"),
        (activity("y", "0"), "activity \"y\" of experiment \"x\" has the number 0: use 1 to 63"),
        (activity("y", "64"), "activity \"y\" of experiment \"x\" has the number 64: use 1 to 63"),
        (activity("--", "1"), "activity \"--\" of experiment \"x\" is not a usable name"),
        (activity("12", "1"), "activity \"12\" of experiment \"x\" is not a usable name"),
        (activity("a\\u001b", "1"), "is not a usable name"),
        (
            r#"{"expName": "x", "expId": 1}, {"expName": "y", "expId": 1}"#.to_owned(),
            "experiment \"y\" has the number 1, which \"x\" has already",
        ),
        (
            r#"{"expName": "Belle II", "expId": 1}, {"expName": "belle-ii", "expId": 2}"#.to_owned(),
            "experiment \"belle-ii\" has the name of number 1 but for case and punctuation",
        ),
        (String::new(), "lists no experiments"),
    ] {
        let error = registry(&json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn other_text_is_refused_with_its_cause() {
    let error = Registry::from_json("<html>").unwrap_err();
    assert!(matches!(error, RegistryError::Json(_)));
    assert!(std::error::Error::source(&error).is_some());
    let huge = " ".repeat(flowtag_engine::registry::MAX_JSON + 1);
    assert!(matches!(Registry::from_json(&huge), Err(RegistryError::TooLarge { .. })));
}

#[test]
fn keys_of_later_versions_are_ignored() {
    let registry = registry(r#"{"expName": "x", "expId": 7, "contact": "someone"}"#).unwrap();
    assert_eq!(registry.experiment_name(experiment(7)), Some("x"));
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in ".*", json in ".*") {
        let _ = Registry::embedded().resolve(&text);
        let _ = Registry::embedded().resolve(&format!("cms/{text}"));
        let _ = Registry::from_json(&json);
        let _ = Registry::from_published(&format!("{json},]"));
    }
}

#[test]
fn the_published_form_has_commas_that_json_has_not() {
    let text = r#"{"experiments": [{"expName": "a,]", "expId": 1, "activities": [
        {"activityName": "say \",}\"", "activityId": 2,},
    ] , }, ],"version":3,"modified":"2025-09-04",}"#;
    assert!(matches!(Registry::from_json(text), Err(RegistryError::Json(_))));
    let (registry, mended) = Registry::from_published(text).expect("a registry");
    assert!(mended);
    assert_eq!(registry.experiment_name(experiment(1)), Some("a,]"), "strings are left alone");
    assert_eq!(registry.describe(registry.resolve("1/2").expect("a tag")), "a,]/say \",}\"");
    assert_eq!(registry.edition().version.as_deref(), Some("3"));
    assert_eq!(registry.edition().modified.as_deref(), Some("2025-09-04"));
    let right =
        "\u{feff}{\"experiments\":[{\"expName\":\"a\",\"expId\":1}],\"version\":[],\"modified\":\"\\n\"}";
    let (registry, mended) = Registry::from_published(right).expect("a registry, behind a byte order mark");
    assert!(!mended);
    assert_eq!(*registry.edition(), Edition::default(), "what is no text says nothing");
    for wrong in [",", "[,]", "{\"experiments\":[{,}]}", "<html>,]"] {
        assert!(Registry::from_published(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn changes_are_told_by_number_name_and_what_happened() {
    let old = registry(
        r#"{"expName":"alpha","expId":1,"activities":[{"activityName":"One","activityId":1},
            {"activityName":"Two","activityId":2},{"activityName":"Three","activityId":3},
            {"activityName":"Four","activityId":4}]},
           {"expName":"beta","expId":2,"activities":[{"activityName":"default","activityId":1}]},
           {"expName":"gamma","expId":3},{"expName":"delta","expId":4}"#,
    )
    .expect("a registry");
    let new = registry(
        r#"{"expName":"ALPHA","expId":1,"activities":[{"activityName":"one","activityId":1},
            {"activityName":"Two","activityId":7},{"activityName":"Drei","activityId":3},
            {"activityName":"Five","activityId":2}]},
           {"expName":"beta","expId":9,"activities":[]},
           {"expName":"gamma rays","expId":3},{"expName":"epsilon","expId":5}"#,
    )
    .expect("a registry");
    let told: Vec<_> =
        old.changes_to(&new).iter().map(|c| (c.number(), c.name.clone(), format!("{:?}", c.kind))).collect();
    let told: Vec<_> = told.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
    assert_eq!(
        told,
        [
            ("1/2", "alpha/Two", r#"Renumbered { to: "1/7", now: Some("Five") }"#),
            ("1/3", "alpha/Three", r#"Renamed { to: "Drei" }"#),
            ("1/4", "alpha/Four", "Removed"),
            ("2", "beta", r#"Renumbered { to: "9", now: None }"#),
            ("3", "gamma", r#"Renamed { to: "gamma rays" }"#),
            ("4", "delta", "Removed"),
            ("5", "epsilon", "Added"),
        ]
    );
    assert_eq!(old.changes_to(&old), [], "nothing changes to itself");
    let changes = old.changes_to(&new);
    let concerned = |e: u64, a: Option<u64>| {
        let activity = a.map(|a| flowtag_wire::tag::Activity::new(a).expect("an activity"));
        changes.iter().filter(|c| c.concerns(experiment(e), activity)).count()
    };
    for (e, a, count, why) in [
        (1, Some(2), 1, "the activity has another number"),
        (1, Some(1), 0, "case is no change"),
        (1, None, 0, "the experiment is what it was"),
        (2, Some(1), 1, "an experiment with all its activities"),
        (2, None, 1, "the experiment itself"),
        (5, None, 0, "what is added concerns nobody"),
    ] {
        assert_eq!(concerned(e, a), count, "{why}");
    }
}
