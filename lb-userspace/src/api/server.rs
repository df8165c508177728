//! The daemon's end of the socket.

use std::{
    fs,
    future::Future,
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::net::UnixListener;

use super::{
    routes::{self, Daemon},
    serve_until,
};

/// Who may talk to the daemon: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// A bound socket. The file goes away with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
}

/// Why the socket can't be served.
#[derive(Debug, Error)]
pub enum BindError {
    /// A daemon is there already.
    #[error("another daemon answers at {}", .0.display())]
    Taken(PathBuf),
    /// Something that is not a socket is in the way, and stays.
    #[error("{} is there and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("can't listen at {}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl Server {
    /// Binds `path`, mode 0660, making its directory if need be. A socket that nobody answers at is replaced.
    ///
    /// Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        clear_the_way(path)?;
        let bind = || {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            let listener = UnixListener::bind(path)?;
            let file = SocketFile::of(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
            Ok(Self { listener, file })
        };
        bind().map_err(|source| BindError::Io { path: path.to_owned(), source })
    }

    /// Answers until `shutdown` is ready and the requests under way are answered, then removes the socket.
    ///
    /// # Errors
    /// None in practice: failing connections only concern themselves.
    pub async fn serve(self, daemon: Daemon, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let served = serve_until(self.listener, routes::router(daemon), shutdown).await;
        drop(self.file);
        served
    }
}

/// Removes what a daemon that was killed left at `path`.
fn clear_the_way(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io),
        Err(error) => Err(io(error)),
    }
}

/// The socket's file, removed when dropped unless another one has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("can't remove {}: {error}", self.path.display());
        }
    }
}
