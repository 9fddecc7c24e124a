//! What the threads of this process do: samples of their registers and stacks, taken by a timer of the processor time that they use.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::libc;

/// General registers of this architecture, in the numbering of DWARF.
pub const REGISTERS: usize = 32;
/// The stack pointer among them (System V ABI of x86-64, figure 3.36; DWARF for the Arm 64-bit architecture, section 4.1).
pub const STACK_POINTER: u16 = if cfg!(target_arch = "x86_64") { 7 } else { 31 };
/// Bytes of a stack that are kept, from the end that is in use.
const STACK: usize = 64 << 10;
/// Samples that wait to be taken out; more are lost.
const SLOTS: usize = 128;
/// Slots that a sample looks at for a free one.
const TRIES: usize = 8;
/// Parts in which a stack is read, each within a page.
const PARTS: usize = STACK / PAGE + 1;
const PAGE: usize = 4096;

/// What one thread did at one time.
pub struct Sample {
    /// Where it was.
    pub pc: u64,
    /// Its general registers.
    pub registers: [u64; REGISTERS],
    length: usize,
    stack: [u8; STACK],
}

impl Sample {
    /// The end of its stack that is in use, from the stack pointer upwards.
    #[must_use]
    pub fn stack(&self) -> &[u8] {
        self.stack.get(..self.length).unwrap_or_default()
    }
}

const FREE: u8 = 0;
const WRITTEN: u8 = 1;
const READY: u8 = 2;

struct Slot {
    /// Who may touch the sample: nobody, the handler that wrote this, or who takes samples out.
    state: AtomicU8,
    sample: UnsafeCell<Sample>,
}

struct Ring {
    slots: Vec<Slot>,
    next: AtomicUsize,
    lost: AtomicU64,
}

/// Where samples go; null when none are taken.
static RING: AtomicPtr<Ring> = AtomicPtr::new(ptr::null_mut());
/// Handlers that may use it now.
static HANDLERS: AtomicUsize = AtomicUsize::new(0);

/// Takes samples until it is dropped. There is one at a time.
pub struct Sampler(&'static Ring);

// SAFETY: a sample is touched only by who has changed the state of its slot to what allows it.
unsafe impl Sync for Ring {}

impl Sampler {
    /// Takes a sample of whoever runs, each time that the process has used `period` of processor time.
    ///
    /// # Errors
    /// `ResourceBusy` when samples are taken already; or the timer or the signal cannot be had.
    pub fn start(period: Duration) -> io::Result<Self> {
        let slots = (0..SLOTS).map(|_| Slot {
            state: AtomicU8::new(FREE),
            // SAFETY: a sample is nothing but numbers, for which zero is a value.
            sample: unsafe { MaybeUninit::zeroed().assume_init() },
        });
        let ring = Box::into_raw(Box::new(Ring { slots: slots.collect(), next: AtomicUsize::new(0), lost: AtomicU64::new(0) }));
        if RING.compare_exchange(ptr::null_mut(), ring, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(ring) });
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // SAFETY: it is freed only when the sampler is dropped.
        let sampler = Self(unsafe { &*ring });
        install()?;
        set_timer(period)?;
        Ok(sampler)
    }

    /// Has `each` see the samples that are there, and makes room for others.
    pub fn take(&mut self, mut each: impl FnMut(&Sample)) {
        for slot in &self.0.slots {
            if slot.state.load(Ordering::Acquire) == READY {
                // SAFETY: a handler has left it, and none touches it before it is free.
                each(unsafe { &*slot.sample.get() });
                slot.state.store(FREE, Ordering::Release);
            }
        }
    }

    /// Samples for which there was no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // The handler stays: a signal that comes late would end the process without it.
        let _best_effort = set_timer(Duration::ZERO);
        let ring = RING.swap(ptr::null_mut(), Ordering::SeqCst);
        while HANDLERS.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        // SAFETY: it was made by `start`; no handler has it, and no other can get it.
        drop(unsafe { Box::from_raw(ring) });
    }
}

