//! Figures to a page of Markdown.

use std::fmt::Write;

use anyhow::Result;

/// The page as it grows.
pub(crate) struct Report {
    text: String,
}

/// Median, smallest and largest of some figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Figure {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }

    /// Of `a / b`, pair by pair.
    pub(crate) fn ratio(a: &[f64], b: &[f64]) -> Self {
        Self::of(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
    }

    /// Of `a - b`, pair by pair.
    pub(crate) fn difference(a: &[f64], b: &[f64]) -> Self {
        Self::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
    }

    /// `1.02 (0.98 – 1.10)`.
    pub(crate) fn show(self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} – {:.digits$})", self.median, self.min, self.max)
    }
}

impl Report {
    pub(crate) fn new() -> Result<Self> {
        let uname = nix::sys::utsname::uname()?;
        let cores = std::thread::available_parallelism()?;
        let text = format!(
            "# Performance\n\nWritten by `make bench`; do not edit. Linux {} on {}, {cores} cores. Each figure is the \
             median of interleaved runs, with the smallest and the largest in parentheses; ratios are medians of the \
             ratios within pairs of runs. Read ratios: the machine is shared and noisy.\n",
            uname.release().to_string_lossy(),
            uname.machine().to_string_lossy()
        );
        Ok(Self { text })
    }

    pub(crate) fn section(&mut self, title: &str, what: &str, header: &[&str]) {
        eprintln!("{title} …");
        let _ = write!(self.text, "\n## {title}\n\n{what}\n\n");
        self.row(&header.iter().map(ToString::to_string).collect::<Vec<_>>());
        self.row(&vec!["---".to_owned(); header.len()]);
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}
