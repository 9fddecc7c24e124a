//! The sandboxes of the node, on disk: what a restarted agent knows of pods that started before it.
//!
//! A record is believed only while the machine has not been started anew since, and while its path still shows the namespace it had:
//! the numbers of namespaces begin again with every start of the machine.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use ambit_runtime::netns::NetNs;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where the kernel says which start of the machine this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// How names begin that are not a runtime's.
const FOUND: &str = "found-";

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The runtime's name of it.
    pub container: String,
    /// The UID of its pod.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's service account.
    pub service_account: String,
    /// Where its network namespace shows.
    pub netns: PathBuf,
    /// Which namespace that was: its inode, which another one may get when it is gone, and its cookie, which none gets.
    pub inode: u64,
    /// See `inode`; 0 where the kernel gives none.
    pub cookie: u64,
    /// Whether it was captured: then it is again, before anything else is known.
    pub captured: bool,
    /// The start of the machine at which it was written.
    pub boot: String,
}

/// All records, and their directory.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    boot: String,
    all: BTreeMap<String, Record>,
}

impl Records {
    /// Reads the records of a directory, which is made if needed. Those that cannot be believed are removed.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(Error::path("make", directory))?;
        let boot = std::fs::read_to_string(BOOT).map_err(Error::path("read", Path::new(BOOT)))?.trim().to_owned();
        let mut records = Self { directory: directory.to_owned(), boot, all: BTreeMap::new() };
        for entry in std::fs::read_dir(directory).map_err(Error::path("read", directory))? {
            let path = entry.map_err(Error::path("read", directory))?.path();
            let record = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            match record {
                // One that cannot be looked at for a moment is kept.
                Some(record) if record.boot == records.boot && !matches!(record.open(), Ok(None)) => {
                    records.all.insert(record.container.clone(), record);
                }
                _ => {
                    tracing::info!(record = %path.display(), "a sandbox of an earlier time is forgotten");
                    let _gone_already = std::fs::remove_file(&path);
                }
            }
        }
        Ok(records)
    }

    /// The start of the machine.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// All records.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.all.values()
    }

    /// The record of a sandbox.
    #[must_use]
    pub fn get(&self, container: &str) -> Option<&Record> {
        self.all.get(container)
    }

    /// Writes a record, in place of earlier ones of the same pod or of the same network namespace, which is another pod's by then.
    ///
    /// # Errors
    /// When it cannot be written, or the name of the sandbox could not be a file's.
    pub fn put(&mut self, record: Record) -> Result<(), Error> {
        let name = &record.container;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(Error::Refused(format!("{name:?} is no name of a sandbox")));
        }
        let before: Vec<String> = self
            .all()
            .filter(|other| other.container != *name && (other.uid == record.uid || other.identity() == record.identity()))
            .map(|other| other.container.clone())
            .collect();
        before.iter().for_each(|container| _ = self.remove(container));
        let path = self.directory.join(format!("{name}.json"));
        let part = self.directory.join(format!(".{name}.part"));
        let text = serde_json::to_vec(&record).map_err(|error| Error::path("write", &path)(error.into()))?;
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path)).map_err(Error::path("write", &path))?;
        self.all.insert(name.clone(), record);
        Ok(())
    }

    /// Removes the record of a sandbox.
    pub fn remove(&mut self, container: &str) -> Option<Record> {
        let removed = self.all.remove(container)?;
        let _gone_already = std::fs::remove_file(self.directory.join(format!("{container}.json")));
        Some(removed)
    }
}

impl Record {
    /// The name of a sandbox that no runtime told of: its pod was found by a process.
    #[must_use]
    pub fn found(uid: &str) -> String {
        format!("{FOUND}{}", uid.replace('/', "_"))
    }

    /// Whether it was found by a process ([`Record::found`]).
    #[must_use]
    pub fn is_found(&self) -> bool {
        self.container == Self::found(&self.uid)
    }

    /// Which network namespace it is, of all that there ever were.
    pub(crate) fn identity(&self) -> (&str, u64, u64) {
        (&self.boot, self.inode, self.cookie)
    }

    /// The namespace, if its path still shows it; nothing when it is gone.
    ///
    /// # Errors
    /// When that cannot be found out now.
    pub fn open(&self) -> io::Result<Option<NetNs>> {
        let netns = match NetNs::open(&self.netns) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            netns => netns?,
        };
        if netns.inode() != self.inode {
            return Ok(None);
        }
        Ok(Some(netns.cookie()?).filter(|cookie| *cookie == self.cookie).map(|_| netns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_outlives_the_agent_but_not_the_start_of_the_machine_nor_its_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let mut records = Records::open(directory.path()).unwrap();
        let here = PathBuf::from("/proc/self/ns/net");
        let record = |container: &str, change: fn(&mut Record)| {
            let mut record = Record {
                container: container.to_owned(),
                uid: format!("u-{container}"),
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                service_account: "web".to_owned(),
                inode: NetNs::open(&here).unwrap().inode(),
                cookie: NetNs::open(&here).unwrap().cookie().unwrap(),
                netns: here.clone(),
                captured: true,
                boot: std::fs::read_to_string(BOOT).unwrap().trim().to_owned(),
            };
            change(&mut record);
            record
        };
        records.put(record("good", |_| {})).unwrap();
        records.put(record("rebooted", |record| record.boot = "before".to_owned())).unwrap();
        records.put(record("reused", |record| record.inode += 1)).unwrap();
        records.put(record("inode-reused", |record| record.cookie += 1)).unwrap();
        records.put(record("gone", |record| (record.netns, record.inode) = ("/nowhere".into(), 1))).unwrap();
        assert!(records.put(record("../out", |_| {})).is_err());
        let again = Records::open(directory.path()).unwrap();
        assert_eq!(again.all().map(|record| record.container.as_str()).collect::<Vec<_>>(), ["good"]);
    }

    #[test]
    fn a_new_sandbox_takes_the_place_of_the_pods_old_one_and_of_whoever_had_its_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let mut records = Records::open(directory.path()).unwrap();
        let record = |container: &str, uid: &str, inode| Record {
            container: container.to_owned(),
            uid: uid.to_owned(),
            namespace: String::new(),
            name: String::new(),
            service_account: String::new(),
            netns: "/proc/self/ns/net".into(),
            inode,
            cookie: 1,
            captured: false,
            boot: String::new(),
        };
        for (container, uid, inode, left) in [
            ("one", "u", 1, vec!["one"]),
            ("two", "u", 2, vec!["two"]),
            ("next", "v", 2, vec!["next"]),
            ("far", "w", 3, vec!["far", "next"]),
        ] {
            records.put(record(container, uid, inode)).unwrap();
            assert_eq!(records.all().map(|record| record.container.as_str()).collect::<Vec<_>>(), left);
        }
    }
}
