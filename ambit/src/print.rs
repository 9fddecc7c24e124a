//! How commands print. That nobody reads any more (`ambit cluster status | head -1`) is no fault: the rest is not printed, and the command
//! does what it has to do. Anything else that keeps the text from its place is one, which [`finished`] tells.
//!
//! The macros have the names of those of the standard library, which panic in both cases: this module is declared before all others of the
//! crate, so that they have these.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Why something could not be printed on standard output, the first time.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Prints on standard output.
macro_rules! print {
    ($($text:tt)*) => { $crate::print::out(::std::format_args!($($text)*)) };
}

/// Prints a line on standard output.
macro_rules! println {
    ($($text:tt)*) => { $crate::print::out(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// Prints a line on standard error.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::print::err(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// Prints on standard output.
pub fn out(text: Arguments<'_>) {
    note(io::stdout().lock().write_fmt(text));
}

/// Prints on standard error, as far as that can be.
pub fn err(text: Arguments<'_>) {
    // There is no other place to say that it cannot.
    let _unread = io::stderr().lock().write_fmt(text);
}

fn note(written: io::Result<()>) {
    if let Err(error) = written {
        let _not_the_first = FAILED.set(error);
    }
}

/// Whether whoever was to read what is printed has gone: for those who only print.
#[must_use]
pub fn is_unread() -> bool {
    FAILED.get().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// The end of a command: what it printed is in its place.
///
/// # Errors
/// When it is not, though somebody waits for it.
pub fn finished(code: ExitCode) -> Result<ExitCode> {
    note(io::stdout().lock().flush());
    match FAILED.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            let cause = error.raw_os_error().map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error);
            Err(Error::io("printing", cause))
        }
        _ => Ok(code),
    }
}
