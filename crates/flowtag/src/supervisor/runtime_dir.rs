//! The daemon's directory: one daemon at a time, and the secret from which entropy bits come.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirError {
    #[error("cannot {action} {path}: set runtime_dir to a directory that flowtag may write to")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another flowtag runs with {path}: stop it, or set another runtime_dir")]
    Locked { path: PathBuf },
}

/// Held while the daemon runs; the kernel lets go of it also when we are killed.
#[derive(Debug)]
pub(crate) struct Lock {
    dir: PathBuf,
    _file: File,
}

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, DirError> {
        let fail = |action, path: &Path, source| DirError::Io { action, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(|e| fail("create", dir, e))?;
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(|e| fail("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _file: file }),
            Err(TryLockError::WouldBlock) => Err(DirError::Locked { path }),
            Err(TryLockError::Error(e)) => Err(fail("lock", &path, e)),
        }
    }

    /// The secret of this host since it booted: a restart gives the same flows the same entropy.
    pub(crate) fn entropy_key(&self) -> Result<[u8; 16], DirError> {
        let path = self.dir.join("entropy.key");
        let fail = |action| {
            let path = path.clone();
            move |source| DirError::Io { action, path, source }
        };
        if let Ok(key) = fs::read(&path).map(<[u8; 16]>::try_from).unwrap_or_else(|_| Err(Vec::new())) {
            return Ok(key);
        }
        let mut key = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut key))
            .map_err(fail("make a secret for"))?;
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path);
        file.as_mut()
            .map_err(|e| io::Error::from(e.kind()))
            .and_then(|f| f.write_all(&key))
            .map_err(fail("write"))?;
        Ok(key)
    }
}
