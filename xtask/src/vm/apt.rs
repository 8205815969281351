//! apt with a state of its own: packages of any Debian suite, and nothing of this machine's package system changes.
//!
//! Mirror and keys are those of this machine's own apt sources, so it works wherever `apt-get install` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long a package list is fresh.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// One suite for one architecture.
#[derive(Debug)]
pub(super) struct Apt {
    directory: PathBuf,
    suite: String,
    arch: &'static str,
}

impl Apt {
    /// With its state below `cache`, and lists not older than a day.
    pub(super) fn open(cache: &Path, suite: &str, arch: &'static str) -> Result<Self> {
        let directory = cache.join("apt").join(format!("{suite}-{arch}"));
        let apt = Self { directory, suite: suite.to_owned(), arch };
        apt.prepare().with_context(|| format!("preparing apt for {suite}"))?;
        let stamp = apt.directory.join("updated");
        let age = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_none_or(|age| age > FRESH) {
            apt.run("apt-get", &["-qq", "update"])?;
            fs::write(&stamp, "").context("noting when the lists came")?;
        }
        Ok(apt)
    }

    fn prepare(&self) -> Result<()> {
        fs::create_dir_all(self.directory.join("lists/partial"))?;
        fs::create_dir_all(self.directory.join("parts"))?;
        fs::write(self.directory.join("status"), "")?;
        let mirror = mirror(&sources(), self.suite.ends_with("-security"))?;
        let line = format!("deb [arch={} signed-by={KEYRING}] {mirror} {} main\n", self.arch, self.suite);
        Ok(fs::write(self.directory.join("sources.list"), line)?)
    }

    /// Names of packages that begin like this.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = self.run("apt-cache", &["pkgnames", prefix])?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// What a package depends on.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = self.run("apt-cache", &["depends", "--important", package])?;
        Ok(text.lines().filter_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// The version that `unpack` would get.
    pub(super) fn version(&self, package: &str) -> Result<String> {
        let text = self.run("apt-cache", &["show", "--no-all-versions", package])?;
        let version = text.lines().find_map(|l| l.strip_prefix("Version: "));
        Ok(version.with_context(|| format!("{package} has no version"))?.to_owned())
    }

    /// Downloads a package and unpacks its files below a directory.
    pub(super) fn unpack(&self, package: &str, to: &Path) -> Result<()> {
        self.run("apt-get", &["-qq", "download", package])?;
        let prefix = format!("{package}_");
        let is_it = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
        let downloaded = fs::read_dir(&self.directory)?.flatten().map(|e| e.path()).find(is_it);
        let deb = downloaded.with_context(|| format!("apt downloaded no {package}"))?;
        let unpacked = checked(Command::new("dpkg-deb").arg("-x").args([&deb, to]));
        fs::remove_file(&deb)?;
        unpacked.map(drop)
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let options = [
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("")),
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            format!("Dir::Etc::sourceparts={}", at("parts")),
            format!("Dir::Etc::preferencesparts={}", at("parts")),
            format!("APT::Architecture={}", self.arch),
            format!("APT::Architectures={}", self.arch),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "APT::Sandbox::User=root".into(),
        ];
        let mut command = Command::new(tool);
        command.current_dir(&self.directory).args(options.iter().flat_map(|o| ["-o", o])).args(arguments);
        checked(&mut command)
            .with_context(|| format!("asking suite {} for {}", self.suite, arguments.join(" ")))
    }
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn checked(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("starting {program}; is it installed?"))?;
    if !output.status.success() {
        bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// This machine's apt sources, without comments.
fn sources() -> String {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path());
    let files = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(parts);
    let text: String = files.filter_map(|f| fs::read_to_string(f).ok()).map(|t| t + "\n").collect();
    text.lines().filter(|l| !l.trim_start().starts_with('#')).map(|l| format!("{l}\n")).collect()
}

/// Debian's archive among the sources, or its archive of security updates.
fn mirror(sources: &str, security: bool) -> Result<String> {
    ensure!(
        Path::new(KEYRING).exists(),
        "no {KEYRING}: this needs Debian, or its package debian-archive-keyring"
    );
    let is_archive = |uri: &&str| {
        let last = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        uri.contains("://") && last == if security { "debian-security" } else { "debian" }
    };
    let found = sources.split_whitespace().find(is_archive);
    let what = if security { "Debian's security updates" } else { "Debian" };
    Ok(found.with_context(|| format!("no mirror of {what} in /etc/apt: add one to the sources"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::mirror;

    #[test]
    fn the_mirrors_are_found_in_both_forms_of_sources() {
        let text = "Types: deb\nURIs: http://mirror.test/debian\nSuites: x\n\
                    deb [arch=amd64] http://other.test/apt stable main\n\
                    deb http://mirror.test/debian-security/ x-security main\n";
        if !std::path::Path::new(super::KEYRING).exists() {
            return;
        }
        assert_eq!(mirror(text, false).expect("found"), "http://mirror.test/debian");
        assert_eq!(mirror(text, true).expect("found"), "http://mirror.test/debian-security/");
        assert!(mirror("deb http://other.test/apt stable main", false).is_err());
    }
}
