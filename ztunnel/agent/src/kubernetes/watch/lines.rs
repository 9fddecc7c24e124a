//! The lines of a watch, none of which may be longer than an object can be.

use std::io;

use futures::{AsyncBufRead, AsyncBufReadExt};

/// The longest line that is read, bytes. The API server takes no object of more than 3 MiB.
pub(super) const LONGEST: usize = 8 << 20;

/// What is read, line by line.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    /// The line that has begun.
    line: Vec<u8>,
    longest: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) const fn new(reader: R, longest: usize) -> Self {
        Self { reader, line: Vec::new(), longest }
    }

    /// The next line, without its end; nothing when there are no more. What was read is kept when this is dropped.
    ///
    /// # Errors
    /// When it cannot be read; `UnexpectedEof` when it has no end, and `InvalidData` when it is too long.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let read = self.reader.fill_buf().await?;
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = end.map_or(read, |end| read.get(..end).unwrap_or_default());
            let (over, consumed) = (read.is_empty(), part.len() + usize::from(end.is_some()));
            if self.line.len() + part.len() > self.longest {
                let why = format!("a line has more than {} bytes", self.longest);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            self.line.extend_from_slice(part);
            self.reader.consume_unpin(consumed);
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
            if over {
                return if self.line.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::io::{BufReader, Cursor};

    use super::*;

    async fn read(text: &str, at_once: usize, longest: usize) -> Vec<io::Result<String>> {
        let mut lines = Lines::new(BufReader::with_capacity(at_once, Cursor::new(text.as_bytes().to_vec())), longest);
        let mut all = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => all.push(Ok(String::from_utf8(line).unwrap())),
                Ok(None) => return all,
                Err(error) => {
                    all.push(Err(error));
                    return all;
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_are_whole_however_they_come() {
        for at_once in 1..8 {
            let mut read = read("one\n\nthree\nfo", at_once, 5).await;
            let cut = read.pop().unwrap().unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof, "half a line is none");
            let read: Vec<String> = read.into_iter().map(Result::unwrap).collect();
            assert_eq!(read, ["one", "", "three"], "{at_once} bytes at once");
        }
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_kept_for_ever() {
        for at_once in 1..8 {
            let read = read("one\nfour and more", at_once, 4).await;
            let [one, long] = read.as_slice() else { panic!("{read:?}") };
            assert_eq!(one.as_ref().unwrap(), "one");
            assert_eq!(long.as_ref().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
