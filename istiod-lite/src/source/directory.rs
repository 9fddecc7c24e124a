//! Directories of YAML files, read recursively and watched.

use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::layer::{FileId, Layers};
use super::memory::Memory;
use super::{Event, Origin, Problem, Severity, Source, SourceError};

/// Files are read when nothing has changed for this long, so that a file is not read while it is being written.
const QUIET: Duration = Duration::from_millis(50);
/// The same when every file that was begun is whole, for the others that belong to the same change.
const WHOLE: Duration = Duration::from_millis(5);
/// Files are read after this long even if changes go on.
const PATIENCE: Duration = Duration::from_millis(400);
/// A file whose time stamp is younger than this when read may change again within the same stamp.
const STAMP_SLACK: Duration = Duration::from_secs(2);
/// Time between two looks at all files in case the kernel lost a notification.
const RESYNC: Duration = Duration::from_secs(30);
/// No larger file is read.
const MAX_FILE: u64 = 16 << 20;

/// N directories of YAML files (`*.yaml`, `*.yml`). Later directories lie over earlier ones: an object that is given
/// in several is the deep merge of its documents.
pub struct Directory {
    roots: Vec<PathBuf>,
    layers: Layers,
    stamps: BTreeMap<FileId, Stamp>,
    unreadable: BTreeMap<FileId, Problem>,
    /// Of the texts that were read last: one that is read again for its time stamp is mostly the same.
    hashes: BTreeMap<FileId, u64>,
    /// Texts that have not come into force.
    texts: BTreeMap<FileId, String>,
    memory: Option<Memory>,
    problems: Arc<Vec<Problem>>,
    wake: mpsc::Receiver<()>,
    begun: Begun,
    started: bool,
    _watcher: RecommendedWatcher,
}

/// Files that somebody is writing.
#[derive(Debug, Clone, Default)]
struct Begun(Arc<Mutex<HashSet<PathBuf>>>);

/// How a file looked when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
    /// Whether the stamp was old enough to tell the next change.
    settled: bool,
}

impl Directory {
    /// Begins to watch the directories, which must exist.
    ///
    /// # Errors
    ///
    /// When a directory cannot be watched.
    pub fn new(roots: Vec<PathBuf>) -> Result<Self, SourceError> {
        // One pending wake-up stands for any number of changes.
        let (sender, wake) = mpsc::channel(1);
        let begun = Begun::default();
        let noted = begun.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.map_or(true, |event| {
                noted.note(&event);
                matters(event.kind)
            });
            if matters {
                _ = sender.try_send(());
            }
        })
        .map_err(|cause| SourceError::Watch { path: PathBuf::new(), cause })?;
        for root in &roots {
            let watched = watcher.watch(root, RecursiveMode::Recursive);
            watched.map_err(|cause| SourceError::Watch { path: root.clone(), cause })?;
        }
        Ok(Self {
            roots,
            layers: Layers::default(),
            stamps: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            hashes: BTreeMap::new(),
            texts: BTreeMap::new(),
            memory: None,
            problems: Arc::default(),
            wake,
            begun,
            started: false,
            _watcher: watcher,
        })
    }

    /// Keeps the last good text of each file in a directory of its own, which is made if need be, and begins with it
    /// where a file is broken at start.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn remembering(mut self, directory: PathBuf) -> Result<Self, SourceError> {
        let memory = Memory::open(directory.clone()).map_err(|cause| SourceError::Memory { path: directory, cause })?;
        self.memory = Some(memory);
        Ok(self)
    }

    /// Waits for a change, and then for the changes to pause.
    async fn changed(&mut self) {
        tokio::select! {
            _ = self.wake.recv() => {}
            () = sleep(RESYNC) => return,
        }
        let latest = Instant::now() + PATIENCE;
        loop {
            let pause = if self.begun.is_empty() { WHOLE } else { QUIET };
            let next = timeout_at(latest.min(Instant::now() + pause), self.wake.recv()).await;
            if next != Ok(Some(())) || Instant::now() >= latest {
                break;
            }
        }
        // One that nobody has closed by now is written for long, and is waited for no more than others.
        self.begun.clear();
    }

    /// Reads what is other than at the last look; events, and whether the problems changed.
    fn look(&mut self) -> Result<(Vec<Event>, bool), SourceError> {
        let mut present = BTreeMap::new();
        for (layer, root) in self.roots.iter().enumerate() {
            list(root, layer, true, &mut present)?;
        }
        let gone: Vec<FileId> = self.stamps.keys().filter(|id| !present.contains_key(*id)).cloned().collect();
        let mut changes = Vec::new();
        for id in gone {
            self.stamps.remove(&id);
            self.unreadable.remove(&id);
            self.hashes.remove(&id);
            self.texts.remove(&id);
            if let Some(memory) = &self.memory {
                memory.forget(&id.1);
            }
            changes.push((id, None));
        }
        for (id, metadata) in present {
            let stamp = Stamp::of(&metadata);
            let before = self.stamps.insert(id.clone(), stamp.clone());
            if before.as_ref() == Some(&stamp) && stamp.settled {
                continue;
            }
            match read(&id, &metadata) {
                Ok(text) => {
                    self.unreadable.remove(&id);
                    let hash = hash(&text);
                    let was = self.hashes.insert(id.clone(), hash);
                    if before.is_none() || was != Some(hash) {
                        changes.push((id, Some(text)));
                    }
                }
                // What cannot be read keeps its last good state, as what cannot be understood does.
                Err(reason) => _ = self.unreadable.insert(id.clone(), unreadable(&id, reason)),
            }
        }
        let mut events = Vec::new();
        if !self.started {
            events = self.recall(&changes);
        }
        self.texts.extend(changes.iter().filter_map(|(id, text)| Some((id.clone(), text.clone()?))));
        events.extend(self.layers.update(changes));
        for id in self.layers.take_taken() {
            if let (Some(memory), Some(text)) = (&self.memory, self.texts.remove(&id)) {
                memory.keep(&id.1, &text);
            }
        }
        let problems: Vec<Problem> = self.unreadable.values().cloned().chain(self.layers.problems()).collect();
        let other = *self.problems != problems;
        if other {
            self.problems = Arc::new(problems);
        }
        Ok((events, other))
    }
}

