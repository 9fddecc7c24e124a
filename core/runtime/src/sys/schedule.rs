//! When the calling thread runs where others want the processor too.

use std::{io, time::Duration};

use nix::libc;

/// The shortest that the kernel takes. How long a thread runs before others of its kind is also how soon it is next after it wakes: one with a
/// shorter slice takes the place of one with a longer. Kernels before 6.12 have one slice for all, and take no notice.
const SHORT: Duration = Duration::from_micros(100);
/// How much nicer than the others a thread is that others go before: it gets a third of what it would, where it would take it from them.
const NICER: i32 = 5;
const NICEST: i32 = 19;

/// `struct sched_attr` as it was first (`linux/sched/types.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of the policies of this module: the slice, 0 for the one that all have.
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Has the calling thread run as soon as it wakes, unless it has had more than its share already; or as all others do.
///
/// # Errors
/// When the kernel, or a filter of system calls, does not let it.
pub fn run_soon(soon: bool) -> io::Result<()> {
    change(|attributes| attributes.runtime = if soon { nanos(SHORT) } else { 0 })
}

/// Has other threads run before the calling one when they wake. It takes nobody's place when it wakes itself. For good: a thread may not
/// become less nice.
///
/// # Errors
/// As for [`run_soon`].
pub fn run_behind() -> io::Result<()> {
    change(|attributes| {
        attributes.policy = u32::try_from(libc::SCHED_BATCH).unwrap_or_default();
        attributes.nice = (attributes.nice + NICER).min(NICEST);
        // So that others wait the less for it to end.
        attributes.runtime = nanos(SHORT);
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn change(change: impl FnOnce(&mut Attributes)) -> io::Result<()> {
    let mut attributes = now()?;
    change(&mut attributes);
    // SAFETY: the kernel reads a live structure of the size that it names. 0 is the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn now() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    let size = u32::try_from(size_of::<Attributes>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size` bytes to a live structure that is as large.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = size;
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_soon_or_as_the_others_and_stays_as_nice_as_it_was() {
        let before = now().unwrap();
        for soon in [true, false] {
            run_soon(soon).unwrap();
            let after = now().unwrap();
            assert_eq!((after.policy, after.nice), (before.policy, before.nice));
            // Kernels that know of no slices tell of none.
            assert!(after.runtime == 0 || (after.runtime == nanos(SHORT)) == soon, "{after:?}");
        }
    }

    #[test]
    fn others_go_before_a_thread_and_its_own_process_is_as_it_was() {
        let before = now().unwrap();
        let behind = std::thread::spawn(|| {
            run_behind().unwrap();
            now().unwrap()
        });
        let behind = behind.join().unwrap();
        assert_eq!(behind.policy, u32::try_from(libc::SCHED_BATCH).unwrap());
        assert_eq!(behind.nice, (before.nice + NICER).min(NICEST));
        let after = now().unwrap();
        assert_eq!((after.policy, after.nice), (before.policy, before.nice));
    }
}
