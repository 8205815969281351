//! The old file as values with the lines where they are, whatever language it is in, and how its keys are taken out one by
//! one so that none is forgotten.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::report::{Finding, Key, Problem};

/// A value and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// For messages: enough of it to find it again.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(text) => write!(f, "{:?}", text.chars().take(60).collect::<String>()),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Reads YAML, and JSON, which is YAML as well.
pub(super) fn from_yaml(text: &str) -> Result<Node, Problem> {
    let read = serde_saphyr::from_str::<Option<serde_saphyr::Spanned<Value>>>(text);
    match read {
        Ok(node) => Ok(node.map_or(Node { line: 1, value: Value::Null }, Node::from)),
        Err(error) => {
            let line = error.location().map_or(1, |at| at.line());
            let message = error.without_snippet().to_string();
            Err(Problem { line: u32::try_from(line).unwrap_or(u32::MAX), message })
        }
    }
}

impl From<serde_saphyr::Spanned<Value>> for Node {
    fn from(spanned: serde_saphyr::Spanned<Value>) -> Self {
        let line = u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX);
        Self { line, value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(i64::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Int))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
                Value::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element::<serde_saphyr::Spanned<Value>>()? {
                    nodes.push(node.into());
                }
                Ok(Value::List(nodes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<serde_saphyr::Spanned<String>>()? {
                    let line = u32::try_from(key.referenced.line()).unwrap_or(u32::MAX);
                    entries.push((key.value, Node { line, value: map.next_value()? }));
                }
                Ok(Value::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl Key {
    /// The path is for messages and comments, where an odd name must not pose as another line.
    pub(super) fn new(path: String, node: Node) -> Self {
        const LONG: usize = 200;
        let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let path = path.chars().take(LONG).map(plain).collect();
        Self { path, line: node.line, value: node.value, meant: None }
    }

    pub(super) fn problem(&self, problem: impl fmt::Display) -> Problem {
        Problem { line: self.line, message: format!("{} = {} {problem}", self.path, self.value) }
    }

    pub(super) fn bool(&self) -> Result<bool, Problem> {
        match &self.value {
            Value::Bool(value) => Ok(*value),
            // Python takes any number for a truth value.
            Value::Int(number @ (0 | 1)) => Ok(*number == 1),
            _ => Err(self.problem("is not true or false")),
        }
    }

    pub(super) fn int(&self) -> Result<i64, Problem> {
        int(&self.value).ok_or_else(|| self.problem("is not a whole number"))
    }

    /// 0 to 65535.
    pub(super) fn port(&self) -> Result<u16, Problem> {
        let port = int(&self.value).and_then(|number| u16::try_from(number).ok());
        port.ok_or_else(|| self.problem("is not a port: use 0 to 65535"))
    }

    pub(super) fn text(&self) -> Result<String, Problem> {
        text(&self.value).ok_or_else(|| self.problem("is not a text"))
    }

    /// A list of texts, or a single one.
    pub(super) fn texts(&self) -> Result<Vec<String>, Problem> {
        let wrong = || self.problem("is not a list of texts");
        match &self.value {
            Value::List(nodes) => nodes.iter().map(|n| text(&n.value).ok_or_else(wrong)).collect(),
            value => Ok(vec![text(value).ok_or_else(wrong)?]),
        }
    }

    /// A list of whole numbers, or a single one.
    pub(super) fn ints(&self) -> Result<Vec<i64>, Problem> {
        let wrong = || self.problem("is not a list of whole numbers");
        match &self.value {
            Value::List(nodes) => nodes.iter().map(|n| int(&n.value).ok_or_else(wrong)).collect(),
            value => Ok(vec![int(value).ok_or_else(wrong)?]),
        }
    }

    /// Its own keys; none where it has no value at all.
    pub(super) fn section(self) -> Result<Section, Problem> {
        match self.value {
            Value::Map(entries) => Ok(Section { path: self.path, entries, known: Vec::new() }),
            Value::Null => Ok(Section { path: self.path, entries: Vec::new(), known: Vec::new() }),
            _ => Err(self.problem("is not a mapping: write its keys below it")),
        }
    }
}

fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The keys at one place. Whatever is not taken at the end is unknown.
#[derive(Debug)]
pub(super) struct Section {
    path: String,
    entries: Vec<(String, Node)>,
    known: Vec<&'static str>,
}

impl Section {
    pub(super) fn root(document: Node) -> Result<Self, Problem> {
        Key::new(String::new(), document).section().map_err(|problem| {
            let message = "the file is not a mapping of keys to values".to_owned();
            Problem { message, ..problem }
        })
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<Key> {
        self.known.push(name);
        let index = self.entries.iter().position(|(key, _)| key == name)?;
        let (name, node) = self.entries.remove(index);
        Some(Key::new(self.below(&name), node))
    }

    /// By its name, or by one that documentation gives it and the daemon does not know.
    pub(super) fn take_or(&mut self, name: &'static str, wrong: &[&'static str]) -> Option<Key> {
        let right = self.take(name);
        let mut wrong =
            wrong.iter().filter_map(|wrong| self.entries.iter().position(|(key, _)| key == wrong));
        let Some(index) = wrong.next().filter(|_| right.is_none()) else { return right };
        let (wrong, node) = self.entries.remove(index);
        Some(Key { meant: Some(name), ..Key::new(self.below(&wrong), node) })
    }

    /// Everything that is left, whatever its name.
    pub(super) fn take_all(&mut self) -> Vec<(String, Key)> {
        let entries = std::mem::take(&mut self.entries);
        entries.into_iter().map(|(name, node)| (name.clone(), Key::new(self.below(&name), node))).collect()
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// What nobody took.
    pub(super) fn rest(mut self) -> Vec<Finding> {
        let rest = self.take_all();
        rest.iter().map(|(_, key)| Finding::unknown(key, &self.known)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Vec<(String, Node)> {
        match from_yaml(text).expect("YAML").value {
            Value::Map(entries) => entries,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn values_have_the_lines_of_their_keys() {
        let entries = map("---\n# nothing\na: 1\nb:\n  c: [x, 10.0.0.1]\n  d: {}\ne:\n");
        let [(a, a_node), (_, b), (_, e)] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!((a.as_str(), a_node.line, &a_node.value), ("a", 3, &Value::Int(1)));
        assert_eq!((b.line, e.line, &e.value), (4, 7, &Value::Null));
        let Value::Map(below) = &b.value else { panic!("{b:?}") };
        assert_eq!(below[0].1.line, 5);
        let key = Key::new("b.c".into(), below[0].1.clone());
        assert_eq!(key.texts().expect("texts"), ["x", "10.0.0.1"]);
    }

    #[test]
    fn json_is_read_as_well_and_so_is_nothing() {
        let entries = map("{\n    \"plugins\": {\"api\": {}},\n\t\"workDir\": \".\"\n}\n");
        assert_eq!(entries.len(), 2);
        assert_eq!(from_yaml("---\n# all commented out\n").expect("empty").value, Value::Null);
        let problem = from_yaml("a: 1\nb: [\n").expect_err("not YAML");
        assert!(problem.line >= 2, "{problem}");
        assert!(from_yaml("a: 1\na: 2\n").is_err(), "the same key twice");
    }

    #[test]
    fn what_is_not_taken_is_unknown_with_a_suggestion() {
        let mut root =
            Section::root(from_yaml("pidPth: x\nworkDir: y\nzzzzzzzzzzz: 1\n").expect("YAML")).expect("keys");
        assert!(root.take("pidPath").is_none());
        assert_eq!(root.take("workDir").expect("it is there").line, 2);
        let rest: Vec<_> = root.rest().iter().map(ToString::to_string).collect();
        assert_eq!(
            rest,
            ["line 1: pidPth: unknown: did you mean pidPath?", "line 3: zzzzzzzzzzz: unknown: remove it"]
        );
    }
}
