//! The directories of a node: the plugin's program is copied, the configuration chained, and both are taken back.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::chain::{self, KEPT, PLUGIN, Plugin};
use crate::error::{Error, Result};

/// No larger configuration is read, in bytes.
const MOST: u64 = 1 << 20;

/// The directories, as this process sees them.
#[derive(Debug, Clone)]
pub struct Node {
    /// Network configuration of the container runtime.
    pub conf: PathBuf,
    /// Its plugins.
    pub bin: PathBuf,
    /// Whether the plugin's program stays when the plugin is taken out of the chain: CRI-O ends a pod by the chain by which it started it.
    pub keep_program: bool,
}

/// What a look found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// There is no network configuration yet.
    Nothing,
    /// The plugin is in the chain of this file already.
    Chained(String),
    /// It was put there.
    Put(String),
}

impl Node {
    /// Copies the plugin's program to the others, if it is another one than there.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn copy(&self, plugin: &Path) -> Result<bool> {
        let program = fs::read(plugin).map_err(|cause| Error::path("reading", plugin, cause))?;
        let place = self.bin.join(PLUGIN);
        if fs::read(&place).is_ok_and(|there| there == program) {
            return Ok(false);
        }
        replace(&place, &program, 0o755)?;
        Ok(true)
    }

    /// Puts the plugin at the end of the chain that the container runtime uses.
    ///
    /// # Errors
    /// When the configuration is none, or cannot be read or written.
    pub fn chain(&self, plugin: &Plugin) -> Result<Look> {
        let names = self.names()?;
        let Some(name) = chain::used(names.iter().map(String::as_str)) else { return Ok(Look::Nothing) };
        let path = self.conf.join(name);
        let text = text(&path)?;
        let wrong = |reason: String| Error::Manifest { file: path.clone(), reason };
        chain::readable(name, &text).map_err(wrong)?;
        let Some(chained) = chain::chained(&text, plugin).map_err(wrong)? else { return Ok(Look::Chained(name.to_owned())) };
        let target = chain::target(name);
        let theirs = |there: String| !matches!(chain::unchained(&there), Ok(Some(_)));
        if target != name && fs::read_to_string(self.conf.join(&target)).is_ok_and(theirs) {
            return Err(wrong(format!("it would become {target}, which is another configuration: remove one of them")));
        }
        // Kept before it is changed; what is ours in it already is not part of what was before.
        let before = chain::unchained(&text).map_err(wrong)?.unwrap_or(text);
        if self.kept(name, &before).is_none() {
            replace(&self.conf.join(format!("{name}{KEPT}")), before.as_bytes(), mode(&path))?;
        }
        replace(&self.conf.join(&target), chained.as_bytes(), mode(&path))?;
        if target != name {
            fs::remove_file(&path).map_err(|cause| Error::path("removing", &path, cause))?;
        }
        Ok(Look::Put(target))
    }

    /// Takes the plugin out of every chain, gives files back the text they had, and removes its program. Says which files it changed.
    ///
    /// # Errors
    /// When a file cannot be read or written; the others are done all the same, and the program and the texts that are kept stay.
    pub fn restore(&self) -> Result<Vec<String>> {
        let names = self.names()?;
        let (mut changed, mut failed) = (Vec::new(), None);
        for name in names.iter().filter(|name| chain::used([name.as_str()]).is_some()) {
            match self.restore_one(name) {
                Ok(true) => changed.push(name.clone()),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        // Next time what could not be given back will be needed.
        if let Some(error) = failed {
            return Err(error);
        }
        // Of what others have removed meanwhile.
        for name in names.iter().filter(|name| name.ends_with(KEPT)) {
            absent(&self.conf.join(name))?;
        }
        if !self.keep_program {
            absent(&self.bin.join(PLUGIN))?;
        }
        Ok(changed)
    }

    fn restore_one(&self, name: &str) -> Result<bool> {
        let path = self.conf.join(name);
        let now = text(&path)?;
        // What is no network configuration has not got our plugin.
        let Ok(Some(without)) = chain::unchained(&now) else { return Ok(false) };
        if let Some((kept, original)) = self.kept(name, &now) {
            fs::rename(&kept, &original).map_err(|cause| Error::path("restoring", &original, cause))?;
            if original != path {
                absent(&path)?;
            }
            return Ok(true);
        }
        replace(&path, without.as_bytes(), mode(&path))?;
        Ok(true)
    }

    /// Where the text is kept from which this one of the file came, and the file that had it: itself, or the single plugin that became a list.
    fn kept(&self, name: &str, text: &str) -> Option<(PathBuf, PathBuf)> {
        let originals = std::iter::once(name.to_owned()).chain(chain::singles(name));
        let mut pairs = originals.map(|original| (self.conf.join(format!("{original}{KEPT}")), self.conf.join(original)));
        pairs.find(|(kept, _)| fs::read_to_string(kept).is_ok_and(|kept| chain::came_of(text, &kept)))
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |cause| Error::path("reading", &self.conf, cause);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.conf).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Removes the directory in which the node proxy keeps its state, with what is in it.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_state(directory: &Path) -> Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match fs::remove_dir_all(directory) {
            Ok(()) => {
                tracing::info!("the state that the node proxy kept is removed");
                return Ok(());
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The proxy goes, too, and may just be writing.
            Err(cause) if cause.kind() == io::ErrorKind::DirectoryNotEmpty && attempts < 5 => {}
            Err(cause) => return Err(Error::path("removing", directory, cause)),
        }
    }
}

fn text(path: &Path) -> Result<String> {
    let failed = |cause| Error::path("reading", path, cause);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MOST {
        return Err(failed(io::Error::other("it is larger than a network configuration can be")));
    }
    fs::read_to_string(path).map_err(failed)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777)
}

/// Writes a file in one step: whoever reads it sees the old one or the new one.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let failed = |cause| Error::path("writing", path, cause);
    // Runtimes read no files that begin with a dot or end so.
    let part = path.with_file_name(format!(".{}.part", path.file_name().and_then(|name| name.to_str()).unwrap_or(PLUGIN)));
    // What was left half written by one that was killed may have other rights. A configuration may hold credentials: nobody reads it meanwhile
    // who may not read what it becomes.
    absent(&part)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&part).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    // Whatever the umask of this process has taken off.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&part, path).map_err(failed)
}

fn absent(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::path("removing", path, cause)),
        _ => Ok(()),
    }
}
