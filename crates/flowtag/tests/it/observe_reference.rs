//! What is written about probes is what they are.

use std::path::Path;
use std::process::Command;

/// FLOWTAG_BLESS=1 writes the page anew.
#[test]
fn the_page_of_the_reference_is_that_of_the_descriptions() {
    let output = Command::new(env!("CARGO_BIN_EXE_flowtag"))
        .args(["generate", "reference"])
        .output()
        .expect("it runs");
    let page = String::from_utf8(output.stdout).expect("text");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/probes.md");
    if std::env::var_os("FLOWTAG_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&path, &page).expect("the page");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "run `flowtag generate reference > docs/reference/probes.md`");
}
