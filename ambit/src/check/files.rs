//! `ambit check FILE...`: files by the rules of the control plane.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use istiod_lite::source::{Problem, Severity, check};
use serde_json::json;

use crate::error::{Error, Result};

/// No larger file is read, as by the control plane.
const MOST: u64 = 16 << 20;

/// Checks the files and prints what was found; whether they can be in force.
pub(super) fn check(given: &[PathBuf], as_json: bool) -> Result<bool> {
    let mut files = Vec::new();
    for path in given {
        if path.as_os_str() == "-" {
            files.push((PathBuf::from("(standard input)"), bounded(std::io::stdin(), path)?));
        } else {
            gather(path, true, &mut files)?;
        }
    }
    let checked = check::check(&files);
    let (errors, warnings): (Vec<&Problem>, Vec<&Problem>) = checked.problems.iter().partition(|problem| problem.is_error());
    if as_json {
        let answer = json!({ "files": files.len(), "objects": checked.objects, "problems": checked.problems });
        println!("{answer:#}");
    } else {
        for problem in &checked.problems {
            let level = if problem.severity == Severity::Error { "error" } else { "warning" };
            println!("{level}: {problem}");
        }
        println!(
            "{} files, {} objects of the mesh: {} errors, {} warnings",
            files.len(),
            checked.objects,
            errors.len(),
            warnings.len()
        );
    }
    Ok(errors.is_empty())
}

/// Reads a file, or those below a directory: what ends with `.yaml` or `.yml` and does not begin with a dot.
fn gather(path: &Path, named: bool, files: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let failed = |cause| Error::path("reading", path, cause);
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        let entries = fs::read_dir(path).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        for below in paths {
            let name = below.file_name().and_then(|name| name.to_str()).unwrap_or(".");
            // Links to directories could lead in circles.
            let circle = below.is_symlink() && below.is_dir();
            if !name.starts_with('.') && !circle {
                gather(&below, false, files)?;
            }
        }
    } else if named || path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
        let file = fs::File::open(path).map_err(failed)?;
        files.push((path.to_owned(), bounded(file, path)?));
    }
    Ok(())
}

fn bounded(from: impl Read, path: &Path) -> Result<String> {
    let failed = |cause| Error::path("reading", path, cause);
    let mut text = String::new();
    let read = from.take(MOST + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > MOST {
        return Err(failed(std::io::Error::other(format!("it is larger than {} MiB", MOST >> 20))));
    }
    Ok(text)
}
