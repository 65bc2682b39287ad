//! The file of a Unix domain socket: what a dead process has left behind is replaced, and ours is removed at the end.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};

/// How long a socket that refuses connections is given to listen: it may have been bound a moment ago.
const LISTENS_WITHIN: Duration = Duration::from_millis(50);
/// How long a process may take to accept the connection that shows that it lives.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// How long another process may take to replace the same file.
const REPLACED_WITHIN: Duration = Duration::from_secs(2);

/// The file of a socket that this process has bound. Dropping it removes the file, unless another one is in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    /// Binds a socket to `path`, which is absolute. A socket file on which no process listens any more is replaced.
    pub(super) async fn bind(path: &Path) -> io::Result<(Self, UnixListener)> {
        match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                // Of two that found the same stale file, the slower one would remove the socket of the faster one.
                let _lock = lock_directory_of(path).await?;
                remove_stale(path).await?;
                Self::of(path.into(), UnixListener::bind(path)?)
            }
            bound => Self::of(path.into(), bound?),
        }
    }

    fn of(path: PathBuf, listener: UnixListener) -> io::Result<(Self, UnixListener)> {
        let id = FileId::of(&path)?;
        Ok((Self { path, id }, listener))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.path.display();
        match FileId::of(&self.path) {
            Ok(id) if id == self.id => {
                if let Err(error) = fs::remove_file(&self.path) {
                    tracing::warn!(%path, cause = %error, "socket file not removed");
                }
            }
            _ => tracing::debug!(%path, "socket file already gone or replaced"),
        }
    }
}

/// Locks the directory until what is returned is dropped: the lock leaves no file behind.
async fn lock_directory_of(path: &Path) -> io::Result<File> {
    let directory = File::open(path.parent().unwrap_or(path))?;
    let end = Instant::now() + REPLACED_WITHIN;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if Instant::now() >= end => {
                let what = "a stale socket file may be there, but another process has locked its directory";
                return Err(io::Error::new(ErrorKind::AddrInUse, what));
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Removes the file at `path` if it is that of a socket without a listener. An error says what is there instead.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |what| Err(io::Error::new(ErrorKind::AddrInUse, what));
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return in_use("there is a file that is no socket"),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for wait in [LISTENS_WITHIN, Duration::ZERO] {
        match timeout(ANSWERS_WITHIN, UnixStream::connect(path)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => sleep(wait).await,
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Ok(Err(error)) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            // It has accepted, or has too many waiting.
            _ => return in_use("another process listens on it"),
        }
    }
    fs::remove_file(path)?;
    tracing::info!(path = %path.display(), "stale socket file removed");
    Ok(())
}

/// What distinguishes a file from a later one of the same name. With its time, because file systems reuse the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for FileId {
    fn from(metadata: &fs::Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), modified }
    }
}
