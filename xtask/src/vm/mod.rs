//! Other kernels: a Debian kernel package, an initramfs made of a few of this machine's tools, and QEMU.
//!
//! Place in the flow: `vm` for one command, and below `vm-test`. Nothing is installed, no network device and no KVM
//! is needed (guests under KVM crash where that is nested). The exit status is the command's own; 124 means that the
//! time ran out and 125 that the guest died or there was no kernel: a missing answer is never a success.
//!
//! ```text
//! cargo xtask vm --kernel 6.1 --file tests/data/a.pcap:/a.pcap -- 'tcpdump -r /a.pcap | wc -l'
//! ```

mod apt;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod qemu;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

pub(crate) use apt::checked;
use initramfs::Initramfs;
use kernel::{Arch, Kernel};
use qemu::{Guest, Outcome};

/// How `vm` is called.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// 5.10, 6.1, 6.12, 6.18, 7.3 or `newest`.
    #[arg(short, long)]
    kernel: String,
    /// Copies a file of this machine into the guest, with the libraries it needs; DST is /NAME if not given.
    #[arg(short, long = "file", value_name = "SRC[:DST]")]
    files: Vec<CopiedFile>,
    /// Loads one more module of the kernel.
    #[arg(short, long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// Sets an environment variable of the command.
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Seconds until the guest is stopped.
    #[arg(short, long, default_value_t = 300)]
    timeout: u64,
    /// Keeps the kernel's console in this file.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// One CPU whose clock counts instructions: timing that does not depend on this machine's load.
    #[arg(long)]
    icount: bool,
    /// One word: a shell script. Several: a program and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// A file of this machine and its place in the guest.
#[derive(Debug, Clone)]
pub(crate) struct CopiedFile {
    pub(crate) from: PathBuf,
    pub(crate) to: String,
}

impl std::str::FromStr for CopiedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once(':').unwrap_or((text, ""));
        let from = PathBuf::from(from);
        let name = from.file_name().ok_or_else(|| format!("{text:?} names no file"))?;
        let to = if to.is_empty() { format!("/{}", name.to_string_lossy()) } else { to.to_owned() };
        Ok(Self { from, to })
    }
}

/// Everything that a guest is made of.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) kernel: &'a Kernel,
    /// A script for bash.
    pub(crate) script: String,
    pub(crate) files: Vec<CopiedFile>,
    pub(crate) modules: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) log: Option<PathBuf>,
    pub(crate) icount: bool,
}

/// `cargo xtask vm`.
///
/// # Errors
/// A file that cannot be copied, or no QEMU.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernel = match Kernel::fetch(&args.kernel, Arch::X86_64) {
        Ok(kernel) => kernel,
        Err(e) => {
            eprintln!("xtask vm: {e:#}");
            return Ok(Outcome::NO_MARKER.into());
        }
    };
    let request = Request {
        kernel: &kernel,
        script: script(&args.command),
        files: args.files.clone(),
        modules: args.modules.clone(),
        env: args.env.clone(),
        timeout: Duration::from_secs(args.timeout),
        log: args.log.clone(),
        icount: args.icount,
    };
    let outcome = boot(&request, print)?;
    Ok(outcome.status().into())
}

/// To standard output, at once; one that is gone is no reason to lose the outcome.
pub(crate) fn print(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Boots a guest, gives what its command writes to `output`, and waits for the end.
///
/// # Errors
/// A file that cannot be copied, or no QEMU. What happens in the guest is no error but the outcome.
pub(crate) fn boot(request: &Request<'_>, output: impl FnMut(&[u8])) -> Result<Outcome> {
    let nonce = qemu::nonce()?;
    let directory = tempfile::Builder::new().prefix("flowtag-vm.").tempdir().context("making a directory")?;
    let image = image(request, &nonce)?;
    let initrd = directory.path().join("initrd");
    std::fs::write(&initrd, &image).with_context(|| format!("writing {}", initrd.display()))?;
    let guest = Guest {
        kernel: request.kernel.image()?,
        initrd,
        console: request.log.clone().unwrap_or_else(|| directory.path().join("console")),
        memory_mib: 512 + 3 * image.len() / 1_000_000,
        timeout: request.timeout,
        icount: request.icount,
        nonce,
    };
    guest.run(output).with_context(|| format!("running kernel {}", request.kernel.version))
}

fn image(request: &Request<'_>, nonce: &str) -> Result<Vec<u8>> {
    let mut image = Initramfs::default();
    image.base(nonce, &request.script, &request.env)?;
    image.tools();
    let wanted = kernel::MODULES.iter().copied().chain(request.modules.iter().map(String::as_str));
    image.modules(&request.kernel.modules(wanted)?);
    if let Some(config) = request.kernel.config() {
        image.copy(
            &config,
            &Path::new("/boot").join(config.file_name().unwrap_or_default()).to_string_lossy(),
        )?;
    }
    for file in &request.files {
        image.copy(&file.from, &file.to)?;
    }
    Ok(image.cpio())
}

/// One word is a script already; several are quoted for the shell.
fn script(command: &[String]) -> String {
    match command {
        [one] => one.clone(),
        words => words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
    }
}

/// As one word for the shell.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_words_are_quoted_and_one_is_a_script() {
        let words = |w: &[&str]| script(&w.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["uname -r; id"]), "uname -r; id");
        assert_eq!(words(&["echo", "it's", ""]), r"'echo' 'it'\''s' ''");
    }

    #[test]
    fn a_file_goes_to_the_root_unless_told_otherwise() {
        let file = |t: &str| t.parse::<CopiedFile>().map(|f| (f.from, f.to));
        assert_eq!(file("a/b.txt"), Ok((PathBuf::from("a/b.txt"), "/b.txt".into())));
        assert_eq!(file("a/b.txt:/x/y"), Ok((PathBuf::from("a/b.txt"), "/x/y".into())));
        assert!(file("/").is_err());
    }
}
