//! The log of a container as the API server gives it: line by line, each with its time, and each once however often it is read.

use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use k8s_openapi::jiff::Timestamp;

/// Longest line that is read, bytes; the rest of a longer one is passed over.
pub(super) const LINE: u64 = 1 << 20;

/// Where a log is to go on when it is read once more: lines up to here are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The latest time of a line.
    pub(super) at: Timestamp,
    /// How many lines had it: runtimes give one time to all that they read at once.
    lines: u64,
}

impl Mark {
    /// With one more line.
    pub(super) fn after(mark: Option<Self>, at: Timestamp) -> Self {
        match mark {
            Some(mark) if mark.at == at => Self { at, lines: mark.lines + 1 },
            // The clock may be set back.
            Some(mark) if mark.at > at => mark,
            _ => Self { at, lines: 1 },
        }
    }
}

/// Passes over the lines of a log that are known, when it is read once more.
pub(super) struct Known {
    mark: Option<Mark>,
    seen: u64,
}

impl Known {
    /// What is known is up to here.
    pub(super) fn until(mark: Option<Mark>) -> Self {
        Self { mark, seen: 0 }
    }

    /// Whether the next line, of this time, is not known.
    pub(super) fn is_new(&mut self, at: Timestamp) -> bool {
        match self.mark {
            Some(mark) if at < mark.at => return false,
            Some(mark) if at == mark.at && self.seen < mark.lines => {
                self.seen += 1;
                return false;
            }
            // From here on the order counts, not the clock.
            _ => self.mark = None,
        }
        true
    }
}

/// When a line was said, and the line.
pub(super) fn stamped(line: &str) -> Option<(Timestamp, &str)> {
    let (at, text) = line.split_once(' ')?;
    Some((at.parse().ok()?, text))
}

/// The next line, cut at [`LINE`]; nothing at the end, where one that is not whole is read again later. Bytes that are no text are replaced.
pub(super) async fn read_line(log: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    (&mut *log).take(LINE).read_until(b'\n', &mut line).await?;
    if line.pop_if(|last| *last == b'\n').is_none() {
        if (line.len() as u64) < LINE {
            return Ok(None);
        }
        // What follows until the next line belongs to it.
        loop {
            let mut rest = Vec::new();
            match (&mut *log).take(LINE).read_until(b'\n', &mut rest).await? {
                0 => return Ok(None),
                _ if rest.last() == Some(&b'\n') => break,
                _ => {}
            }
        }
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanosecond: i32) -> Timestamp {
        Timestamp::new(1_700_000_000, nanosecond).unwrap()
    }

    /// What is taken of these lines when the log is read from `mark`.
    fn taken(mark: &mut Option<Mark>, lines: &[i32]) -> Vec<i32> {
        let mut known = Known::until(*mark);
        let new = lines.iter().copied().filter(|line| {
            let new = known.is_new(at(*line));
            if new {
                *mark = Some(Mark::after(*mark, at(*line)));
            }
            new
        });
        new.collect()
    }

    #[test]
    fn lines_are_taken_once_also_if_some_have_one_time_and_the_log_is_read_again_in_between() {
        let mut mark = None;
        assert_eq!(taken(&mut mark, &[1, 2, 2]), [1, 2, 2]);
        // Two of the three of one time were there when it ended.
        assert_eq!(taken(&mut mark, &[1, 2, 2, 2, 3]), [2, 3]);
        assert_eq!(taken(&mut mark, &[2, 2, 2, 3]), [0; 0]);
        assert_eq!(taken(&mut mark, &[3, 4]), [4]);
    }

    #[test]
    fn a_clock_that_is_set_back_loses_no_line() {
        let mut mark = None;
        assert_eq!(taken(&mut mark, &[10, 5, 6]), [10, 5, 6]);
        assert_eq!(mark, Some(Mark { at: at(10), lines: 1 }));
    }

    #[tokio::test]
    async fn lines_are_read_one_by_one_a_line_without_end_is_cut_and_one_that_is_not_whole_is_left() {
        let long = "x".repeat(3 << 20);
        let text = format!("one\n{long}\n\nthree\nfo");
        let mut log = futures::io::Cursor::new(text.into_bytes());
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut log).await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [3, 1 << 20, 0, 5]);
        assert_eq!((lines[0].as_str(), lines[3].as_str()), ("one", "three"));
    }

    #[test]
    fn the_time_of_a_line_is_read_as_the_runtime_writes_it() {
        let (zulu, text) = stamped("2026-01-02T03:04:05.123456789Z 2026-01-02T03:04:05.1Z access a=b").unwrap();
        assert_eq!(text, "2026-01-02T03:04:05.1Z access a=b");
        assert_eq!(stamped("2026-01-02T04:04:05.123456789+01:00 x").unwrap().0, zulu);
        assert!(stamped("no time").is_none() && stamped("").is_none());
    }
}
