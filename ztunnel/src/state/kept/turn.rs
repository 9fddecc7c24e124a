//! Who writes: of the proxies that know one directory only the one that has locked it, so that one that drains and the one that takes over
//! from it never both do.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The file that is locked. It stays, for what is locked must be the same file for all.
const FILE: &str = "mesh-state.lock";

/// The right to write in a directory, or the wait for it. It ends with the value, and with the process however that ends.
#[derive(Debug)]
pub(super) struct Turn {
    lock: File,
    mine: bool,
}

impl Turn {
    /// Asks for the right.
    ///
    /// # Errors
    /// When there can be no lock in this directory.
    pub(super) fn ask(directory: &Path) -> io::Result<Self> {
        let lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(FILE))?;
        let mut turn = Self { lock, mine: false };
        turn.try_lock()?;
        Ok(turn)
    }

    /// Whether this one writes; asks again if it did not.
    pub(super) fn is_mine(&mut self) -> bool {
        // What could be locked once can be again; if not, it is as if another one had it.
        self.mine || self.try_lock().is_ok_and(|()| self.mine)
    }

    /// Whether this one wrote when that was asked last.
    pub(super) const fn was_mine(&self) -> bool {
        self.mine
    }

    fn try_lock(&mut self) -> io::Result<()> {
        self.mine = match self.lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => {
                return Err(io::Error::new(error.kind(), format!("{FILE} cannot be locked: {error}")));
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_and_the_next_when_that_one_has_gone() {
        let home = tempfile::tempdir().unwrap();
        let mut first = Turn::ask(home.path()).unwrap();
        let mut second = Turn::ask(home.path()).unwrap();
        assert!(first.is_mine() && !second.is_mine() && !second.was_mine());
        drop(first);
        assert!(!second.was_mine() && second.is_mine() && second.was_mine());
        assert!(!Turn::ask(home.path()).unwrap().is_mine());
    }
}
