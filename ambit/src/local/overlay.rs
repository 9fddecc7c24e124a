//! What the API server would hold beside the user's files: statuses, allocated addresses, the objects of the mesh itself.
//!
//! Each object is a file of its own, replaced in one step, so that the control plane never reads half of one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// A directory of objects laid over the user's.
#[derive(Debug)]
pub struct Overlay {
    directory: PathBuf,
    written: BTreeMap<String, String>,
}

impl Overlay {
    /// An empty overlay in `directory`, which is made.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn create(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory).map_err(|cause| Error::path("making", &directory, cause))?;
        Ok(Self { directory, written: BTreeMap::new() })
    }

    /// Writes an object under a file name without extension, unless it is there as it is.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put(&mut self, file: &str, object: &Value) -> Result<()> {
        let text = serde_json::to_string_pretty(object).unwrap_or_default();
        if self.written.get(file) == Some(&text) {
            return Ok(());
        }
        replace(&self.path(file), &text)?;
        self.written.insert(file.to_owned(), text);
        Ok(())
    }

    /// Removes the objects under file names that `keep` does not want.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) -> Result<()> {
        let gone: Vec<String> = self.written.keys().filter(|file| !keep(file)).cloned().collect();
        for file in gone {
            let path = self.path(&file);
            fs::remove_file(&path).map_err(|cause| Error::path("removing", &path, cause))?;
            self.written.remove(&file);
        }
        Ok(())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(format!("{file}.yaml"))
    }
}

/// Writes a file so that a reader sees the old content or the new, never a part.
///
/// # Errors
/// If the file or its neighbour cannot be written.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    fs::write(&beside, text).map_err(|cause| Error::path("writing", &beside, cause))?;
    fs::rename(&beside, path).map_err(|cause| Error::path("writing", path, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_written_again_and_an_unwanted_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut overlay = Overlay::create(dir.path().join("objects")).unwrap();
        let object = serde_json::json!({ "kind": "Pod" });
        overlay.put("pod.a.b", &object).unwrap();
        let path = dir.path().join("objects/pod.a.b.yaml");
        fs::write(&path, "touched").unwrap();
        overlay.put("pod.a.b", &object).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "touched");
        overlay.retain(|_| false).unwrap();
        assert!(!path.exists());
    }
}
