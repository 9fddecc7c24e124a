//! What is tried with random inputs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use fastrand::Rng;
use nix::time::{ClockId, clock_gettime};

use crate::{Corpus, corpus::hex, mutate::mutant};

/// What one input may take of a processor: far more than it does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Inputs that are tried before the share of those that were read means something.
const ENOUGH: u64 = 2000;

/// How long each target tries: `AMBIT_FUZZ_SECONDS`, two seconds if that is not set.
///
/// # Panics
/// When the variable is no number.
#[must_use]
pub fn time() -> Duration {
    let seconds = std::env::var("AMBIT_FUZZ_SECONDS");
    Duration::from_secs(seconds.map_or(2, |seconds| seconds.parse().expect("AMBIT_FUZZ_SECONDS is a number")))
}

/// How long the calling thread has been on a processor so far: what others do meanwhile does not count.
///
/// # Panics
/// When the system has no such clock.
#[must_use]
pub fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("threads have a clock").into()
}

/// Runs targets at the same time, each on a thread of its own: a test harness has no more threads than there are cores, and each target
/// takes [`time`].
///
/// # Panics
/// When one of them does.
pub fn together(targets: &[fn()]) {
    std::thread::scope(|scope| {
        let running: Vec<_> = targets.iter().map(|target| scope.spawn(target)).collect();
        // All are waited for, so that each says what it found.
        let ended: Vec<_> = running.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        if let Some(panic) = ended.into_iter().find_map(Result::err) {
            resume_unwind(panic);
        }
    });
}

/// A parser, with what it is given.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    corpus: Corpus,
    tokens: Vec<Vec<u8>>,
    longest: usize,
    least_read: f64,
    time: Duration,
}

impl Target {
    /// Inputs like those of `corpus`, of up to 16 KiB, of which one in twenty must be read.
    #[must_use]
    pub fn new(name: &'static str, corpus: Corpus) -> Self {
        Self { name, corpus, tokens: Vec::new(), longest: 16 << 10, least_read: 0.05, time: time() }
    }

    /// With byte strings that mean something in the format.
    #[must_use]
    pub fn tokens<T: AsRef<[u8]>>(mut self, tokens: impl IntoIterator<Item = T>) -> Self {
        self.tokens.extend(tokens.into_iter().map(|token| token.as_ref().to_vec()));
        self
    }

    /// With inputs of up to so many bytes.
    #[must_use]
    pub fn longest(mut self, bytes: usize) -> Self {
        self.longest = bytes;
        self
    }

    /// With another share of inputs, 0 to 1, that must be read: what refuses everything tries nothing.
    #[must_use]
    pub fn least_read(mut self, share: f64) -> Self {
        self.least_read = share;
        self
    }

    /// Tries the corpus as it is, and then inputs that are like it for [`time`]. `check` reads its input, panics when something is wrong
    /// that must not be, and says whether the input was read and not refused. Its dice are the same whenever the input is tried again.
    ///
    /// # Panics
    /// With the panic of `check`, or when an input took too long, after having said with which bytes; or when too few were read.
    pub fn run(&self, check: impl Fn(&[u8], &mut Rng) -> bool) {
        for (what, bytes) in self.corpus.iter() {
            self.attempt(bytes, 0, &check, what);
        }
        let (until, mut dice) = (Instant::now() + self.time, Rng::new());
        let (mut count, mut read) = (0_u64, 0_u64);
        while Instant::now() < until {
            let number = dice.u64(..);
            let bytes = mutant(&self.corpus, &self.tokens, self.longest, &mut Rng::with_seed(number));
            read += u64::from(self.attempt(&bytes, number, &check, "found by chance"));
            count += 1;
        }
        println!("{}: {count} inputs, {read} of them read", self.name);
        let least = count as f64 * self.least_read;
        assert!(count < ENOUGH || read as f64 >= least, "{}: only {read} of {count} inputs were read", self.name);
    }

    /// Whether the input was read.
    fn attempt(&self, bytes: &[u8], number: u64, check: &impl Fn(&[u8], &mut Rng) -> bool, what: &str) -> bool {
        let begun = processor_time();
        // What is checked is made anew for each input.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let read = check(bytes, &mut Rng::with_seed(number));
            let took = processor_time().saturating_sub(begun);
            assert!(took < PATIENCE, "it took {took:?}");
            read
        }));
        outcome.unwrap_or_else(|panic| {
            println!(
                "{}, {} bytes, to be put into its corpus:\n# {what}, number {number}\n{}",
                self.name,
                bytes.len(),
                hex(bytes)
            );
            resume_unwind(panic)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(name: &'static str) -> Target {
        Target { time: Duration::from_secs(2), ..Target::new(name, Corpus::new().with("zeroes", [0; 4])) }
    }

    #[test]
    fn what_panics_with_one_byte_is_found() {
        let target = short("one byte").longest(8);
        let found = catch_unwind(AssertUnwindSafe(|| {
            target.run(|bytes, _| {
                assert!(!bytes.contains(&0xc0), "there it is");
                true
            });
        }));
        assert!(found.is_err());
    }

    #[test]
    fn a_target_that_reads_nothing_fails() {
        let target = short("nothing");
        assert!(catch_unwind(AssertUnwindSafe(|| target.run(|_, _| false))).is_err());
    }
}
