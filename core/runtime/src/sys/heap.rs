//! The allocator of a program whose allocations can be sampled.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc;

/// One of so many bytes that are allocated is sampled, on the average.
pub const RATE: u64 = 512 << 10;
/// Callers that are kept of one allocation.
const DEPTH: usize = 128;
/// Different stacks that are kept; allocations at others are counted together.
const STACKS: usize = 20_000;
/// Places of the filter for what may have been sampled.
const PLACES: usize = 1 << 16;

/// The system's allocator. To be put in force by `#[global_allocator]` in a program; costs one look at a flag for each call as long as
/// nothing is sampled.
#[derive(Debug, Default)]
pub struct SampledAllocator;

/// What was allocated at one place, as far as the samples tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// How many times since sampling began.
    pub objects: u64,
    /// How many bytes since then.
    pub bytes: u64,
    /// How many of them were not freed yet.
    pub held_objects: u64,
    /// How many bytes were not freed yet.
    pub held_bytes: u64,
}

/// Who allocated: the addresses to which calls return, the innermost first.
pub type Stack = Box<[u64]>;

static ON: AtomicBool = AtomicBool::new(false);
/// Which addresses may be those of samples: how many samples are at the addresses of each place. Changed under the lock of [`SAMPLES`], and
/// read without, for whoever frees an address has it from whoever noted it.
static FILTER: [AtomicU8; PLACES] = [const { AtomicU8::new(0) }; PLACES];
static SAMPLES: Mutex<Option<Samples>> = Mutex::new(None);

