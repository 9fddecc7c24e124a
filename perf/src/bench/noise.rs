//! How much of the machine others used meanwhile.

use std::{fs, io, time::Instant};

use crate::process;

/// A look at the machine when a sample begins.
#[derive(Debug)]
pub struct Noise {
    began: Instant,
    busy: f64,
    bed: f64,
}

impl Noise {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the kernel does not say what the machine does.
    pub fn begin() -> io::Result<Self> {
        Ok(Self { began: Instant::now(), busy: machine_busy()?, bed: bed() })
    }

    /// The share of the machine's time since the beginning that processes outside of the bed used. `ended` is the CPU time of
    /// those inside of it that have ended meanwhile and so cannot be asked.
    ///
    /// # Errors
    /// When the kernel does not say what the machine does.
    pub fn others(&self, ended: f64) -> io::Result<f64> {
        let others = (machine_busy()? - self.busy) - (bed() - self.bed) - ended;
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        Ok((others / self.began.elapsed().as_secs_f64() / cores).max(0.0))
    }
}

/// CPU-seconds so far of every process of the bed that runs: its `/proc` has no others.
fn bed() -> f64 {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    pids.filter_map(|pid| process::cpu(pid).ok()).flatten().sum()
}

/// CPU-seconds of the whole machine so far that were not idle (`/proc/stat`, first line).
fn machine_busy() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    let fields = first.split_ascii_whitespace().skip(1).filter_map(|field| field.parse::<f64>().ok());
    // user nice system idle iowait irq softirq steal: what other guests took is not ours to count.
    let busy: f64 = fields.enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 7..)).map(|(_, ticks)| ticks).sum();
    Ok(busy / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_is_told_of_is_no_noise() {
        let watch = Noise::begin().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(watch.others(1000.0).unwrap() < 0.001);
        assert!(watch.others(-10.0).unwrap() > 0.5);
    }
}
