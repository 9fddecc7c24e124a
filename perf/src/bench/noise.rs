//! How much of the machine others used meanwhile.

use std::{fs, io, time::Instant};

use crate::process;

/// How often a sample is taken again at most.
const AGAIN: usize = 2;

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
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let (all, ours) = (machine_busy()? - self.busy, bed() - self.bed + ended);
        Ok(share(all, ours, self.began.elapsed().as_secs_f64() * cores))
    }
}

/// The share of `there_is`, the seconds of all processors, that others used when all together used `all` of them and the bed `ours`.
/// The kernel counts both in ticks of its own, so a quiet machine may come out below nothing.
fn share(all: f64, ours: f64, there_is: f64) -> f64 {
    ((all - ours) / there_is).max(0.0)
}

/// The quietest of up to three of what `measure` gives with the share of the machine that others used meanwhile; that share; and how often
/// it was measured again, which it is while even the quietest has more noise than `limit`.
pub(super) async fn quietest<T>(
    limit: f64,
    mut measure: impl AsyncFnMut() -> anyhow::Result<(T, f64)>,
) -> anyhow::Result<(T, f64, usize)> {
    let (mut best, mut least) = measure().await?;
    let mut again = 0;
    while least > limit && again < AGAIN {
        again += 1;
        let (measured, noise) = measure().await?;
        if noise < least {
            (best, least) = (measured, noise);
        }
    }
    Ok((best, least, again))
}

/// CPU-seconds so far of every process of the bed that runs: its `/proc` has no others.
fn bed() -> f64 {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    pids.filter_map(|pid| process::cpu(pid).ok()).flatten().sum()
}

fn machine_busy() -> io::Result<f64> {
    busy(&fs::read_to_string("/proc/stat")?).ok_or_else(|| io::Error::other("/proc/stat does not say what the machine does"))
}

/// CPU-seconds of the whole machine so far that were not idle: the first line of `/proc/stat` (proc(5)), which begins with `cpu`.
fn busy(stat: &str) -> Option<f64> {
    let mut fields = stat.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let ticks: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    // user nice system idle iowait irq softirq steal guest guest_nice: what other guests of the host took is not ours to count, and what
    // guests of this machine took is in the first two already.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = *ticks.as_slice() else { return None };
    Some((user + nice + system + irq + softirq) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bed_used_is_no_noise_and_what_is_left_is() {
        // Half a second of two processors.
        assert_eq!(share(0.75, 0.25, 1.0), 0.5);
        assert_eq!(share(0.75, 0.75, 1.0), 0.0);
        assert_eq!(share(0.75, 0.76, 1.0), 0.0, "ticks that were counted twice");
        assert_eq!(share(0.75, 0.25, 2.0), 0.25, "of a machine with more of them");
    }

    #[test]
    fn the_machine_is_busy_with_all_but_idle_waiting_and_what_its_host_took() {
        let stat = |line: &str| busy(&format!("{line}\ncpu0 9 9 9 9 9 9 9 9 9 9\nintr 1\n"));
        assert_eq!(stat("cpu  100 20 300 40000 5000 6 74 800 90 10"), Some(5.0));
        assert_eq!(stat("cpu  100 20 300 99999 99999 6 74 99999 90 10"), Some(5.0));
        for (field, line) in
            ["200 0 0 0 0 0 0", "0 200 0 0 0 0 0", "0 0 200 0 0 0 0", "0 0 0 0 0 200 0", "0 0 0 0 0 0 200"].iter().enumerate()
        {
            assert_eq!(stat(&format!("cpu  {line}")), Some(2.0), "field {field}");
        }
        for line in ["cpu  1 2 3", "cpu  1 2 x 4 5 6 7 8", "cpu0 1 2 3 4 5 6 7 8", ""] {
            assert_eq!(stat(line), None, "{line}");
        }
        assert!(machine_busy().unwrap() > 0.0);
    }

    /// Which of the fed samples counts, its noise, and how often it was measured again. All that are fed are taken.
    async fn check(fed: &[f64], expected: (usize, f64, usize)) {
        let mut samples = fed.iter().copied().enumerate();
        let found = quietest(0.1, async || anyhow::Ok(samples.next().unwrap())).await.unwrap();
        assert_eq!(found, expected, "{fed:?}");
        assert_eq!(samples.next(), None, "{fed:?}");
    }

    #[tokio::test]
    async fn a_noisy_sample_is_taken_again_up_to_twice_and_the_quietest_counts() {
        check(&[0.01], (0, 0.01, 0)).await;
        check(&[0.1], (0, 0.1, 0)).await;
        check(&[0.3, 0.05], (1, 0.05, 1)).await;
        check(&[0.3, 0.2, 0.25], (1, 0.2, 2)).await;
        check(&[0.3, 0.4, 0.5], (0, 0.3, 2)).await;
        check(&[0.3, 0.2, 0.05], (2, 0.05, 2)).await;
    }

    #[tokio::test]
    async fn a_sample_that_fails_when_taken_again_fails() {
        let mut samples = [Ok((1, 0.5)), Err(anyhow::anyhow!("the load ended"))].into_iter();
        let failed = quietest(0.1, async || samples.next().unwrap()).await.unwrap_err();
        assert_eq!(failed.to_string(), "the load ended");
    }
}
