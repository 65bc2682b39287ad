//! The file of a Unix domain socket: what a dead process has left behind is replaced, and ours is removed at the end.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

/// How long a socket that refuses connections is given to listen: it may have been bound a moment ago.
const LISTENS_WITHIN: Duration = Duration::from_millis(50);
/// How long a process may take to accept the connection that shows that it lives.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// How often binding is tried. Others may be doing the same.
const ATTEMPTS: usize = 3;

/// The file of a socket that this process has bound. Dropping it removes the file, unless another one is in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    /// Binds a socket to `path`. A socket file that nobody listens on any more is replaced.
    pub(super) async fn bind(path: &Path) -> io::Result<(Self, UnixListener)> {
        let path = std::path::absolute(path)?;
        for _ in 1..ATTEMPTS {
            match UnixListener::bind(&path) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => remove_stale(&path).await?,
                bound => return Self::of(path, bound?),
            }
        }
        let bound = UnixListener::bind(&path)?;
        Self::of(path, bound)
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

/// Removes the file at `path` if it is that of a socket without a listener. An error says what is there instead.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |what| Err(io::Error::new(ErrorKind::AddrInUse, what));
    let found = match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => FileId::from(&found),
        Ok(_) => return in_use("there is a file that is no socket"),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for wait in [LISTENS_WITHIN, Duration::ZERO] {
        match timeout(ANSWERS_WITHIN, UnixStream::connect(path)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => sleep(wait).await,
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Ok(Err(error)) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            // It has accepted, or has too many waiting.
            _ => return in_use("another process listens on it"),
        }
    }
    // Two processes may have found the same stale file. By now it may be the other one's, which must not be removed: so
    // what is there is moved aside first, which only one of them can do, and looked at then.
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", process::id()));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        moved => moved?,
    }
    let is_stale = FileId::of(Path::new(&aside))? == found;
    let returned = if is_stale { Ok(()) } else { fs::hard_link(&aside, path) };
    fs::remove_file(&aside)?;
    if is_stale {
        tracing::info!(path = %path.display(), "stale socket file replaced");
        return Ok(());
    }
    returned?;
    in_use("another process has just bound it")
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
