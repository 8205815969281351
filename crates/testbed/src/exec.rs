//! Commands that must succeed, and errors that tell all there is to know when they do not.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::SYSFS;

/// Runs a command to its end and gives its standard output.
///
/// # Errors
/// It could not be started, or it failed: the error has the command line, the exit status and what it said.
pub fn checked(command: &mut Command) -> Result<String> {
    let output =
        command.output().with_context(|| format!("starting `{}`; is it installed?", line(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = [stdout.trim(), String::from_utf8_lossy(&output.stderr).trim()].join(" ");
        bail!("`{}` failed ({}): {}", line(command), output.status, said.trim());
    }
    Ok(stdout)
}

/// The command as one would type it on its host, near enough.
pub(crate) fn line(command: &Command) -> String {
    let all: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    // After the script that enters the host come the shell's name and the program.
    let own = all.iter().position(|word| *word == SYSFS).and_then(|script| all.get(script + 2..));
    own.unwrap_or(&all).iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
