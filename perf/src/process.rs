//! What the proxies' processes used, read from the kernel.

use std::{fs, io};

/// CPU time of a process so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// Seconds in the program.
    pub user: f64,
    /// Seconds in the kernel for it.
    pub system: f64,
}

impl Cpu {
    /// Both together.
    #[must_use]
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

/// CPU time of the process so far, all its threads included (`/proc/<pid>/stat`, fields 14 and 15).
///
/// # Errors
/// When there is no such process.
pub fn cpu(pid: u32) -> io::Result<Cpu> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_ascii_whitespace().skip(11).map(|field| field.parse::<f64>().unwrap_or(0.0));
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.map_or(100.0, |ticks| ticks as f64);
    Ok(Cpu { user: fields.next().unwrap_or(0.0) / ticks, system: fields.next().unwrap_or(0.0) / ticks })
}

/// CPU-seconds of several processes so far; one that has ended counts as nothing.
#[must_use]
pub fn cpu_of(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| cpu(*pid).ok()).map(Cpu::total).sum()
}

/// Resident memory in bytes, each shared page divided among its users (PSS, `/proc/<pid>/smaps_rollup`).
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0);
    Ok(kilobytes * 1024)
}

/// Memory of several processes in MB.
#[must_use]
pub fn memory_of(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| memory(*pid).ok()).sum::<u64>() as f64 / 1e6
}

/// CPU-seconds of the whole machine so far that were not idle (`/proc/stat`, first line).
///
/// # Errors
/// When the kernel does not say.
pub fn machine_busy() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal: what other guests took is not ours to count.
    let busy: f64 = fields.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 7..)).map(|(_, ticks)| ticks).sum();
    Ok(busy / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_processor_and_memory() {
        let before = cpu(std::process::id()).unwrap().total();
        let until = std::time::Instant::now() + std::time::Duration::from_millis(60);
        while std::time::Instant::now() < until {}
        assert!(cpu(std::process::id()).unwrap().total() > before);
        assert!(memory(std::process::id()).unwrap() > 100_000);
        assert!(machine_busy().unwrap() > 0.0);
    }
}
