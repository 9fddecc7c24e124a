//! How much processor time the process has used, and how much each of its threads.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;

/// In the kernel's numbers of clocks: one thread's (4), and its time on the processor (2).
const ON_PROCESSOR_OF_THREAD: i32 = 4 | 2;

/// The processor-time clock of one thread of this process.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(ClockId);

impl ThreadClock {
    /// That of the calling thread.
    #[must_use]
    pub fn current() -> Self {
        // As pthread_getcpuclockid(3) puts it together: the complement of the thread's number above three bits that say which clock.
        Self(ClockId::from_raw((!gettid().as_raw() << 3) | ON_PROCESSOR_OF_THREAD))
    }

    /// The time that the thread has been on a processor so far; nothing when it has ended.
    #[must_use]
    pub fn used(self) -> Option<Duration> {
        clock_gettime(self.0).ok().map(Duration::from)
    }
}

/// The time that all threads of this process together have been on a processor so far.
#[must_use]
pub fn process_used() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_time_of_a_thread_rises_with_its_work_and_is_read_from_another() {
        let (tell, told) = channel();
        let (go, wait) = channel::<()>();
        let busy = std::thread::spawn(move || {
            tell.send(ThreadClock::current()).unwrap();
            let until = std::time::Instant::now() + Duration::from_millis(50);
            while std::time::Instant::now() < until {}
            tell.send(ThreadClock::current()).unwrap();
            wait.recv().unwrap_err();
        });
        let clock = told.recv().unwrap();
        let before = clock.used().unwrap();
        told.recv().unwrap();
        let after = clock.used().unwrap();
        assert!(after - before > Duration::from_millis(5), "{before:?} {after:?}");
        drop(go);
        busy.join().unwrap();
        assert!(ThreadClock::current().used().unwrap() > Duration::ZERO);
        assert!(process_used() >= after);
    }
}
