//! The file of the kept state: what it holds, and how it is told from a damaged one.
//!
//! A first line with the version of the format, whose state it is, the records, and a digest of all before it. It is read as a whole or
//! not at all: half of a state would lack policies.

use std::{
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// The first bytes; another number for another format.
const MAGIC: &[u8] = b"ambit kept state 1\n";
/// The largest file that is read, in bytes: several hundred thousand workloads.
pub(super) const MOST: u64 = 512 << 20;
const DIGEST: usize = 32;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A workload or a service.
    Address = 0,
    /// A policy.
    Policy = 1,
}

/// A resource as the control plane sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    /// Whether it was taken; what was rejected, and had no version before it, is kept because it denies.
    pub(super) taken: bool,
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) body: &'a [u8],
}

/// The records of a file that is whole and `owner`'s.
///
/// # Errors
/// In words, why there are none.
pub(super) fn decode<'a>(bytes: &'a [u8], owner: &str) -> Result<Vec<Record<'a>>, String> {
    let cut = || "it ends too early".to_owned();
    let (content, digest) = bytes.split_last_chunk::<DIGEST>().ok_or_else(cut)?;
    let mut rest = content.strip_prefix(MAGIC).ok_or_else(|| "it is of another format".to_owned())?;
    if Sha256::digest(content).as_slice() != digest {
        return Err("it is damaged".to_owned());
    }
    if take_text(&mut rest).ok_or_else(cut)? != owner {
        return Err("it is the state of another node, cluster or trust domain".to_owned());
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        records.push(take_record(&mut rest).ok_or_else(cut)?);
    }
    Ok(records)
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Option<Record<'a>> {
    let ([kind, taken], after) = rest.split_first_chunk()?;
    *rest = after;
    let kind = match kind {
        0 => Kind::Address,
        1 => Kind::Policy,
        _ => return None,
    };
    Some(Record { kind, taken: *taken == 1, name: take_text(rest)?, version: take_text(rest)?, body: take_bytes(rest)? })
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_bytes(rest)?).ok()
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (bytes, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *rest = after;
    Some(bytes)
}

/// Makes `directory` unless it is there. What is read from it decides who may connect: so nobody else may write in it.
///
/// # Errors
/// When it cannot be made, or others may write in it.
pub(super) fn prepare(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mode = fs::metadata(directory)?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("others may write in it (mode {:o})", mode & 0o7777),
        ));
    }
    Ok(())
}

/// Writes `path` in one step: whoever reads it sees the file before or the whole new one; after a crash too, and the new one once this
/// has returned.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write<'a>(path: &Path, owner: &str, records: impl Iterator<Item = Record<'a>>) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let mut out = Digesting { out: BufWriter::new(file), digest: Sha256::new() };
    out.put(MAGIC)?;
    out.put_sized(owner.as_bytes())?;
    for record in records {
        out.put(&[record.kind as u8, u8::from(record.taken)])?;
        out.put_sized(record.name.as_bytes())?;
        out.put_sized(record.version.as_bytes())?;
        out.put_sized(record.body)?;
    }
    let digest = out.digest.finalize();
    out.out.write_all(&digest)?;
    let file = out.out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // Or a node that loses its power could come up with the file before, in which a policy is open that was closed since.
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

struct Digesting {
    out: BufWriter<fs::File>,
    digest: Sha256,
}

impl Digesting {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }

    fn put_sized(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.put(&length.to_le_bytes())?;
        self.put(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> [Record<'static>; 2] {
        [
            Record { kind: Kind::Address, taken: true, name: "a", version: "1", body: b"body" },
            Record { kind: Kind::Policy, taken: false, name: "shop/p", version: "", body: b"" },
        ]
    }

    #[test]
    fn what_was_written_is_read_and_nothing_is_read_of_a_file_that_changed_anywhere() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        write(&path, "me", records().into_iter()).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(decode(&bytes, "me").unwrap(), records());
        assert!(decode(&bytes, "you").unwrap_err().contains("another node"));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged, "me").is_err(), "byte {at}");
            assert!(decode(&bytes[..at], "me").is_err(), "cut at {at}");
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "a temporary file was left behind");
    }
}
