//! Where the names of tags come from: the registry that is built in, a file in its place, and a newer one from a URL, of
//! which the last good copy is kept in `runtime_dir`.
//!
//! A copy that is broken, or of another URL, is as none. What a server answers becomes a copy only after it has been read as
//! a registry.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::registry::MAX_JSON;
use flowtag_engine::{Registry, RegistryError};
use hyper::StatusCode;
use hyper::header::ETAG;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::RegistryUrl;
use crate::https::{self, HttpError};

/// The copy, below `runtime_dir`.
const FILE: &str = "registry.json";
/// The copy has the registry as a string, in which every character may need two bytes, and a little more.
const MAX_COPY: u64 = 3 * MAX_JSON as u64;
/// For all of a fetch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest ETag that is sent back.
const MAX_ETAG: usize = 256;

/// Where a registry is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    BuiltIn,
    File(PathBuf),
    /// Fetched, and last found to be the newest at that time.
    Url {
        url: String,
        at: Timestamp,
    },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => write!(f, "built in (flowtag {})", env!("CARGO_PKG_VERSION")),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url { url, at } => write!(f, "{url} as of {at:.0}"),
        }
    }
}

/// A registry, and what to say about it.
#[derive(Debug, Clone)]
pub(crate) struct Sourced {
    pub(crate) registry: Arc<Registry>,
    pub(crate) source: Source,
    /// What is not as it should be.
    pub(crate) notes: Vec<String>,
}

/// Why a file is no registry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The registry of the configuration: the file, or the built-in one where there is none.
///
/// # Errors
/// The file cannot be read or is no registry.
pub(crate) fn configured(file: Option<&Path>) -> Result<Sourced, ReadError> {
    let Some(path) = file else {
        let registry = Arc::new(Registry::embedded().clone());
        return Ok(Sourced { registry, source: Source::BuiltIn, notes: Vec::new() });
    };
    let (registry, mended) = read(path)?;
    let source = Source::File(path.to_owned());
    let notes = mended.then(|| mended_note(&source)).into_iter().collect();
    Ok(Sourced { registry: Arc::new(registry), source, notes })
}

/// A registry in a file, and whether it had commas that JSON does not allow.
///
/// # Errors
/// The file cannot be read or is no registry.
pub(crate) fn read(path: &Path) -> Result<(Registry, bool), ReadError> {
    // One byte more than a registry may have is enough to refuse it.
    Ok(Registry::from_published(&read_bounded(path, MAX_JSON as u64)?)?)
}

fn read_bounded(path: &Path, max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(max + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// What is said of a registry with commas before closing brackets.
pub(crate) fn mended_note(source: &Source) -> String {
    format!("the registry has commas before closing brackets, which is not JSON; they are ignored: {source}")
}

/// What was fetched last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copy {
    url: String,
    /// The server's mark of this edition.
    etag: Option<String>,
    /// When the server was last heard to have no newer one.
    checked: Timestamp,
    /// As it came.
    text: String,
}

impl Copy {
    /// None: there is no copy of that URL that can be used.
    pub(crate) fn load(runtime_dir: &Path, url: &str) -> Option<Self> {
        let text = read_bounded(&runtime_dir.join(FILE), MAX_COPY).ok()?;
        let copy: Self = serde_json::from_str(&text).ok()?;
        (copy.url == url && copy.registry().is_ok()).then_some(copy)
    }

    /// Puts it in place of the one before, all of it or nothing.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub(crate) fn save(&self, runtime_dir: &Path) -> io::Result<()> {
        let new = runtime_dir.join(format!("{FILE}.{}", std::process::id()));
        let write = || {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o644).open(&new)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, runtime_dir.join(FILE))
        };
        write().inspect_err(|_| drop(fs::remove_file(&new)))
    }

    fn registry(&self) -> Result<(Registry, bool), RegistryError> {
        Registry::from_published(&self.text)
    }

    /// The registry that it is a copy of; none if it is broken, which a loaded or fetched one is not.
    pub(crate) fn sourced(&self) -> Option<Sourced> {
        let (registry, mended) = self.registry().ok()?;
        let source = Source::Url { url: self.url.clone(), at: self.checked };
        let notes = mended.then(|| mended_note(&source)).into_iter().collect();
        Some(Sourced { registry: Arc::new(registry), source, notes })
    }

    pub(crate) fn checked(&self) -> Timestamp {
        self.checked
    }
}

/// Why there is no newer registry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("cannot fetch the registry")]
    Http(#[from] HttpError),
    #[error("{url} answered {status}: is it the right URL?")]
    Status { url: String, status: StatusCode },
    #[error("{url} answered with something else than text: is it the right URL?")]
    NotText { url: String },
    #[error("what {url} answered is no registry")]
    Registry {
        url: String,
        #[source]
        source: RegistryError,
    },
}

/// Asks for the registry. The copy comes back with another time if there is no newer one.
///
/// # Errors
/// There is no answer, or it is no registry.
pub(crate) async fn fetch(from: &RegistryUrl, copy: Option<&Copy>) -> Result<Copy, FetchError> {
    let url = from.url.clone();
    let etag = copy.and_then(|c| c.etag.clone());
    let request = https::Request {
        headers: etag.into_iter().map(|etag| ("if-none-match".to_owned(), etag)).collect(),
        ca_file: from.ca_file.as_deref(),
        timeout: TIMEOUT,
        max_body: MAX_JSON,
        ..https::Request::get(&from.url)
    };
    let answer = https::request(request).await?;
    let checked = Timestamp::now();
    match (answer.status, copy) {
        (StatusCode::NOT_MODIFIED, Some(copy)) => return Ok(Copy { checked, ..copy.clone() }),
        (StatusCode::OK, _) => {}
        (status, _) => return Err(FetchError::Status { url, status }),
    }
    let etag = answer.headers.get(ETAG).and_then(|e| e.to_str().ok());
    let etag = etag.filter(|e| e.len() <= MAX_ETAG).map(str::to_owned);
    let text = String::from_utf8(answer.body.into()).map_err(|_| FetchError::NotText { url: url.clone() })?;
    let copy = Copy { url, etag, checked, text };
    match copy.registry() {
        Ok(_) => Ok(copy),
        Err(source) => Err(FetchError::Registry { url: copy.url, source }),
    }
}

/// The newest that is known without asking anybody: the copy of what the URL had, else what is configured.
pub(crate) fn newest(url: Option<&str>, runtime_dir: &Path) -> Option<Sourced> {
    Copy::load(runtime_dir, url?)?.sourced()
}
