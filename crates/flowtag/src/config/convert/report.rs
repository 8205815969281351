//! What became of the keys of an old configuration.

use std::fmt;

use serde::Serialize;

/// One key of the old file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// As written there: `backends.marker.targetInterfaces`.
    pub(crate) key: String,
    pub(crate) line: u32,
    pub(crate) became: Became,
    /// Keys of flowtag's configuration that have its meaning now.
    pub(crate) to: Vec<String>,
    pub(crate) severity: Severity,
    /// Why, what differs, what to do. May be empty where all is said.
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Became {
    Converted,
    /// What it was for happens anyway, or cannot be needed any more.
    NotNeeded,
    NotSupported,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// It is as before.
    Fine,
    /// Something differs that one should know.
    Warning,
    /// Flows that were marked or reported are not, or not as before.
    Lost,
}

impl Finding {
    fn new(key: &Key, became: Became, severity: Severity, text: impl Into<String>) -> Self {
        let slip = key.meant.map(|meant| format!("read as {meant}; flowd-go 2.4 knows no key of this name"));
        let severity = if slip.is_some() { severity.max(Severity::Warning) } else { severity };
        let finding = Self {
            key: key.path.clone(),
            line: key.line,
            became,
            to: Vec::new(),
            severity,
            text: slip.unwrap_or_default(),
        };
        finding.saying(text)
    }

    pub(super) fn converted(key: &Key, to: &[&str]) -> Self {
        let to = to.iter().map(|key| (*key).to_owned()).collect();
        Self { to, ..Self::new(key, Became::Converted, Severity::Fine, "") }
    }

    pub(super) fn not_needed(key: &Key, why: impl Into<String>) -> Self {
        Self::new(key, Became::NotNeeded, Severity::Fine, why)
    }

    pub(super) fn not_supported(key: &Key, severity: Severity, advice: impl Into<String>) -> Self {
        Self::new(key, Became::NotSupported, severity, advice)
    }

    /// `known`: what could stand in its place.
    pub(super) fn unknown(key: &Key, known: &[&'static str]) -> Self {
        let name = key.path.rsplit('.').next().unwrap_or_default();
        let text = match super::super::suggest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "remove it".to_owned(),
        };
        Self::new(key, Became::Unknown, Severity::Warning, text)
    }

    /// Something to know about it.
    pub(super) fn warning(self, text: impl Into<String>) -> Self {
        Self { severity: self.severity.max(Severity::Warning), ..self.saying(text) }
    }

    pub(super) fn lost(self, text: impl Into<String>) -> Self {
        Self { severity: Severity::Lost, ..self.saying(text) }
    }

    pub(super) fn saying(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        if !self.text.is_empty() && !text.is_empty() {
            self.text.push_str("; ");
        }
        self.text.push_str(&text);
        self
    }

    /// Nothing about it has to be known.
    pub(crate) fn is_plain(&self) -> bool {
        self.became == Became::Converted && self.severity == Severity::Fine
    }
}

impl fmt::Display for Became {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Converted => "converted",
            Self::NotNeeded => "not needed",
            Self::NotSupported => "not supported",
            Self::Unknown => "unknown",
        })
    }
}

/// `line 3: plugins.api.bindPort: converted to inputs.flowd_go.listen`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.key, self.became)?;
        if !self.to.is_empty() {
            write!(f, " to {}", self.to.join(", "))?;
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

/// A key with its value, taken out of the old file to be converted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) path: String,
    pub(super) line: u32,
    pub(super) value: super::node::Value,
    /// The right name of a key that documentation writes wrongly.
    pub(super) meant: Option<&'static str>,
}

/// Why the old file cannot be understood, or would not have been by the daemon that it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(super) struct Problem {
    pub(super) line: u32,
    pub(super) message: String,
}
