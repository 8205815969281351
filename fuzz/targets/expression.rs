//! An expression that is read is written so that it is read as the same, and can be asked.

use flowtag_wire::expression::{Expression, Facts};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
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
}
