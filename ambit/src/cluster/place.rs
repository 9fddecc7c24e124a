//! Where a cluster of a name lives, and whether it runs.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;

use crate::error::{Error, Result};

/// Pause until whoever took a lock has written who it is.
const PAUSE: Duration = Duration::from_millis(5);

/// What a bed hides.
const HIDDEN: &str = "/run";

/// Longest path of a socket, bytes: `sun_path` less the zero after it (unix(7)).
const SOCKET: usize = 107;

/// The files of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterPlace {
    /// Its name.
    pub name: String,
    /// Everything of it. Gone with it.
    pub directory: PathBuf,
    lock: PathBuf,
}

/// Whether a cluster runs.
#[derive(Debug)]
pub enum Held {
    /// Nobody has it; it is ours while this value lives.
    Ours(Lock),
    /// It runs, as this process.
    Theirs(Pid),
}

/// The right to the files of a cluster, also of all processes that this one becomes.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl ClusterPlace {
    /// That of this name.
    ///
    /// # Errors
    /// There is no directory for it.
    pub fn of(name: &str) -> Result<Self> {
        let cache =
            ambit_cluster::programs::cache_directory().map_err(|error| Error::part("finding a place for the cluster", error))?;
        if cache.starts_with(HIDDEN) {
            return Err(Error::Invalid(format!(
                "{} lies below {HIDDEN}, which a cluster has its own of: set XDG_CACHE_HOME to another directory",
                cache.display()
            )));
        }
        let all = cache.join("cluster");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&all);
        made.map_err(|cause| Error::path("making", &all, cause))?;
        let place = Self { name: name.to_owned(), directory: all.join(name), lock: all.join(format!("{name}.lock")) };
        if place.new_socket().as_os_str().len() > SOCKET {
            return Err(Error::Invalid(format!(
                "{} is too long a path for a socket, of {SOCKET} bytes at most: set XDG_CACHE_HOME to a shorter one, or choose a shorter name",
                place.new_socket().display()
            )));
        }
        Ok(place)
    }

    /// The socket on which a running cluster takes orders.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Where that socket is made: it gets its name once all is ready.
    pub(super) fn new_socket(&self) -> PathBuf {
        self.directory.join("control.sock.new")
    }

    /// Whether it is ready, with this process as its owner: another one of its name may run already.
    pub(crate) fn is_ready(&self, owner: u32) -> bool {
        let is_owner = fs::read_to_string(&self.lock).is_ok_and(|text| text.trim() == owner.to_string());
        is_owner && UnixStream::connect(self.socket()).is_ok()
    }

    /// Takes it, or says who has it.
    ///
    /// # Errors
    /// The lock cannot be made or read.
    pub fn hold(&self) -> Result<Held> {
        let failed = |cause| Error::path("locking", &self.lock, cause);
        loop {
            let mut file =
                File::options().create(true).truncate(false).read(true).write(true).open(&self.lock).map_err(failed)?;
            match file.try_lock() {
                // Whoever had it has removed it in the meantime: another one could be made beside ours.
                Ok(()) if file.metadata().map_err(failed)?.nlink() == 0 => {}
                Ok(()) => return Ok(Held::Ours(Lock { file, path: self.lock.clone() })),
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).map_err(failed)?;
                    // It is there as soon as the lock is.
                    if let Ok(pid) = text.trim().parse() {
                        return Ok(Held::Theirs(Pid::from_raw(pid)));
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::Error(cause)) => return Err(failed(cause)),
            }
        }
    }
}

impl Lock {
    /// Says which process is to be asked to end.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn name_owner(&mut self, pid: u32) -> Result<()> {
        let written = self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| write!(self.file, "{pid}"));
        written.map_err(|cause| Error::path("writing", &self.path, cause))
    }
}

/// Gives it up and leaves no file. The process that only waits for the one in the bed ends without it.
impl Drop for Lock {
    fn drop(&mut self) {
        // One that is left holds nobody off, and is taken by the next.
        let _best_effort = fs::remove_file(&self.path);
    }
}
