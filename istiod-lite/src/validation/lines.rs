//! Lines of the log that anybody in the cluster can bring about.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many are written in the time of one window.
const MOST: u32 = 60;
const WINDOW: Duration = Duration::from_mins(1);

/// Counts lines, so that the log has so many of them in a minute and says how many it has not.
#[derive(Debug, Default)]
pub(super) struct Lines {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    written: u32,
    left_out: u32,
}

impl Lines {
    /// Whether one more may be written now, and if so how many were left out in the minute before.
    pub(super) fn next(&self, now: Instant) -> Option<u32> {
        let mut held = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |window: &Window| now.saturating_duration_since(window.began) < WINDOW;
        let window = match held.take() {
            Some(window) if goes_on(&window) => held.insert(window),
            before => {
                let left_out = before.map_or(0, |window| window.left_out);
                *held = Some(Window { began: now, written: 1, left_out: 0 });
                return Some(left_out);
            }
        };
        if window.written == MOST {
            window.left_out += 1;
            return None;
        }
        window.written += 1;
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_so_many_lines_and_a_number() {
        let (lines, start) = (Lines::default(), Instant::now());
        let written = (0..1000).filter(|_| lines.next(start).is_some()).count();
        assert_eq!(written, 60);
        assert_eq!(lines.next(start + WINDOW / 2), None);
        assert_eq!(lines.next(start + WINDOW), Some(941));
        assert_eq!(lines.next(start + WINDOW), Some(0));
    }
}
