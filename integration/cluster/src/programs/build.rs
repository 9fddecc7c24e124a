//! Building the programs, once, whoever needs them first.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use super::{NAMES, Progress, SOURCES, write};
use crate::error::{Error, Result};

/// What every build is told. Static, without paths of this machine, without what only a debugger needs: two builds give the same bytes.
pub(super) const FLAGS: [&str; 5] = [
    "-trimpath",
    "-buildvcs=false",
    "-mod=readonly",
    "-ldflags",
    "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 \
     -X k8s.io/component-base/version.gitMinor=36",
];

/// The programs: the largest first, since the other one shares most of its packages.
const BUILT: [&str; 2] = ["kube", "coredns"];

/// Go is stopped when it says nothing for so long: to download a module or to link a program never takes it that long.
const SILENT: Duration = Duration::from_secs(60 * 10);

/// Builds of other versions that nobody used for so long are removed.
const UNUSED: Duration = Duration::from_secs(60 * 60 * 24 * 60);

/// Builds the programs and puts them, all at once, at `directory` in `cache`.
pub(super) fn into(cache: &Path, directory: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
    fs::create_dir_all(cache).map_err(Error::path("making", cache))?;
    let path = cache.join("lock");
    let lock = File::create(&path).map_err(Error::path("making", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress(Progress::Waiting);
            lock.lock().map_err(Error::path("waiting for", &path))?;
        }
        Err(TryLockError::Error(cause)) => return Err(Error::path("locking", &path)(cause)),
    }
    if directory.is_dir() {
        return Ok(());
    }
    let go = super::system("go", "golang-go").map_err(|_| Error::Missing {
        what: "Kubernetes is built from its Go module, and Go is not installed".to_owned(),
        remedy: format!("install Go {} or later and put it into PATH", wanted_go()),
    })?;
    let partial = directory.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::path("removing", &partial))?;
    }
    let source = partial.join("source");
    for (path, text) in SOURCES {
        write(&source.join(path), text)?;
    }
    for program in BUILT {
        build(&go, &source, &partial, program, progress)?;
        progress(Progress::Built { program });
    }
    for name in NAMES {
        let link = partial.join(name);
        std::os::unix::fs::symlink(BUILT[0], &link).map_err(Error::path("making", &link))?;
    }
    fs::remove_dir_all(&source).map_err(Error::path("removing", &source))?;
    fs::rename(&partial, directory).map_err(Error::path("making", directory))?;
    remove_unused(cache, directory);
    Ok(())
}

fn build(go: &Path, source: &Path, partial: &Path, program: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
    let packages = packages(go, source, program, progress)?;
    let mut command = command(go, source);
    command.args(["build", "-v"]).args(FLAGS).arg("-o").arg(partial.join(program)).arg(format!("./{program}"));
    let mut compiled = 0;
    let mut said = Vec::new();
    let status = listen(command, SILENT, |line| match line {
        // With -v it names each package that it compiles; all other lines are what is wrong.
        Line::Error(line) if line.contains(' ') => note(&mut said, line),
        Line::Error(_) => {
            compiled += 1;
            progress(Progress::Building { program, compiled, packages });
        }
        Line::Output => {}
    })?;
    if status.is_some_and(|status| status.success()) { Ok(()) } else { Err(refused(program, &said, status.is_none())) }
}

