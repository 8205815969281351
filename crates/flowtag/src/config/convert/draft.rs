//! flowtag's configuration in the making: values with the old keys that they are from, written as TOML.

use std::fmt::Write;

use toml::Value;

/// Sections in the order in which they are written.
const ORDER: [&str; 12] = [
    "mark",
    "flows",
    "statistics",
    "registry",
    "addresses",
    "addresses.map",
    "inputs.pipe",
    "inputs.flowd_go",
    "inputs.firefly",
    "outputs.firefly",
    COLLECTORS,
    "outputs.prometheus",
];
pub(super) const COLLECTORS: &str = "outputs.firefly.collectors";
const RULES: &str = "rules";

#[derive(Debug, Default)]
pub(super) struct Draft {
    settings: Vec<Setting>,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Setting {
    section: String,
    key: String,
    value: Value,
    from: String,
}

/// One of an array of tables.
#[derive(Debug)]
struct Block {
    section: &'static str,
    from: String,
    keys: Vec<(&'static str, Value)>,
}

impl Draft {
    /// `key` with its section, as `mark.interfaces`; the last value counts.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>, from: impl Into<String>) {
        let (section, key) = key.rsplit_once('.').unwrap_or(("", key));
        self.set_in(section, key, value, from);
    }

    /// For keys that may have dots themselves.
    pub(super) fn set_in(
        &mut self,
        section: &str,
        key: &str,
        value: impl Into<Value>,
        from: impl Into<String>,
    ) {
        let (section, key) = (section.to_owned(), key.to_owned());
        self.settings.retain(|s| (&s.section, &s.key) != (&section, &key));
        self.settings.push(Setting { section, key, value: value.into(), from: from.into() });
    }

    pub(super) fn has(&self, key: &str) -> bool {
        let key = key.rsplit_once('.').unwrap_or(("", key));
        self.settings.iter().any(|s| (s.section.as_str(), s.key.as_str()) == key)
    }

    pub(super) fn collector(&mut self, address: String, from: impl Into<String>) {
        self.blocks.push(Block {
            section: COLLECTORS,
            from: from.into(),
            keys: vec![("address", address.into())],
        });
    }

    pub(super) fn rule(&mut self, keys: Vec<(&'static str, Value)>, from: impl Into<String>) {
        self.blocks.push(Block { section: RULES, from: from.into(), keys });
    }

    pub(super) fn has_rules(&self) -> bool {
        self.blocks.iter().any(|block| block.section == RULES)
    }

    pub(super) fn to_toml(&self, header: &str) -> String {
        let mut text = comment(header);
        for section in ORDER.into_iter().chain([RULES]) {
            self.write_settings(section, &mut text);
            for block in self.blocks.iter().filter(|block| block.section == section) {
                let _ = write!(text, "\n{}[[{section}]]\n", comment(&block.from));
                block.keys.iter().for_each(|(key, value)| text.push_str(&line(key, value)));
            }
        }
        text
    }

    fn write_settings(&self, section: &str, text: &mut String) {
        let settings: Vec<_> = self.settings.iter().filter(|s| s.section == section).collect();
        if !settings.is_empty() {
            let _ = write!(text, "\n[{section}]\n");
        }
        let mut from = "";
        for setting in settings {
            // Neighbours from one place are told once.
            if setting.from != from {
                text.push_str(&comment(&setting.from));
                from = &setting.from;
            }
            text.push_str(&line(&setting.key, &setting.value));
        }
    }
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

fn line(key: &str, value: &Value) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let key = if bare { key.to_owned() } else { Value::from(key).to_string() };
    format!("{key} = {value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_toml_with_the_same_values() {
        let mut draft = Draft::default();
        draft.set("outputs.firefly.destination_port", 10515_i64, "backends.firefly, line 3");
        draft.set("mark.interfaces", vec!["eth0"], "old");
        draft.set("mark.interfaces", vec!["eth0", "a\"b\nc"], "new");
        draft.set_in("addresses.map", "10.0.0.1", "192.0.2.1", "map");
        draft.collector("[2001:db8::1]:10514".into(), "collector\nin two lines");
        draft.rule(vec![("name", "x".into()), ("tags", vec!["3/14"].into())], "rule");
        let text = draft.to_toml("Made by a test.");
        let table: toml::Table = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(table["mark"]["interfaces"][1].as_str(), Some("a\"b\nc"));
        assert_eq!(table["addresses"]["map"]["10.0.0.1"].as_str(), Some("192.0.2.1"));
        assert_eq!(
            table["outputs"]["firefly"]["collectors"][0]["address"].as_str(),
            Some("[2001:db8::1]:10514")
        );
        assert_eq!(table["rules"][0]["tags"][0].as_str(), Some("3/14"));
        assert!(text.starts_with("# Made by a test.\n\n[mark]\n# new\n"), "{text}");
        assert!(draft.has("mark.interfaces") && !draft.has("mark.enabled"));
    }
}
