//! What is in the file: read after a start, and with changes written anew.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, Metadata},
    io::{self, Read, Seek},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ambit_api::type_url;
use ambit_xds::{Any, Resource};

use super::{
    Change, Restored,
    file::{self, Kind, MOST, Record},
};

/// How far a clock may be set back between two runs before the age of a file is not known.
const CLOCK_ERROR: Duration = Duration::from_mins(5);

/// What changes are added to.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// Nothing: there is no file yet, or none that is of use.
    Nothing,
    /// What was read when this proxy started, and no more: another one may have written since, who knew of what this one never heard of.
    Read(Arc<File>),
    /// The file, as this proxy has written it or has taken it over.
    Ours,
}

impl Base {
    /// Whether nobody else has written the file since it was read.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        // The number of a file that is open is no other one's.
        let number = |metadata: io::Result<Metadata>| metadata.map(|metadata| (metadata.dev(), metadata.ino())).ok();
        match self {
            Self::Nothing | Self::Ours => true,
            Self::Read(file) => number(file.metadata()).is_some_and(|read| number(fs::metadata(path)) == Some(read)),
        }
    }

    /// When the control plane last stood behind what was read, as the proxy notes it that writes.
    pub(super) fn confirmed(&self) -> Option<SystemTime> {
        let Self::Read(file) = self else { return None };
        file.metadata().and_then(|metadata| metadata.modified()).ok()
    }
}

/// How long ago that was; nothing if it is to come.
pub(super) fn age(confirmed: SystemTime) -> Duration {
    SystemTime::now().duration_since(confirmed).unwrap_or(Duration::ZERO)
}

/// The file, if there is one.
fn open(path: &Path) -> Result<Option<File>, String> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn read(mut file: &File) -> Result<Vec<u8>, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length > MOST {
        return Err(format!("it has {length} bytes"));
    }
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.take(MOST).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| error.to_string())
}

/// What an earlier run has left, and the file that has it.
pub(super) fn restore(path: &Path, owner: &str) -> Result<Option<(Restored, File)>, String> {
    let Some(file) = open(path)? else { return Ok(None) };
    let confirmed = file.metadata().and_then(|metadata| metadata.modified()).map_err(|error| error.to_string())?;
    if confirmed > SystemTime::now() + CLOCK_ERROR {
        return Err("it is from the future, so its age is not known: the clock was set back".to_owned());
    }
    let mut restored = Restored { addresses: Vec::new(), policies: Vec::new(), age: age(confirmed) };
    for record in file::decode(&read(&file)?, owner)? {
        let (all, type_url) = match record.kind {
            Kind::Address => (&mut restored.addresses, type_url::ADDRESS),
            Kind::Policy => (&mut restored.policies, type_url::AUTHORIZATION),
        };
        let body = Any { type_url: type_url.to_owned(), value: record.body.to_vec() };
        // A version is not held unless the resource was taken.
        let version = if record.taken { record.version } else { "" };
        all.push(Resource { name: record.name.to_owned(), version: version.to_owned(), body });
    }
    Ok(Some((restored, file)))
}

/// The file with these changes.
pub(super) fn merge(path: &Path, base: &Base, owner: &str, pending: &BTreeMap<(Kind, String), Change>) -> Result<(), String> {
    let before = match base {
        Base::Nothing => None,
        Base::Read(file) => Some(read(file)?),
        // With changes alone the policies would be missing.
        Base::Ours => Some(read(&open(path)?.ok_or("somebody has removed it")?)?),
    };
    let before = before.as_ref().map_or(Ok(Vec::new()), |bytes| file::decode(bytes, owner))?;
    let by_key = |record: &Record<'_>| pending.get(&(record.kind, record.name.to_owned()));
    let stays = |record: &Record<'_>| match by_key(record) {
        None => true,
        Some(Change::Put { replaces: false, .. }) => record.taken,
        Some(_) => false,
    };
    let stay: Vec<Record<'_>> = before.into_iter().filter(stays).collect();
    let kept: HashSet<(Kind, &str)> = stay.iter().map(|record| (record.kind, record.name)).collect();
    let new = pending.iter().filter_map(|((kind, name), change)| match change {
        Change::Put { taken, version, body, .. } if !kept.contains(&(*kind, name.as_str())) => {
            Some(Record { kind: *kind, taken: *taken, name, version, body })
        }
        _ => None,
    });
    file::write(path, owner, stay.iter().copied().chain(new)).map_err(|error| error.to_string())
}
