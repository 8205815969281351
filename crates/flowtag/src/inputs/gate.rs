//! Files through which others reach the daemon (socket, named pipe): made with the right mode and group, removed when
//! we stop, and only if they are still ours.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::Gate;

/// Why a file could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} exists and is {kind}, not a named pipe: a client may have written there before flowtag made the \
         pipe; stop that client, remove the file, and start flowtag first"
    )]
    NotAPipe { path: PathBuf, kind: &'static str },
    #[error(
        "{path} belongs to uid {owner}, and flowtag could not open it again: remove it, flowtag makes its own"
    )]
    ForeignPipe { path: PathBuf, owner: u32 },
    #[error("{path} exists and is {kind}, not a socket: remove it or set another path")]
    NotASocket { path: PathBuf, kind: &'static str },
    #[error(
        "cannot give {path} to group {gid}: while flowtag runs it may do so only for groups that it is a member of \
         (SupplementaryGroups= of its unit). Restart it: systemctl restart flowtag"
    )]
    Group { path: PathBuf, gid: u32 },
    #[error("another program listens on {path}: stop it or set another path")]
    InUse { path: PathBuf },
}

impl GateError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What a path is, in words for errors.
pub(crate) fn kind_of(metadata: &fs::Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_socket() => "a socket",
        () if kind.is_fifo() => "a named pipe",
        () => "a device",
    }
}

/// Gives a file its mode and group, whatever the umask.
pub(crate) fn secure(gate: &Gate) -> Result<(), GateError> {
    let permissions = fs::Permissions::from_mode(gate.mode);
    fs::set_permissions(&gate.path, permissions).map_err(GateError::io("set the mode of", &gate.path))?;
    match gate.group {
        None => Ok(()),
        Some(gid) => match std::os::unix::fs::chown(&gate.path, None, Some(gid)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Err(GateError::Group { path: gate.path.clone(), gid })
            }
            done => done.map_err(GateError::io("set the group of", &gate.path)),
        },
    }
}

/// Makes the directory of a file that we are about to make.
pub(crate) fn parent(path: &Path) -> Result<(), GateError> {
    path.parent()
        .map_or(Ok(()), |dir| fs::create_dir_all(dir).map_err(GateError::io("create directory", dir)))
}

/// A file that we made. Removed on drop, unless another file stands at its path by then.
#[derive(Debug)]
pub(crate) struct Created {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Created {
    pub(crate) fn new(path: &Path) -> Result<Self, GateError> {
        let metadata = fs::symlink_metadata(path).map_err(GateError::io("look at", path))?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if still_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove our file");
        }
    }
}
