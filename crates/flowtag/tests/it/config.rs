//! What is wrong with a configuration is said with key, value, range and fix, and the exit status tells.

use std::process::{Command, Output};

use crate::common::daemon::binary;
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
    let experiment = "[[outputs.firefly.collectors]]\naddress = \"[::1]:1\"\ntags = [512]\n";
    for (config, expected) in [
        ("[mark]\ninterfacse = [\"eth0\"]\n", &["line 3", "`interfacse`", "did you mean `interfaces`?"][..]),
        (experiment, &["outputs.firefly.collectors.tags", "512", "1 to 511"]),
        ("[flows]\nmax = 5000000\n", &["flows.max = 5000000", "1 to 4194304"]),
        ("[mark]\nhook = \"xdp\"\n", &["mark.hook = \"xdp\"", "auto, tcx or clsact"]),
        ("[log]\nlevel = \"loud\"\n", &["log.level = \"loud\"", "error, warn, info, debug, trace"]),
        ("[mark\n", &["line 2"]),
        ("[mark]\nlease = \"1s\"\n", &["mark.lease = \"1s\"", "1m to 7days"]),
        (
            "[mark]\nstrategy = \"option\"\n",
            &["mark.strategy = \"option\"", "label, destination, hop-by-hop"],
        ),
        ("[mark.defaults]\neth1 = \"cms\"\n", &["mark.defaults.eth1 = \"cms\"", "EXPERIMENT/ACTIVITY"]),
        ("[[mark.strip]]\nprefix = \"lan\"\n", &["mark.strip.prefix = \"lan\"", "2001:db8::/32"]),
        ("[[rules]]\ntgas = \"3/14\"\n", &["line 3", "`tgas`", "did you mean `tags`?"]),
        ("[[rules]]\nuser = \"nobody-here\"\ntag = \"3/14\"\n", &["rule \"rule-1\": user", "/etc/passwd"]),
        (
            "[[rules]]\nname = \"a\"\ntag = \"3/14\"\n[[rules]]\nname = \"a\"\ntag = \"3/14\"\n",
            &["rules.name = \"a\" is there twice"],
        ),
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

#[test]
fn rules_are_shown_as_they_are_written_and_what_is_shown_is_a_right_configuration() {
    let rules = "[mark.defaults]\n\"eth*\" = \"cms/default\"\n[[mark.strip]]\nprefix = \"2001:db8::/32\"\n\
        [[rules]]\nuser = [\"root\", 994]\nlocal_port = \"1-2\"\ntag = \"CMS/14\"\n[[rules]]\ntag = \"random\"\n";
    let shown = String::from_utf8(flowtag(&["config", "show"], rules).stdout).expect("text");
    let table: toml::Table = shown.parse().expect("TOML");
    assert_eq!(table["rules"][0]["user"].to_string(), "[\"root\", 994]");
    assert_eq!(table["rules"][0]["local_port"].to_string(), "[\"1-2\"]");
    assert_eq!(table["mark"]["defaults"]["eth*"].as_str(), Some("cms/default"));
    assert_eq!(table["mark"]["strip"][0]["direction"].as_str(), Some("both"));
    let again = shown.replacen("runtime_dir", "# runtime_dir", 1);
    assert!(flowtag(&["config", "check"], &again).status.success(), "{shown}");
}
