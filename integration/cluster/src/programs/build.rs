//! Building the programs, once, whoever needs them first.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
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
    let packages = packages(go, source, program)?;
    let mut command = command(go, source);
    command.args(["build", "-v"]).args(FLAGS).arg("-o").arg(partial.join(program)).arg(format!("./{program}"));
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(Error::path("starting", go))?;
    let mut compiled = 0;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // With -v it names each package that it compiles; all other lines are what is wrong.
        for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
            if line.contains(' ') {
                said.push(line);
                said.drain(..said.len().saturating_sub(20));
            } else {
                compiled += 1;
                progress(Progress::Building { program, compiled, packages });
            }
        }
    }
    let status = child.wait().map_err(Error::path("waiting for", go))?;
    if status.success() { Ok(()) } else { Err(refused(program, &said)) }
}

/// How many packages a program is made of. The modules are downloaded for it, if they are not there.
fn packages(go: &Path, source: &Path, program: &str) -> Result<usize> {
    let mut command = command(go, source);
    command.args(["list", "-mod=readonly", "-deps", &format!("./{program}")]).stdout(Stdio::piped());
    let listed = command.output().map_err(Error::path("starting", go))?;
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>();
    if !listed.status.success() {
        return Err(refused(program, &lines(&listed.stderr)));
    }
    Ok(lines(&listed.stdout).len())
}

fn command(go: &Path, source: &Path) -> Command {
    let mut command = Command::new(go);
    // What a user set for modules of their own must not change this build.
    command.current_dir(source).env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOWORK", "off");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn refused(program: &str, said: &[String]) -> Error {
    let end = said.iter().rev().take(12).rev().map(String::as_str).collect::<Vec<_>>().join("\n  ");
    let what = format!("{program} cannot be built from its Go module\n  {end}");
    let old = said.iter().any(|line| line.contains("requires go >=") || line.contains("invalid go version"));
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
        let said = |line: &str| refused("kube", &[line.to_owned()]).to_string();
        let old = said("go: go.mod requires go >= 1.26.0 (running go 1.22.1; GOTOOLCHAIN=local)");
        assert!(old.contains(&format!("install Go {}", wanted_go())), "{old}");
        assert!(said("dial tcp: lookup proxy: no such host").contains("GOPROXY"));
    }
}