/// How many packages a program is made of. The modules are downloaded for it, if they are not there.
fn packages(go: &Path, source: &Path, program: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<usize> {
    let mut command = command(go, source);
    command.args(["list", "-mod=readonly", "-deps", &format!("./{program}")]);
    let (mut packages, mut modules) = (0, 0);
    let mut said = Vec::new();
    let status = listen(command, SILENT, |line| match line {
        Line::Output => packages += 1,
        Line::Error(line) if line.starts_with("go: downloading ") => {
            modules += 1;
            progress(Progress::Downloading { program, modules });
        }
        Line::Error(line) => note(&mut said, line),
    })?;
    if status.is_some_and(|status| status.success()) { Ok(packages) } else { Err(refused(program, &said, status.is_none())) }
}

/// Keeps the last lines.
fn note(said: &mut Vec<String>, line: String) {
    said.push(line);
    said.drain(..said.len().saturating_sub(20));
}

/// What a program says.
#[derive(Debug)]
enum Line {
    /// On standard output; only that it says something matters.
    Output,
    Error(String),
}

/// Runs a program to its end and passes on what it says; `None` if it said nothing for `silent` and was killed.
fn listen(mut command: Command, silent: Duration, mut heard: impl FnMut(Line)) -> Result<Option<ExitStatus>> {
    let name = Path::new(command.get_program()).to_owned();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(Error::path("starting", &name))?;
    let (sender, lines) = mpsc::channel();
    relay(child.stdout.take(), sender.clone(), |_| Line::Output);
    relay(child.stderr.take(), sender, Line::Error);
    loop {
        match lines.recv_timeout(silent) {
            Ok(line) => heard(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _already_gone = child.kill();
                child.wait().map_err(Error::path("waiting for", &name))?;
                return Ok(None);
            }
        }
    }
    child.wait().map(Some).map_err(Error::path("waiting for", &name))
}

/// Passes on lines from a thread, which ends with the program, or when nobody listens any more.
fn relay(from: Option<impl Read + Send + 'static>, to: Sender<Line>, line: fn(String) -> Line) {
    std::thread::spawn(move || {
        let lines = from.into_iter().flat_map(|from| BufReader::new(from).lines());
        for text in lines.map_while(std::io::Result::ok) {
            if to.send(line(text)).is_err() {
                return;
            }
        }
    });
}

fn command(go: &Path, source: &Path) -> Command {
    let mut command = Command::new(go);
    // What a user set for modules of their own must not change this build. A Go from 1.21 on that is older than go.mod asks for fetches
    // that one from the module index.
    command.current_dir(source).env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOWORK", "off").env("GOTOOLCHAIN", "auto");
    command.stdin(Stdio::null());
    command
}

fn refused(program: &str, said: &[String], silent: bool) -> Error {
    let end = said.iter().rev().take(12).rev().map(String::as_str).collect::<Vec<_>>().join("\n  ");
    let hung =
        if silent { format!("\n  Go said nothing for {} minutes and was stopped", SILENT.as_secs() / 60) } else { String::new() };
    let what = format!("{program} cannot be built from its Go module\n  {end}{hung}");
    let signs = ["requires go >=", "invalid go version", "toolchain not available", "go: download go1."];
    let old = said.iter().any(|line| signs.iter().any(|sign| line.contains(sign)));
    let remedy = if old {
        format!("install Go {} or later and put it before the other one in PATH", wanted_go())
    } else {
        "the module index of Go must be in reach (`go env GOPROXY`), with 3 GB of memory and 4 GB of disk; what was compiled is kept, so run it again"
            .to_owned()
    };
    Error::Missing { what, remedy }
}

fn wanted_go() -> &'static str {
    SOURCES[0].1.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1.26")
}

/// Removes what other versions left. Best effort: it is only disk.
fn remove_unused(cache: &Path, current: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && path != current) {
        let used = fs::metadata(path.join(BUILT[0])).and_then(|program| program.accessed()).unwrap_or(SystemTime::UNIX_EPOCH);
        if used.elapsed().is_ok_and(|age| age > UNUSED) {
            let _best_effort = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_that_is_too_old_is_told_from_a_build_that_failed() {
        let said = |line: &str| refused("kube", &[line.to_owned()], false).to_string();
        let old = said("go: go.mod requires go >= 1.26.0 (running go 1.22.1; GOTOOLCHAIN=local)");
        assert!(old.contains(&format!("install Go {}", wanted_go())), "{old}");
        assert!(said("go: download go1.26.0 for linux/amd64: toolchain not available").contains("install Go"));
        assert!(said("dial tcp: lookup proxy: no such host").contains("GOPROXY"));
        assert!(refused("kube", &[], true).to_string().contains("said nothing for 10 minutes"));
    }

    #[test]
    fn what_a_program_says_is_passed_on_and_one_that_hangs_is_stopped() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::null());
            command
        };
        let mut said = Vec::new();
        let patience = Duration::from_secs(60);
        let status = listen(shell("echo one; echo two >&2; exit 3"), patience, |line| said.push(format!("{line:?}"))).unwrap();
        said.sort();
        assert_eq!(said, ["Error(\"two\")", "Output"]);
        assert_eq!(status.and_then(|status| status.code()), Some(3));
        let began = std::time::Instant::now();
        assert!(listen(shell("exec sleep 1000"), Duration::from_millis(100), drop).unwrap().is_none());
        assert!(began.elapsed() < patience, "it was waited for");
    }
}
