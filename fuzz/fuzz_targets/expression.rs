//! An expression that is read is written so that it is read as the same, and can be asked.
#![no_main]

use flowtag_wire::expression::{Expression, Facts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<Expression>() {
        Ok(expression) => {
            let written = expression.to_string();
            assert_eq!(written.parse(), Ok(expression.clone()), "{written}");
            let _ = expression.matches(&Facts::default());
        }
        Err(error) => {
            assert!(error.position >= 1 && error.position <= text.chars().count() + 1);
            assert!(!error.to_string().is_empty());
        }
    }
});
