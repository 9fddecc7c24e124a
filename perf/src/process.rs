//! What processes used, read from the kernel.

use std::{fs, io, ops::Sub};

/// What a process used so far, or between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// CPU-seconds in the program.
    pub user: f64,
    /// CPU-seconds in the kernel for it.
    pub system: f64,
    /// Times that one of its threads gave the processor up or lost it.
    pub switches: f64,
}

impl Used {
    /// CPU-seconds in all.
    #[must_use]
    pub fn cpu(self) -> f64 {
        self.user + self.system
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system, switches: self.switches - before.switches }
    }
}

/// What the process used so far, all its threads included; one that has ended used nothing.
#[must_use]
pub fn used(pid: u32) -> Used {
    let [user, system] = cpu(pid).unwrap_or_default();
    Used { user, system, switches: switches(pid) }
}

/// CPU-seconds of the process so far, in the program and in the kernel (`/proc/<pid>/stat`, fields 14 and 15).
///
/// # Errors
/// When there is no such process.
pub fn cpu(pid: u32) -> io::Result<[f64; 2]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_ascii_whitespace().skip(11).map(|field| field.parse::<f64>().unwrap_or(0.0));
    let ticks = ticks()?;
    Ok([fields.next().unwrap_or(0.0) / ticks, fields.next().unwrap_or(0.0) / ticks])
}

/// CPU-seconds of the children of this process that have ended and been waited for (`/proc/self/stat`, fields 16 and 17).
///
/// # Errors
/// When the kernel does not say.
pub fn children_cpu() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after_name.split_ascii_whitespace().skip(13).take(2).filter_map(|field| field.parse::<f64>().ok());
    Ok(fields.sum::<f64>() / ticks()?)
}

fn ticks() -> io::Result<f64> {
    Ok(nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.map_or(100.0, |ticks| ticks as f64))
}

/// Context switches of all threads that live, voluntary or not.
fn switches(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .map(|status| field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:"))
        .sum()
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> f64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// What a process has resident, in MB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// Each shared page divided among its users (PSS).
    pub pss: f64,
    /// Each shared page counted in full (RSS).
    pub rss: f64,
}

/// What the process has resident now (`/proc/<pid>/smaps_rollup`); one that has ended has nothing.
#[must_use]
pub fn memory(pid: u32) -> Memory {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Memory { pss: field(&rollup, "Pss:") * 1024.0 / 1e6, rss: field(&rollup, "Rss:") * 1024.0 / 1e6 }
}

/// What the process has resident that is no file's, in MB: what it has allocated, and not the pages of its program.
#[must_use]
pub fn anonymous(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    field(&rollup, "Anonymous:") * 1024.0 / 1e6
}

/// Memory of several processes together, in MB (PSS).
#[must_use]
pub fn memory_of(pids: impl Iterator<Item = u32>) -> f64 {
    pids.map(|pid| memory(pid).pss).sum()
}

/// The most that the process had resident since the start or [`forget_peak`], in MB (RSS).
#[must_use]
pub fn peak(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "VmHWM:") * 1024.0 / 1e6
}

/// Begins a new peak (proc(5), `clear_refs`).
///
/// # Errors
/// When the kernel does not allow it.
pub fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// Seconds of processor time that everybody but these processes used so far, the kernel's own threads left out, to the nanosecond; and those for
/// which the machine's host gave its processors to others.
///
/// # Errors
/// When the kernel does not say so.
pub fn others(these: &[u32]) -> io::Result<f64> {
    let all = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let used: f64 = all.filter(|pid| !these.contains(pid) && has_program(*pid)).filter_map(|pid| ran(pid).ok()).sum();
    let stat = fs::read_to_string("/proc/stat")?;
    let stolen = stat.lines().next().and_then(|all| all.split_ascii_whitespace().nth(8)?.parse::<f64>().ok());
    Ok(used + stolen.ok_or_else(|| io::Error::other("/proc/stat tells no steal"))? / 100.0)
}

/// Whether a process is none of the kernel's threads.
fn has_program(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Seconds that the threads of a process ran (`schedstat` of each, first field, nanoseconds).
fn ran(pid: u32) -> io::Result<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let of_thread = |path: std::path::PathBuf| {
        let told = fs::read_to_string(path.join("schedstat")).ok()?;
        told.split_ascii_whitespace().next()?.parse::<f64>().ok()
    };
    Ok(threads.filter_map(|thread| of_thread(thread.path())).sum::<f64>() / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_processor_and_memory() {
        let pid = std::process::id();
        let before = used(pid);
        let until = std::time::Instant::now() + std::time::Duration::from_millis(60);
        while std::time::Instant::now() < until {}
        std::thread::sleep(std::time::Duration::from_millis(1));
        let during = used(pid) - before;
        assert!(during.cpu() > 0.0 && during.switches >= 0.0, "{during:?}");
        let Memory { pss, rss } = memory(pid);
        assert!(pss > 0.1 && rss >= pss && peak(pid) > 0.1 && anonymous(pid) > 0.1);
    }

    #[test]
    fn a_process_that_has_ended_used_nothing() {
        assert_eq!((used(u32::MAX), memory(u32::MAX)), (Used::default(), Memory::default()));
    }
}