impl Directory {
    /// Puts the remembered text of each file in force before its present one is looked at.
    fn recall(&mut self, present: &[(FileId, Option<String>)]) -> Vec<Event> {
        let Some(memory) = &self.memory else { return Vec::new() };
        memory.retain(self.stamps.keys().map(|id| id.1.as_path()));
        let remembered = present.iter().map(|(id, _)| id).chain(self.unreadable.keys());
        let texts = remembered.filter_map(|id| Some((id.clone(), Some(memory.recall(&id.1)?)))).collect();
        let events = self.layers.update(texts);
        self.layers.take_taken();
        events
    }
}

#[async_trait::async_trait]
impl Source for Directory {
    async fn next(&mut self) -> Result<Vec<Event>, SourceError> {
        if !self.started {
            let (events, _) = self.look()?;
            self.started = true;
            return Ok(events);
        }
        loop {
            self.changed().await;
            let (events, problems) = self.look()?;
            if !events.is_empty() || problems {
                return Ok(events);
            }
        }
    }

    fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.clone()
    }
}

impl Begun {
    fn files(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is whole when it is closed, and when it has come under its name by one step. One that is gone may be about to come again: many
    /// programs take it away before they write it anew, and what is not there meanwhile may be a policy.
    fn note(&self, event: &notify::Event) {
        let gone = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
        let begins = gone || matches!(event.kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)));
        let ends = matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(_)));
        let mut files = self.files();
        for path in &event.paths {
            if begins {
                files.insert(path.clone());
            } else if ends && matters(event.kind) {
                files.remove(path);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    fn clear(&self) {
        self.files().clear();
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let modified = metadata.modified().ok();
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        Self { modified, length: metadata.len(), inode: metadata.ino(), settled: age.is_some_and(|age| age > STAMP_SLACK) }
    }
}

/// Reading a file is no change of it.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Finds the YAML files below a directory. Hidden files are editors' and `kubectl`'s own.
fn list(directory: &Path, layer: usize, is_root: bool, found: &mut BTreeMap<FileId, Metadata>) -> Result<(), SourceError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // A directory that vanished meanwhile is simply not there.
        Err(_) if !is_root => return Ok(()),
        Err(cause) => return Err(SourceError::List { path: directory.to_owned(), cause }),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Follows symbolic links to files, not to directories, which could lead in circles.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if metadata.is_dir() && !link {
            list(&path, layer, false, found)?;
        } else if metadata.is_file() && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            found.insert((layer, path), metadata);
        }
    }
    Ok(())
}

fn read(id: &FileId, metadata: &Metadata) -> Result<String, String> {
    if metadata.len() > MAX_FILE {
        return Err(format!("larger than {} MiB", MAX_FILE >> 20));
    }
    std::fs::read_to_string(&id.1).map_err(|error| format!("cannot be read: {error}"))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn unreadable(id: &FileId, reason: String) -> Problem {
    let origin = Origin::File { file: id.1.clone(), line: 0 };
    Problem { origin, object: None, field: String::new(), reason, severity: Severity::Error }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, RemoveKind};

    use super::*;

    #[test]
    fn files_are_waited_for_until_they_are_closed_or_in_their_place_and_those_that_are_gone() {
        const WRITTEN: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
        const CREATED: EventKind = EventKind::Create(CreateKind::File);
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        let begun = Begun::default();
        let waits = |kind: EventKind, paths: &[&str]| {
            begun.note(&paths.iter().fold(notify::Event::new(kind), |event, path| event.add_path(path.into())));
            !begun.is_empty()
        };
        assert!(waits(CREATED, &["a"]) && !waits(WRITTEN, &["a"]));
        // Taken away, and written anew.
        assert!(waits(EventKind::Remove(RemoveKind::File), &["a"]) && waits(CREATED, &["a"]) && !waits(WRITTEN, &["a"]));
        // Another one is put in its place.
        assert!(waits(CREATED, &["b"]) && !waits(WRITTEN, &["b"]));
        assert!(waits(renamed(RenameMode::From), &["b"]) && waits(renamed(RenameMode::To), &["a"]));
        assert!(!waits(renamed(RenameMode::Both), &["b", "a"]));
        assert!(!waits(renamed(RenameMode::To), &["a"]), "from elsewhere");
        assert!(!waits(EventKind::Access(AccessKind::Open(AccessMode::Read)), &["a"]));
    }
}
