//! The last good text of each file, kept on disk, so that a restart while a file is broken goes on with what was in
//! force before.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A directory with one file for each source file, named by a hash of its path.
#[derive(Debug)]
pub(super) struct Memory {
    directory: PathBuf,
}

impl Memory {
    /// Opens the directory, or makes it. Files may have private keys in them, and their owner may have let nobody else read them.
    pub(super) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        Ok(Self { directory })
    }

    /// The last good text of a file.
    pub(super) fn recall(&self, file: &Path) -> Option<String> {
        fs::read_to_string(self.place_of(file)).ok()
    }

    /// Keeps the text of a file. A failure costs only what a restart would find, so it is logged.
    pub(super) fn keep(&self, file: &Path, text: &str) {
        let place = self.place_of(file);
        if fs::read_to_string(&place).is_ok_and(|held| held == text) {
            return;
        }
        // Written beside and renamed, so that a crash leaves the old or the new.
        let beside = place.with_extension("new");
        if let Err(error) = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &place)) {
            tracing::warn!(file = %file.display(), %error, "cannot keep the last good state of a file");
        }
    }

    /// Forgets a file that is gone.
    pub(super) fn forget(&self, file: &Path) {
        _ = fs::remove_file(self.place_of(file));
    }

    /// Forgets all files but these.
    pub(super) fn retain<'a>(&self, files: impl Iterator<Item = &'a Path>) {
        let places: BTreeSet<PathBuf> = files.map(|file| self.place_of(file)).collect();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if !places.contains(&entry.path()) {
                _ = fs::remove_file(entry.path());
            }
        }
    }

    fn place_of(&self, file: &Path) -> PathBuf {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let digest = Sha256::digest(file.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(name).with_extension("yaml")
    }
}