thread_local! {
    /// Bytes until the next sample.
    static LEFT: Cell<u64> = const { Cell::new(RATE) };
    /// Spreads samples, so that a program that repeats itself is not always sampled at the same place.
    static SPREAD: Cell<u64> = const { Cell::new(1) };
    /// Whether the allocator is at work for itself.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
struct Samples {
    numbers: HashMap<Stack, u32>,
    stacks: Vec<Allocated>,
    /// By address: the stack, objects and bytes that the sample stands for.
    live: HashMap<usize, (u32, u64, u64)>,
    seen: bool,
}

/// Samples allocations until it is dropped. There is one at a time.
pub struct HeapSampler(());

impl HeapSampler {
    /// Begins to sample what is allocated from now on.
    ///
    /// # Errors
    /// `ResourceBusy` when it is sampled already; `Unsupported` when the program has another allocator.
    pub fn start() -> io::Result<Self> {
        let kept = samples();
        if kept.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        quietly(kept, |kept| *kept = Some(Samples::default()));
        ON.store(true, Ordering::SeqCst);
        let sampler = Self(());
        LEFT.set(0);
        drop(std::hint::black_box(Box::new(0_u64)));
        // This one is not for others to see.
        let before = quietly(samples(), |kept| {
            forget_all();
            kept.replace(Samples::default())
        });
        if before.is_some_and(|before| before.seen) { Ok(sampler) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// What was allocated since the start, by who did it.
    #[must_use]
    pub fn read(&self) -> Vec<(Stack, Allocated)> {
        quietly(samples(), |kept| {
            let Some(kept) = kept.as_ref() else { return Vec::new() };
            let of = |number: &u32| kept.stacks.get(*number as usize).copied().unwrap_or_default();
            kept.numbers.iter().map(|(stack, number)| (stack.clone(), of(number))).collect()
        })
    }
}

impl Drop for HeapSampler {
    fn drop(&mut self) {
        ON.store(false, Ordering::SeqCst);
        // The filter is emptied before another can begin to fill it.
        let ended = quietly(samples(), |kept| {
            forget_all();
            kept.take()
        });
        drop(ended);
    }
}

fn samples() -> MutexGuard<'static, Option<Samples>> {
    SAMPLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works with the samples, without sampling what that allocates and frees.
fn quietly<T>(mut kept: MutexGuard<'_, Option<Samples>>, work: impl FnOnce(&mut Option<Samples>) -> T) -> T {
    let before = BUSY.replace(true);
    let done = work(&mut kept);
    drop(kept);
    BUSY.set(before);
    done
}

/// The place of an address in the filter.
fn place(address: usize) -> &'static AtomicU8 {
    // Addresses are multiples of 16; the multiplication spreads the rest over the upper bits (Knuth, section 6.4).
    let place = ((address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) % PLACES;
    &FILTER[place]
}

/// One sample more at an address. A place that has as many as can be counted keeps that for ever, so that none is overlooked.
fn note(address: usize) {
    let count = place(address);
    count.store(count.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
}

/// One sample less at an address.
fn forget(address: usize) {
    let count = place(address);
    let now = count.load(Ordering::Relaxed);
    if (1..u8::MAX).contains(&now) {
        count.store(now - 1, Ordering::Relaxed);
    }
}

fn forget_all() {
    FILTER.iter().for_each(|count| count.store(0, Ordering::Relaxed));
}

/// Notes what was allocated, if it is a sample.
#[inline(never)]
fn allocated(address: *mut u8, size: usize) {
    let (size, left) = (size as u64, LEFT.get());
    if address.is_null() || BUSY.get() {
        return;
    }
    if size < left {
        LEFT.set(left - size);
        return;
    }
    // It stands for all that went by since the last.
    let bytes = size.max(RATE);
    // The generator of Knuth's MMIX.
    SPREAD.set(SPREAD.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    LEFT.set(RATE / 2 + (SPREAD.get() >> 33) % RATE);
    BUSY.set(true);
    let stack = callers();
    BUSY.set(false);
    quietly(samples(), |kept| {
        let Some(kept) = kept.as_mut().filter(|_| ON.load(Ordering::Relaxed)) else { return };
        kept.seen = true;
        let objects = bytes / size.max(1);
        let number = kept.number(stack.as_slice());
        if let Some(all) = kept.stacks.get_mut(number as usize) {
            all.objects += objects;
            all.bytes += bytes;
            all.held_objects += objects;
            all.held_bytes += bytes;
        }
        kept.take_back(address.addr());
        kept.live.insert(address.addr(), (number, objects, bytes));
        note(address.addr());
    });
}

/// Notes that something is freed, if it was a sample.
fn freed(address: *mut u8) {
    if place(address.addr()).load(Ordering::Relaxed) == 0 || BUSY.get() {
        return;
    }
    quietly(samples(), |kept| kept.iter_mut().for_each(|kept| kept.take_back(address.addr())));
}

impl Samples {
    /// What is at this address is held no longer, if it is a sample.
    fn take_back(&mut self, address: usize) {
        let Some((number, objects, bytes)) = self.live.remove(&address) else { return };
        forget(address);
        if let Some(all) = self.stacks.get_mut(number as usize) {
            all.held_objects -= objects;
            all.held_bytes -= bytes;
        }
    }

    fn number(&mut self, stack: &[u64]) -> u32 {
        let stack = if self.numbers.len() < STACKS { stack } else { &[] };
        if let Some(number) = self.numbers.get(stack) {
            return *number;
        }
        let number = self.stacks.len() as u32;
        self.stacks.push(Allocated::default());
        self.numbers.insert(stack.into(), number);
        number
    }
}

// SAFETY: all is done by the system's allocator; what is noted beside it changes nothing of it.
unsafe impl GlobalAlloc for SampledAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let address = unsafe { System.alloc(layout) };
        if ON.load(Ordering::Relaxed) {
            allocated(address, layout.size());
        }
        address
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let address = unsafe { System.alloc_zeroed(layout) };
        if ON.load(Ordering::Relaxed) {
            allocated(address, layout.size());
        }
        address
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        if ON.load(Ordering::Relaxed) {
            freed(address);
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let on = ON.load(Ordering::Relaxed);
        if on {
            freed(address);
        }
        // SAFETY: as the caller promises.
        let moved = unsafe { System.realloc(address, layout, size) };
        if on {
            allocated(moved, size);
        }
        moved
    }
}

/// Where calls return to, as far as they are kept.
struct Callers {
    addresses: [u64; DEPTH],
    count: usize,
    /// Frames that were left out.
    passed: usize,
}

impl Callers {
    fn as_slice(&self) -> &[u64] {
        self.addresses.get(..self.count).unwrap_or_default()
    }
}

// The unwinder that the standard library uses for panics (Itanium C++ ABI, "Exception Handling", level I).
unsafe extern "C-unwind" {
    fn _Unwind_Backtrace(each: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    safe fn _Unwind_GetIP(frame: *mut c_void) -> usize;
}

extern "C" fn caller(frame: *mut c_void, callers: *mut c_void) -> c_int {
    /// `_URC_NO_REASON`, and something else, at which the unwinder stops.
    const GO_ON: c_int = 0;
    const STOP: c_int = 5;
    // SAFETY: it is what `callers` passes, which waits for the unwinder.
    let callers = unsafe { &mut *callers.cast::<Callers>() };
    let address = _Unwind_GetIP(frame) as u64;
    // The first is this module's own, and the outermost may have none.
    if callers.passed == 0 || address == 0 {
        callers.passed += 1;
        return GO_ON;
    }
    let Some(place) = callers.addresses.get_mut(callers.count) else { return STOP };
    *place = address;
    callers.count += 1;
    GO_ON
}

#[inline(always)]
fn callers() -> Callers {
    let mut callers = Callers { addresses: [0; DEPTH], count: 0, passed: 0 };
    // SAFETY: `caller` takes each frame while `callers` lives. Where it is called from is plain code, not a signal.
    let _how_it_ended = unsafe { _Unwind_Backtrace(caller, (&raw mut callers).cast()) };
    callers
}

/// What the allocator holds of the system's memory, in bytes, and what of it is in use; nothing where it does not tell.
#[must_use]
pub fn allocator_bytes() -> Option<[(&'static str, u64); 4]> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes the allocator's own locks and reads its books.
        let told = unsafe { libc::mallinfo2() };
        let number = |size: usize| size as u64;
        Some([
            ("in_use", number(told.uordblks) + number(told.hblkhd)),
            ("free", number(told.fordblks)),
            ("held", number(told.arena) + number(told.hblkhd)),
            ("mapped_alone", number(told.hblkhd)),
        ])
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: SampledAllocator = SampledAllocator;

    /// Samples that the filter looks for, and those that there are.
    fn looked_for() -> (usize, usize) {
        quietly(samples(), |kept| {
            let counts = FILTER.iter().map(|count| usize::from(count.load(Ordering::Relaxed)));
            (counts.sum(), kept.as_ref().map_or(0, |kept| kept.live.len()))
        })
    }

    #[test]
    fn what_was_freed_is_not_looked_for_any_more() {
        let sampler = HeapSampler::start().unwrap();
        // Each is so large that it is sampled.
        let mut held: Vec<_> = (0..300).map(|_| std::hint::black_box(vec![0_u8; 1 << 20])).collect();
        let (looked, live) = looked_for();
        assert!(looked == live && live >= 300, "{looked} looked for, {live} live");
        held.truncate(1);
        let (looked, live) = looked_for();
        assert!(looked == live && (1..100).contains(&live), "{looked} looked for, {live} live");
        let bytes: u64 = sampler.read().iter().map(|(_, all)| all.held_bytes).sum();
        assert!((1 << 20..100 << 20).contains(&bytes), "{bytes} held");
        drop(sampler);
        assert_eq!(looked_for(), (0, 0));
    }
}
