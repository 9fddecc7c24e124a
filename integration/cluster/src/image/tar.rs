//! Tar archives in the format ustar (POSIX.1-1988): as much of it as an image needs.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::read_exactly;

/// Everything in an archive is a multiple of it long.
const BLOCK: usize = 512;

/// An archive that is being written. Everything belongs to root and has no time, so that the same files give the same bytes.
pub(super) struct Tar<W> {
    output: W,
}

impl<W: Write> Tar<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output }
    }

    /// Adds a directory; `/tmp` is for everyone, as usual.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        let mode = if path == "tmp" { 0o1777 } else { 0o755 };
        self.output.write_all(&header(&format!("{path}/"), mode, 0, b'5', "")?)
    }

    /// Adds a file of this length.
    pub(super) fn file(&mut self, path: &str, mode: u32, size: u64, content: &mut dyn Read) -> io::Result<()> {
        self.output.write_all(&header(path, mode, size, b'0', "")?)?;
        let copied = io::copy(&mut content.take(size), &mut self.output)?;
        if copied != size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it became shorter while it was read: {copied} of {size} bytes"),
            ));
        }
        let padding = padding(size);
        self.output.write_all(&[0; BLOCK][..padding])
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.output.write_all(&header(path, 0o777, 0, b'2', target)?)
    }

    /// Ends the archive and gives the output back.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }
}

/// How much follows content of this length.
fn padding(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or_default()
}

/// The block before a file: fields at fixed places, numbers in octal.
fn header(path: &str, mode: u32, size: u64, kind: u8, target: &str) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let (prefix, name) = split(path)?;
    let mut put = |at: usize, length: usize, text: &str| {
        let field = block.get_mut(at..at + length).and_then(|field| field.get_mut(..text.len()));
        let field =
            field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("`{text}` is too long for an archive")))?;
        field.copy_from_slice(text.as_bytes());
        Ok::<_, io::Error>(())
    };
    put(0, 100, name)?;
    put(100, 8, &format!("{mode:07o}"))?;
    put(108, 8, "0000000")?;
    put(116, 8, "0000000")?;
    put(124, 12, &format!("{size:011o}"))?;
    put(136, 12, "00000000000")?;
    // The sum of the block is made as if its own field had spaces.
    put(148, 8, "        ")?;
    put(156, 1, char::from(kind).encode_utf8(&mut [0; 4]))?;
    put(157, 100, target)?;
    put(257, 8, "ustar\u{0}00")?;
    put(345, 155, prefix)?;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
    Ok(block)
}

/// A path of more than 100 bytes stands in two fields, cut at a slash.
fn split(path: &str) -> io::Result<(&str, &str)> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    let cut =
        path.match_indices('/').map(|(at, _)| at).find(|at| *at <= 155 && path.len() - at - 1 <= 100 && path.len() - at > 1);
    let cut = cut.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("`{path}` is too long for an archive")))?;
    Ok((&path[..cut], &path[cut + 1..]))
}

/// What the file of this path holds in an archive, if it is there and not longer than `limit`.
pub(super) fn find<R: Read + Seek>(archive: &mut R, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
    loop {
        let block = match read_exactly(archive, BLOCK) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            block => block?,
        };
        let text = |at: usize, length: usize| {
            let field = block.get(at..at + length).unwrap_or_default();
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
            String::from_utf8_lossy(field.get(..end).unwrap_or_default()).trim().to_owned()
        };
        let name = text(0, 100);
        let Ok(size) = u64::from_str_radix(&text(124, 12), 8) else { return Ok(None) };
        if name.trim_start_matches("./") == path {
            let length = usize::try_from(size).ok().filter(|length| *length <= limit);
            return length.map(|length| read_exactly(archive, length)).transpose();
        }
        let skip = i64::try_from(size.next_multiple_of(BLOCK as u64)).unwrap_or(i64::MAX);
        archive.seek(SeekFrom::Current(skip))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_cut_at_a_slash_and_one_that_cannot_be_is_refused() {
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        assert_eq!(split(&long).unwrap(), ("d".repeat(90).as_str(), "f".repeat(90).as_str()));
        assert!(header(&"x".repeat(101), 0, 0, b'0', "").is_err());
        assert!(header("short", 0, 0, b'2', &"t".repeat(101)).is_err());
    }

    #[test]
    fn what_was_added_is_found_again() {
        let mut tar = Tar::new(io::Cursor::new(Vec::new()));
        tar.directory("a").unwrap();
        tar.file("a/first", 0o644, 600, &mut [1; 600].as_slice()).unwrap();
        tar.file("second", 0o644, 3, &mut b"two".as_slice()).unwrap();
        let mut archive = tar.end().unwrap();
        assert_eq!(archive.get_ref().len() % BLOCK, 0);
        archive.rewind().unwrap();
        assert_eq!(find(&mut archive, "second", 10).unwrap().as_deref(), Some(b"two".as_slice()));
        archive.rewind().unwrap();
        assert_eq!(find(&mut archive, "third", 10).unwrap(), None);
        let mut none = io::Cursor::new(b"no archive at all".to_vec());
        assert_eq!(find(&mut none, "second", 10).unwrap(), None);
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let mut tar = Tar::new(Vec::new());
        assert!(tar.file("a", 0o644, 4, &mut b"abc".as_slice()).is_err());
    }
}
