//! What is wrong with a configuration is said with key, value, range and fix, and the exit status tells.

mod common;

use std::process::{Command, Output};

use common::daemon::binary;
use flowtag_testbed::require_root;

fn flowtag(args: &[&str], config: &str) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flowtag.toml");
    let runtime = format!("runtime_dir = \"{}\"\n", dir.path().display());
    std::fs::write(&path, runtime + config).expect("written");
    Command::new(binary()).args(args).arg(&path).output().expect("it runs")
}

#[track_caller]
fn assert_refused(output: &Output, expected: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for text in expected {
        assert!(stderr.contains(text), "{text:?} is not in: {stderr}");
    }
}

#[test]
fn a_misspelt_key_an_experiment_512_and_wrong_values_are_refused_at_start_and_by_check() {
    let experiment = "[[outputs.firefly.collectors]]\naddress = \"[::1]:1\"\nexperiments = [512]\n";
    for (config, expected) in [
        ("[mark]\ninterfacse = [\"eth0\"]\n", &["line 3", "`interfacse`", "did you mean `interfaces`?"][..]),
        (experiment, &["outputs.firefly.collectors.experiments", "512", "1 to 511"]),
        ("[flows]\nmax = 5000000\n", &["flows.max = 5000000", "1 to 4194304"]),
        ("[mark]\nhook = \"xdp\"\n", &["mark.hook = \"xdp\"", "auto, tcx or clsact"]),
        ("[log]\nlevel = \"loud\"\n", &["log.level = \"loud\"", "error, warn, info, debug, trace"]),
        ("[mark\n", &["line 2"]),
    ] {
        assert_refused(&flowtag(&["run", "--config"], config), expected);
        assert_refused(&flowtag(&["config", "check"], config), expected);
    }
}

#[test]
fn an_unknown_interface_is_refused_at_start_with_those_that_exist() {
    require_root!();
    let config = "[mark]\ninterfaces = [\"l0\"]\n[inputs.control]\nenabled = false\n";
    assert_refused(
        &flowtag(&["run", "--config"], config),
        &[
            "mark.interfaces = \"l0\" is not an interface of this host",
            "did you mean \"lo\"?",
            "write a pattern",
        ],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output =
        Command::new(binary()).args(["run", "-c", "/nonexistent/flowtag.toml"]).output().expect("it runs");
    assert_refused(&output, &["cannot read /nonexistent/flowtag.toml", "No such file"]);
}

#[test]
fn the_default_is_a_right_configuration_and_is_what_show_shows() {
    let default = Command::new(binary()).args(["config", "default"]).output().expect("it runs");
    let text = String::from_utf8(default.stdout).expect("text").replace("runtime_dir", "# runtime_dir");
    assert!(flowtag(&["config", "check"], &text).status.success());
    let shown = String::from_utf8(flowtag(&["config", "show"], "").stdout).expect("text");
    assert!(shown.contains("idle_limit = \"1h\"") && shown.contains("destination_port = 10514"), "{shown}");
    let json = flowtag(&["--json", "config", "show"], "[flows]\nmax = 5\n").stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["flows"]["max"], 5);
}
