//! What a process uses, from /proc (proc(5)).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::Error;

/// Memory and processor time of a process, or of several added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Resident memory, bytes, pages shared with others counted in full.
    pub rss_bytes: u64,
    /// Resident memory, bytes, shared pages divided among those who share them.
    pub pss_bytes: u64,
    /// Processor time in user and kernel mode so far, seconds (resolution 10 ms).
    pub cpu_seconds: f64,
    /// Threads now.
    pub threads: u64,
}

pub(super) fn of(pid: u32) -> Result<Usage, Error> {
    read(pid).map_err(Error::io(format!("read the usage of process {pid}")))
}

pub(super) fn of_tree(root: u32) -> Result<Usage, Error> {
    let mut total = of(root)?;
    let children = children().map_err(Error::io("list the processes"))?;
    let mut waiting = vec![root];
    while let Some(parent) = waiting.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            waiting.push(*child);
            // One that has just ended uses nothing.
            let usage = read(*child).unwrap_or_default();
            total.rss_bytes += usage.rss_bytes;
            total.pss_bytes += usage.pss_bytes;
            total.cpu_seconds += usage.cpu_seconds;
            total.threads += usage.threads;
        }
    }
    Ok(total)
}

fn children() -> io::Result<HashMap<u32, Vec<u32>>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    Ok(children)
}

fn read(pid: u32) -> io::Result<Usage> {
    let stat = Stat::read(pid)?;
    let memory = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
    let kib = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(Usage {
        rss_bytes: kib("Rss:") * 1024,
        pss_bytes: kib("Pss:") * 1024,
        cpu_seconds: stat.ticks as f64 / TICKS_PER_SECOND,
        threads: stat.threads,
    })
}

/// USER_HZ, which is 100 on every architecture Linux exposes it on here (x86-64, arm64).
const TICKS_PER_SECOND: f64 = 100.0;

struct Stat {
    parent: u32,
    ticks: u64,
    threads: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text}")))
    }

    /// The second field is the name in parentheses and may contain anything, so count from the last parenthesis.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self { parent: u32::try_from(number(4)?).ok()?, ticks: number(14)? + number(15)?, threads: number(20)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_any_name() {
        let line = "42 (a) b) (c) S 7 42 42 0 -1 4194560 1 0 0 0 11 22 0 0 20 0 5 0 100 1000 10";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.threads), (7, 33, 5));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.pss_bytes > 0 && usage.threads > 0, "{usage:?}");
    }
}
