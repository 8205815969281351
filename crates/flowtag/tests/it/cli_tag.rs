//! `flowtag tag`, run as users run it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::daemon::binary;

/// SciTags worked examples: tag, scitag integer, label with entropy 0, option header before TCP.
const EXAMPLES: [(&str, u64, u64, &str); 15] = [
    ("1/1", 65, 131_076, "06 00 1e 03 00 01 01 00"),
    ("1/2", 66, 131_080, "06 00 1e 03 00 01 02 00"),
    ("2/1", 129, 65_540, "06 00 1e 03 00 02 01 00"),
    ("2/9", 137, 65_572, "06 00 1e 03 00 02 09 00"),
    ("2/19", 147, 65_612, "06 00 1e 03 00 02 13 00"),
    ("3/3", 195, 196_620, "06 00 1e 03 00 03 03 00"),
    ("3/4", 196, 196_624, "06 00 1e 03 00 03 04 00"),
    ("3/14", 206, 196_664, "06 00 1e 03 00 03 0e 00"),
    ("3/23", 215, 196_700, "06 00 1e 03 00 03 17 00"),
    ("3/24", 216, 196_704, "06 00 1e 03 00 03 18 00"),
    ("4/3", 259, 32_780, "06 00 1e 03 00 04 03 00"),
    ("4/4", 260, 32_784, "06 00 1e 03 00 04 04 00"),
    ("5/10", 330, 163_880, "06 00 1e 03 00 05 0a 00"),
    ("5/14", 334, 163_896, "06 00 1e 03 00 05 0e 00"),
    ("511/63", 32_767, 261_884, "06 00 1e 03 01 ff 3f 00"),
];

fn flowtag(args: &[&str]) -> Output {
    Command::new(binary()).args(args).output().unwrap()
}

