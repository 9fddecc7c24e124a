//! Drawing over and over on a terminal, and leaving it as it was.

use std::io::{Write, stdout};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, size};
use crossterm::{execute, queue};

/// The terminal's other screen, until dropped.
pub struct Screen;

impl Screen {
    /// Changes to the other screen.
    pub fn open() -> Self {
        // A terminal that does not understand shows the table line by line, which is good enough.
        let _best_effort = execute!(stdout(), EnterAlternateScreen, Hide);
        Self
    }

    /// Shows what `draw` makes for the width of the terminal.
    pub fn show(&mut self, draw: impl FnOnce(usize) -> String) {
        let (width, height) = size().unwrap_or((120, 40));
        let mut out = stdout().lock();
        let _best_effort = queue!(out, MoveTo(0, 0));
        for line in draw(usize::from(width)).lines().take(usize::from(height.saturating_sub(1))) {
            let _best_effort = queue!(out, Clear(ClearType::CurrentLine));
            let _best_effort = write!(out, "{line}\r\n");
        }
        let _best_effort = queue!(out, Clear(ClearType::FromCursorDown));
        let _best_effort = out.flush();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _best_effort = execute!(stdout(), LeaveAlternateScreen, Show);
    }
}
