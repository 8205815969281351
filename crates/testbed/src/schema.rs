//! JSON Schema as Python's `jsonschema` has it: a second opinion in another language, and nothing to compile.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// What Python runs, and how it is talked to.
const SCRIPT: &str = include_str!("schema.py");
const PYTHON: &str = "python3";

/// A schema that values are held against, formats included. Its Python starts with it and ends as it is dropped,
/// so it is made to be kept: in a `static`, for one.
///
/// ```no_run
/// use flowtag_testbed::JsonSchema;
/// use serde_json::json;
///
/// let schema = JsonSchema::new(&json!({ "type": "string", "format": "ipv4" }));
/// assert!(schema.errors(&json!("192.0.2.1")).is_empty());
/// assert_eq!(schema.errors(&json!("192.0.2")), ["'192.0.2' is not a 'ipv4' at $"]);
/// ```
#[derive(Debug)]
pub struct JsonSchema {
    python: Mutex<Python>,
}

impl JsonSchema {
    /// By the draft that its `$schema` names, 2020-12 if it names none.
    ///
    /// # Panics
    /// It is no schema or asks for a format that nothing checks, or `make setup` has not installed Python's
    /// `jsonschema`.
    #[must_use]
    #[track_caller]
    pub fn new(schema: &Value) -> Self {
        Self::run(PYTHON, schema)
    }

    #[track_caller]
    fn run(program: &str, schema: &Value) -> Self {
        let mut python = Python::start(program);
        python.ask(schema);
        Self { python: Mutex::new(python) }
    }

    /// What is wrong with a value, and where in it; empty if it is valid.
    ///
    /// # Panics
    /// The schema cannot be applied, for example for a reference to nowhere.
    #[must_use]
    #[track_caller]
    pub fn errors(&self, value: &Value) -> Vec<String> {
        self.ask(&json!([value]))
    }

    /// The same against another schema, whose references point into this one: of an OpenAPI document, say.
    ///
    /// # Panics
    /// As [`JsonSchema::new`] and [`JsonSchema::errors`].
    #[must_use]
    #[track_caller]
    pub fn errors_of_part(&self, part: &Value, value: &Value) -> Vec<String> {
        self.ask(&json!([value, part]))
    }

    #[track_caller]
    fn ask(&self, question: &Value) -> Vec<String> {
        // A question that failed leaves nothing half done: its answer was read before it panicked.
        self.python.lock().unwrap_or_else(PoisonError::into_inner).ask(question)
    }
}

/// The process, which answers each line with a line.
#[derive(Debug)]
struct Python {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Python {
    #[track_caller]
    fn start(program: &str) -> Self {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python");
        let mut child = Command::new(program)
            .args(["-c", SCRIPT])
            .env("PYTHONPATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}: `make setup` installs what tests need"));
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, output }
    }

    #[track_caller]
    fn ask(&mut self, question: &Value) -> Vec<String> {
        let answer = self.exchange(question).unwrap_or_else(|e| {
            panic!("Python's jsonschema does not answer ({e}): `make setup` installs what tests need")
        });
        let Some(errors) = answer["errors"].as_array() else {
            panic!("the schema cannot be checked: {}", answer["failed"].as_str().unwrap_or_default())
        };
        errors.iter().map(|error| error.as_str().unwrap_or_default().to_owned()).collect()
    }

    fn exchange(&mut self, question: &Value) -> io::Result<Value> {
        let input = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(format!("{question}\n").as_bytes())?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // Closes its standard input first, at whose end it ends.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// What a panic says.
    fn panic_of<T>(what: impl FnOnce() -> T) -> String {
        let panic = catch_unwind(AssertUnwindSafe(what)).err().expect("it panics");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn errors_say_what_and_where() {
        let schema = JsonSchema::new(&json!({
            "properties": { "a": { "items": { "type": "integer" } } },
            "required": ["a"],
            "additionalProperties": false,
        }));
        assert!(schema.errors(&json!({ "a": [1, 2.0, u64::MAX] })).is_empty());
        assert_eq!(
            schema.errors(&json!({ "a": [1, "\n\u{2028}ä"] })),
            ["'\\n\\u2028ä' is not of type 'integer' at $.a[1]"]
        );
        assert_eq!(schema.errors(&json!({ "b": 1 })).len(), 2, "all errors, not only the first");
    }

    #[test]
    fn formats_are_checked() {
        let cases = [
            ("date-time", "2026-03-01T10:00:00.5+01:00", "2026-03-01 10:00"),
            ("date-time", "2024-02-29T00:00:00Z", "2026-02-29T00:00:00Z"),
            ("ipv4", "192.0.2.1", "192.0.2.256"),
            ("ipv6", "2001:db8::1", "2001:db8::1%eth0"),
            ("uuid", "01234567-89ab-cdef-0123-456789abcdef", "0123456789abcdef0123456789abcdef"),
        ];
        for (format, valid, broken) in cases {
            let schema = JsonSchema::new(&json!({ "format": format }));
            assert_eq!(schema.errors(&json!(valid)), [""; 0], "{format}");
            assert_eq!(schema.errors(&json!(broken)).len(), 1, "{format} {broken}");
        }
    }

    #[test]
    fn a_format_that_nothing_checks_is_an_error_and_not_a_pass() {
        let nested = json!({ "properties": { "x": { "oneOf": [{ "format": "int64" }] } } });
        let said = panic_of(|| JsonSchema::new(&nested));
        assert!(said.contains("int64") && said.contains("make setup"), "{said}");
        let schema =
            JsonSchema::new(&json!({ "properties": { "format": { "const": { "format": "int64" } } } }));
        assert!(schema.errors(&json!({ "format": { "format": "int64" } })).is_empty());
        let said = panic_of(|| schema.errors_of_part(&nested, &json!({})));
        assert!(said.contains("int64"), "{said}");
    }

    #[test]
    fn parts_point_into_the_whole() {
        let document =
            json!({ "components": { "schemas": { "Port": { "type": "integer", "maximum": 65535 } } } });
        let schema = JsonSchema::new(&document);
        let port = json!({ "$ref": "#/components/schemas/Port" });
        assert!(schema.errors_of_part(&port, &json!(1)).is_empty());
        assert_eq!(schema.errors_of_part(&port, &json!(65536)).len(), 1);
        let said =
            panic_of(|| schema.errors_of_part(&json!({ "$ref": "#/components/schemas/Prot" }), &json!(1)));
        assert!(said.contains("Prot"), "{said}");
        assert!(schema.errors_of_part(&port, &json!(2)).is_empty(), "what failed is over");
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for broken in
            [json!({ "type": "strnig" }), json!(null), json!({ "components": { "schemas": { "A": 1 } } })]
        {
            assert!(panic_of(|| JsonSchema::new(&broken)).contains("cannot be checked"), "{broken}");
        }
        let draft =
            |name: &str| JsonSchema::new(&json!({ "$schema": name, "prefixItems": [{ "type": "null" }] }));
        assert!(draft("http://json-schema.org/draft-07/schema#").errors(&json!([1])).is_empty());
        assert_eq!(draft("https://json-schema.org/draft/2020-12/schema").errors(&json!([1])).len(), 1);
    }

    #[test]
    fn without_python_or_the_package_it_says_what_to_do() {
        for program in ["no-python-of-that-name", "true"] {
            let said = panic_of(|| JsonSchema::run(program, &json!({})));
            assert!(said.contains("make setup"), "{said}");
        }
    }
}
