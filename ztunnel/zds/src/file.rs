//! The file at which a Unix socket listens. Of an old and a new program at once, the new one takes the place over and the old one, when
//! it ends, leaves it alone.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::net::{SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

const BACKLOG: i32 = 128;

/// The file of a listening socket. Dropping it removes the file, if nobody else has put another in its place; drop it before the socket,
/// whose life keeps the number of the file from being given away.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, as it was made.
    made: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`, in place of whoever listened there before. Only the owner of the file may connect. The socket does not block.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn listen(kind: SocketType, path: &Path) -> io::Result<(OwnedFd, Self)> {
        let socket = socket_with(rustix::net::AddressFamily::UNIX, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = Self { path: path.to_owned(), made: identify(path)? };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        Ok((socket, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identify(&self.path).is_ok_and(|found| found == self.made) {
            // Nothing can be done when it is gone already.
            let _removed = std::fs::remove_file(&self.path);
        }
    }
}

fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_with_its_socket_unless_a_successor_has_taken_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("at.sock");
        let connects = || std::os::unix::net::UnixStream::connect(&path).is_ok();
        let (old_socket, old) = SocketFile::listen(SocketType::STREAM, &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (socket, new) = SocketFile::listen(SocketType::STREAM, &path).unwrap();
        drop((old, old_socket));
        assert!(connects(), "the successor's file is gone");
        drop((new, socket));
        assert!(!path.exists());
    }
}
