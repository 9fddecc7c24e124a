//! What program to run and where its output goes.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ambit_runtime::sys::{Step, before_exec};

use super::Process;
use crate::Error;

/// Where a program's standard output and standard error go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    #[default]
    Null,
    /// Where those of this process go.
    Inherit,
    /// Appended to a file, which is made if needed.
    File(PathBuf),
    /// To be read from [`Process::take_stdout`] and [`Process::take_stderr`].
    Piped,
}

/// A program to run in a place. Its environment is this process's, with changes.
#[derive(Debug)]
pub struct Command {
    name: String,
    inner: std::process::Command,
    stdout: Output,
    stderr: Output,
}

impl Command {
    /// A program by path or by name in `PATH`. Input and output go nowhere unless told otherwise.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
        let mut inner = std::process::Command::new(program);
        inner.stdin(Stdio::null());
        Self { name, inner, stdout: Output::Null, stderr: Output::Null }
    }

    /// The program that is running now, for example to run another part of a multi-call program.
    pub fn this_program() -> Self {
        let mut command = Self::new("/proc/self/exe");
        if let Some(name) = std::env::args_os().next() {
            command.inner.arg0(name);
        }
        command
    }

    /// What [`Process::name`] says.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.inner.env_remove(name);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Where both standard output and standard error go.
    #[must_use]
    pub fn output(self, output: Output) -> Self {
        self.stdout(output.clone()).stderr(output)
    }

    /// Where standard output goes.
    #[must_use]
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Where standard error goes.
    #[must_use]
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// Gives it a standard input to write to: [`Process::take_stdin`].
    #[must_use]
    pub fn stdin_piped(mut self) -> Self {
        self.inner.stdin(Stdio::piped());
        self
    }

    pub(crate) fn start(mut self, mut steps: Vec<Step>, temporary: &Path) -> Result<Process, Error> {
        steps.push(Step::UnblockSignals);
        if self.inner.get_envs().all(|(name, _)| name != "TMPDIR") {
            self.inner.env("TMPDIR", temporary);
        }
        let stdout = stdio(&self.stdout)?;
        let stderr = stdio(&self.stderr)?;
        self.inner.stdout(stdout).stderr(stderr).process_group(0);
        before_exec(&mut self.inner, steps);
        let what = format!("start {} ({})", self.name, self.inner.get_program().to_string_lossy());
        let mut command = tokio::process::Command::from(self.inner);
        // Only takes effect when the runtime is shut down with the task that owns the child.
        let child = command.kill_on_drop(true).spawn().map_err(Error::io(what))?;
        Ok(Process::new(self.name, child))
    }
}

fn stdio(output: &Output) -> Result<Stdio, Error> {
    Ok(match output {
        Output::Null => Stdio::null(),
        Output::Inherit => Stdio::inherit(),
        Output::Piped => Stdio::piped(),
        Output::File(path) => Stdio::from(append(path).map_err(Error::io(format!("open {}", path.display())))?),
    })
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