fn install() -> io::Result<()> {
    // SAFETY: plain data for the call, all of it set.
    let done = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGPROF, &raw const action, ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_timer(period: Duration) -> io::Result<()> {
    /// `ITIMER_PROF` of `sys/time.h`.
    const PROCESSOR_TIME: libc::c_int = 2;
    let every = libc::timeval { tv_sec: 0, tv_usec: libc::suseconds_t::from(period.subsec_micros()) };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the kernel reads the timer and writes nothing.
    let done =
        unsafe { libc::syscall(libc::SYS_setitimer, PROCESSOR_TIME, &raw const timer, ptr::null_mut::<libc::itimerval>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs on the thread that was interrupted, wherever that was: it takes no lock, allocates nothing, and leaves `errno` as it was.
extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    HANDLERS.fetch_add(1, Ordering::SeqCst);
    let ring = RING.load(Ordering::SeqCst);
    if !ring.is_null() {
        // SAFETY: it is not freed while a handler is counted that may have it. The kernel passes the context.
        unsafe { keep(&*ring, &*context.cast::<libc::ucontext_t>()) };
    }
    HANDLERS.fetch_sub(1, Ordering::SeqCst);
}

fn keep(ring: &Ring, context: &libc::ucontext_t) {
    let first = ring.next.fetch_add(1, Ordering::Relaxed);
    for slot in (0..TRIES).filter_map(|number| ring.slots.get((first + number) % SLOTS)) {
        if slot.state.compare_exchange(FREE, WRITTEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            // SAFETY: the state says that it is ours.
            let sample = unsafe { &mut *slot.sample.get() };
            read_registers(context, sample);
            let from = sample.registers.get(usize::from(STACK_POINTER)).copied().unwrap_or_default();
            sample.length = read_stack(from, &mut sample.stack);
            slot.state.store(READY, Ordering::Release);
            return;
        }
    }
    ring.lost.fetch_add(1, Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")]
fn read_registers(context: &libc::ucontext_t, sample: &mut Sample) {
    use libc::{
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI,
        REG_RDX, REG_RIP, REG_RSI, REG_RSP,
    };
    const ORDER: [libc::c_int; 16] = [
        REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12,
        REG_R13, REG_R14, REG_R15,
    ];
    let read = |register: libc::c_int| {
        let value = usize::try_from(register).ok().and_then(|number| context.uc_mcontext.gregs.get(number));
        value.copied().unwrap_or_default().cast_unsigned()
    };
    for (register, kept) in ORDER.into_iter().zip(&mut sample.registers) {
        *kept = read(register);
    }
    sample.pc = read(REG_RIP);
}

#[cfg(target_arch = "aarch64")]
fn read_registers(context: &libc::ucontext_t, sample: &mut Sample) {
    let machine = &context.uc_mcontext;
    for (value, kept) in machine.regs.iter().chain([&machine.sp]).zip(&mut sample.registers) {
        *kept = *value;
    }
    sample.pc = machine.pc;
}

/// Reads this process's memory from `from` on, as far as there is some; returns how much. The kernel reads, so that an address that
/// leads nowhere is no fault.
fn read_stack(from: u64, to: &mut [u8; STACK]) -> usize {
    let Ok(from) = usize::try_from(from) else { return 0 };
    let into = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: STACK };
    let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PARTS];
    let (mut at, mut left) = (from, STACK);
    for part in &mut parts {
        let length = (PAGE - at % PAGE).min(left);
        *part = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: length };
        at = at.saturating_add(length);
        left -= length;
    }
    // SAFETY: `errno` is the thread's own. The kernel writes at most `STACK` bytes to `to`, and checks all it reads from.
    let read = unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let this = libc::c_long::from(libc::getpid());
        let read = libc::syscall(libc::SYS_process_vm_readv, this, &raw const into, 1_usize, parts.as_ptr(), PARTS, 0_usize);
        *errno = before;
        read
    };
    usize::try_from(read).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn whoever_runs_is_sampled_with_the_stack_in_use() {
        let marker = [0x5eed_5eed_5eed_5eed_u64; 8];
        let mut sampler = Sampler::start(Duration::from_millis(1)).unwrap();
        assert_eq!(Sampler::start(Duration::from_millis(1)).err().unwrap().kind(), io::ErrorKind::ResourceBusy);
        let (mut samples, mut found) = (0, false);
        let until = Instant::now() + Duration::from_secs(20);
        let bytes = marker[0].to_ne_bytes();
        while Instant::now() < until && !found {
            std::hint::black_box(&marker);
            sampler.take(|sample| {
                samples += 1;
                assert!(sample.pc != 0 && !sample.stack().is_empty());
                found |= sample.stack().chunks_exact(8).filter(|word| *word == bytes).count() >= 8;
            });
        }
        assert!(found, "{samples} samples, {} lost, none of this thread", sampler.lost());
        drop(sampler);
        drop(Sampler::start(Duration::from_millis(1)).unwrap());
    }

    #[test]
    fn memory_that_is_not_there_is_not_read() {
        let mut into = Box::new([0; STACK]);
        assert_eq!(read_stack(8, &mut into), 0);
        assert_eq!(read_stack(u64::MAX - 100, &mut into), 0);
        assert_eq!(read_stack(into.as_ptr().addr() as u64, &mut Box::new([0; STACK])), STACK);
    }
}