#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = flowtag(args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What the command says when it fails; it prints nothing else then.
#[track_caller]
fn error(args: &[&str]) -> String {
    let output = flowtag(args);
    assert!(!output.status.success(), "{args:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn objects(args: &[&str]) -> Vec<Value> {
    stdout(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn pair(tag: &Value) -> String {
    format!("{}/{}", tag["experiment"], tag["activity"])
}

#[test]
fn every_worked_example_is_encoded() {
    let tags = EXAMPLES.map(|(tag, ..)| tag);
    let encoded = objects(&[&["--json", "tag", "encode"], &tags[..]].concat());
    assert_eq!(encoded.len(), EXAMPLES.len());
    for (object, (tag, scitag, label, option)) in encoded.iter().zip(EXAMPLES) {
        assert_eq!(pair(object), tag);
        assert_eq!(object["scitag_integer"], scitag, "{tag}");
        assert_eq!(object["flow_label_decimal"], label, "{tag}");
        assert_eq!(object["flow_label"], format!("{label:#07x}"), "{tag}");
        assert_eq!(object["flow_label_entropy_mask"], "0xc0103");
        assert_eq!(object["option_header"], option, "{tag}");
    }
}

#[test]
fn every_worked_example_is_decoded_from_every_encoding() {
    for (tag, scitag, label, option) in EXAMPLES {
        let values = [
            ("scitag", scitag.to_string()),
            ("label", label.to_string()),
            ("label", format!("{label:#x}")),
            // All five entropy bits set: still the same tag.
            ("label", format!("{:#x}", label | 0xc_0103)),
            ("pair", tag.to_owned()),
            ("option", option.to_owned()),
            ("option", option.replace(' ', "")),
        ];
        for (encoding, value) in values {
            let read = objects(&["--json", "tag", "decode", "--as", encoding, &value]);
            assert_eq!(read.len(), 1);
            assert_eq!(pair(&read[0]["tag"]), tag, "{value} as {encoding}");
        }
    }
}

#[test]
fn people_see_which_encoding_each_value_is() {
    let expected = "\
cms/Analysis Input
  pair            3/14: experiment 3, activity 14
  scitag integer  206
  flow label      0x30038 = 196664 with entropy 0
  entropy bits    0xc0103 of the label: random in each flow
  option header   06 00 1e 03 00 03 0e 00 before TCP (next header 6)
";
    assert_eq!(stdout(&["tag", "encode", "cms/Analysis Input"]), expected);
    assert_eq!(stdout(&["tag", "encode", "CMS/analysis-input"]), expected);
    assert_eq!(stdout(&["tag", "encode", "Cms/ANALYSIS_INPUT"]), expected);
    assert_eq!(stdout(&["tag", "encode", "--scitag", "206"]), expected);
    assert!(stdout(&["tag", "encode", "300/60"]).contains("activity 60, not in the registry\n"));
}

#[test]
fn the_form_of_a_value_tells_its_encoding() {
    for (value, encoding) in [
        ("0x30038", "flow label"),
        ("0XF0139", "flow label"),
        ("3/14", "pair"),
        ("cms/Analysis Input", "pair"),
        ("06001e0300030e00", "option header"),
        ("0x06001e0300030e00", "option header"),
        ("06:00:1e:03:00:03:0e:00", "option header"),
        ("1e 03 00 03 0e", "option header"),
    ] {
        let read = objects(&["--json", "tag", "decode", value]);
        assert_eq!(read.len(), 1, "{value}");
        assert_eq!(
            (&read[0]["read_as"], &read[0]["ambiguous"]),
            (&json!(encoding), &json!(false)),
            "{value}"
        );
        assert_eq!(pair(&read[0]["tag"]), "3/14", "{value}");
    }
}

#[test]
fn a_plain_number_is_read_in_both_ways() {
    let read = objects(&["--json", "tag", "decode", "1000"]);
    let pairs: Vec<_> = read.iter().map(|r| (r["read_as"].as_str().unwrap(), pair(&r["tag"]))).collect();
    assert_eq!(pairs, [("scitag integer", "15/40".to_owned()), ("flow label", "256/58".to_owned())]);
    assert!(read.iter().all(|r| r["ambiguous"] == true));
    assert!(stdout(&["tag", "decode", "1000"]).starts_with("1000 can be read in two ways; --as "));

    // CMS shipped labels as scitag.flow: no scitag integer is that large.
    let text = stdout(&["tag", "decode", "196664"]);
    assert!(text.starts_with(
        "196664 as scitag integer: no tag: scitag integer 196664 is out of range: use 65 to 65535\n"
    ));
    assert!(text.contains("196664 as flow label: cms/Analysis Input, entropy bits 0x00000\n"), "{text}");
}

#[test]
fn known_mistakes_are_named() {
    let scitag = error(&["tag", "decode", "--as", "scitag", "196664"]);
    assert!(
        scitag.contains("use 65 to 65535\n  as flow label it is cms/Analysis Input: was that meant?"),
        "{scitag}"
    );
    let label = error(&["tag", "decode", "--as", "label", "0xce"]);
    assert!(
        label.contains("is 0: it was not set as a tag\n  as scitag integer it is cms/Analysis Input"),
        "{label}"
    );
    let nginx = stdout(&["tag", "decode", "65742"]);
    assert!(nginx.contains("65742 is also 65536 + scitag integer 206 (cms/Analysis Input)"), "{nginx}");
}

#[test]
fn out_of_range_names_the_range() {
    for (args, expected) in [
        (&["encode", "512/64"][..], "experiment 512 is out of range: use 1 to 511"),
        (&["encode", "cms/64"], "activity 64 is out of range: use 1 to 63"),
        (&["encode", "0/1"], "experiment 0 is out of range: use 1 to 511"),
        (&["encode", "--scitag", "64"], "scitag integer 64 is out of range: use 65 to 65535"),
        (&["encode", "--scitag", "40000"], "experiment 625 is out of range: use 1 to 511"),
        (&["decode", "0x100000"], "a flow label has 20 bits, at most 0xfffff"),
        (&["decode", "18446744073709551616"], "write a number below 2^64"),
        (&["decode", "06 00 1e 03 02 00 40 00"], "experiment 512 is out of range: use 1 to 511"),
        (&["decode", "06 00 01 04 00 00 00 00"], "it has no option of type 0x1e with 3 bytes"),
        (&["decode", "06 00 1e"], "the options header has 3 of 8 bytes"),
    ] {
        let error = error(&[&["tag"], args].concat());
        assert!(error.starts_with("flowtag: ") && error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn nonsense_is_an_error_with_a_way_out() {
    for value in ["", " ", "x", "-1", "+206", "0x", "0xg", "3.14", "3,14", "\u{665}", "🏷"] {
        let error = error(&["tag", "decode", "--", value]);
        assert!(error.contains("write "), "{value:?}: {error}");
    }
    let suggestion = error(&["tag", "encode", "cms/Analysis"]);
    assert!(suggestion.contains("did you mean \"Analysis Input\" or \"Analysis Output\"?"), "{suggestion}");
    // All or nothing: the first tag is right, and not printed.
    assert!(error(&["tag", "encode", "3/14", "cms"]).contains("write EXPERIMENT/ACTIVITY"));
}

#[test]
fn the_list_has_all_encodings() {
    let expected = "\
TAG                  PAIR  SCITAG INTEGER  FLOW LABEL (ENTROPY 0)
lhcb/default         4/1   257             0x08004
lhcb/perfSONAR       4/2   258             0x08008
lhcb/Cache           4/3   259             0x0800c
lhcb/Data Challenge  4/4   260             0x08010
";
    assert_eq!(stdout(&["tag", "list", "LHCb"]), expected);
    assert_eq!(stdout(&["tag", "list", "4"]), expected);
    let all = stdout(&["tag", "list"]);
    assert!(all.lines().count() > 100 && all.lines().all(|line| line.chars().count() <= 80));
    assert_eq!(objects(&["--json", "tag", "list"]).len(), all.lines().count() - 1);
    assert!(error(&["tag", "list", "cmss"]).contains("did you mean \"cms\"?"));
    assert!(error(&["tag", "list", "77"]).contains("experiment 77 is not in the registry"));
}

#[test]
fn another_registry_gives_other_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registry.json");
    let file = file.to_str().unwrap();
    let registry = json!({ "experiments": [
        { "expName": "mine", "expId": 300, "activities": [{ "activityName": "Night run", "activityId": 7 }] },
        { "expName": "empty", "expId": 301 },
    ] });
    fs::write(file, registry.to_string()).unwrap();
    let list = objects(&["--json", "tag", "list", "--registry", file]);
    assert_eq!(list.iter().map(pair).collect::<Vec<_>>(), ["300/7", "301/1"]);
    assert_eq!(list[1]["registered"], false);
    assert!(stdout(&["tag", "encode", "--registry", file, "mine/night run"]).starts_with("mine/Night run\n"));

    let missing = error(&["tag", "list", "--registry", "/nonexistent"]);
    assert!(missing.contains("cannot use --registry /nonexistent\n  because: No such file"), "{missing}");
    fs::write(file, "{").unwrap();
    assert!(error(&["tag", "list", "--registry", file]).contains("is it the right file?"));
}

#[test]
fn every_command_has_examples() {
    for command in ["encode", "decode", "list"] {
        assert!(stdout(&["tag", command, "--help"]).contains(&format!("Examples:\n  flowtag tag {command}")));
    }
    assert!(stdout(&["decode", "--help"]).contains("Examples:\n  flowtag decode"));
}
