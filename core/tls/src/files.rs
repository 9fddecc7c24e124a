//! Files that must be whole and, if secret, ours alone.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::TlsError;

/// Only the owner may read.
pub(crate) const SECRET: u32 = 0o600;
/// Everyone may read.
pub(crate) const PUBLIC: u32 = 0o644;

pub(crate) fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|e| TlsError::file("read", path, e))
}

/// Creates `path` with `content` unless it exists; returns what the file then holds. Of several processes that try at once one wins,
/// and all get its content.
pub(crate) fn create_or_read(
    path: &Path,
    mode: u32,
    content: impl FnOnce() -> Result<String, TlsError>,
) -> Result<String, TlsError> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(TlsError::file("read", path, e)),
    }
    let text = content()?;
    let temporary = write_beside(path, mode, &text)?;
    // A hard link, other than a rename, fails when the name is taken.
    let linked = fs::hard_link(&temporary, path);
    let _removed = fs::remove_file(&temporary);
    match linked {
        Ok(()) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(e) => Err(TlsError::file("create", path, e)),
    }
}

/// Writes `path` in one step: readers see the old content or the new one.
pub(crate) fn replace(path: &Path, mode: u32, content: &str) -> Result<(), TlsError> {
    let temporary = write_beside(path, mode, content)?;
    fs::rename(&temporary, path).map_err(|e| {
        let _removed = fs::remove_file(&temporary);
        TlsError::file("write", path, e)
    })
}

fn write_beside(path: &Path, mode: u32, content: &str) -> Result<PathBuf, TlsError> {
    let failed = |e| TlsError::file("write", path, e);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{:08x}.tmp", std::process::id(), fastrand::u32(..)));
    let temporary = PathBuf::from(name);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(failed)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| {
        let _removed = fs::remove_file(&temporary);
        failed(e)
    })?;
    Ok(temporary)
}
