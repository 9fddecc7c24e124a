//! Who has called: of several parts of one future those are looked at that can have something new.
//!
//! To look at what waits costs as much as to look at what is ready, and most of it takes locks that all connections share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Wake, Waker},
};

use futures::task::AtomicWaker;

/// Who looks is looking, and hears by itself what calls meanwhile. Parts are the other bits.
const AWAKE: u8 = 1 << 7;

/// Which parts have called.
#[derive(Debug)]
pub(super) struct Calls {
    of: AtomicU8,
    task: AtomicWaker,
}

impl Calls {
    /// These parts are to be looked at first.
    pub(super) fn new(parts: u8) -> Arc<Self> {
        Arc::new(Self { of: AtomicU8::new(parts), task: AtomicWaker::new() })
    }

    /// By which a part calls, or several of them.
    pub(super) fn caller(self: &Arc<Self>, parts: u8) -> Waker {
        Waker::from(Arc::new(Caller { calls: Arc::clone(self), parts }))
    }

    /// Says that these parts have something new.
    pub(super) fn call(&self, parts: u8) {
        if self.of.fetch_or(parts, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }

    /// From here on who looks is not woken.
    pub(super) fn begin(&self) {
        if self.of.load(Ordering::Acquire) & AWAKE == 0 {
            self.of.fetch_or(AWAKE, Ordering::AcqRel);
        }
    }

    /// Whether the part has called since it was asked last.
    pub(super) fn hears(&self, part: u8) -> bool {
        // Who looks is alone in taking calls off, so one that is not seen here comes after this.
        self.of.load(Ordering::Acquire) & part != 0 && self.of.fetch_and(!part, Ordering::AcqRel) & part != 0
    }

    /// Whether who looks may rest; from then on it is woken as `task` by who calls.
    pub(super) fn rests(&self, task: &Waker) -> bool {
        if self.of.load(Ordering::Acquire) != AWAKE {
            return false;
        }
        // Before it rests: who calls right after that finds it.
        self.task.register(task);
        self.of.compare_exchange(AWAKE, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[derive(Debug)]
struct Caller {
    calls: Arc<Calls>,
    parts: u8,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.calls.call(self.parts);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.calls.call(self.parts);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_rests_is_woken_once_and_who_looks_hears_by_itself() {
        let calls = Calls::new(1);
        let (one, two) = (calls.caller(1), calls.caller(2));
        let woken = Arc::new(Woken::default());
        let task = Waker::from(Arc::clone(&woken));
        calls.begin();
        assert!(!calls.rests(&task), "what is to be looked at first was not");
        assert!(calls.hears(1) && !calls.hears(1) && !calls.hears(2));
        two.wake_by_ref();
        assert!(!calls.rests(&task));
        assert!(calls.hears(2) && calls.rests(&task));
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        one.wake_by_ref();
        two.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        calls.begin();
        assert!(calls.hears(1) && calls.hears(2) && calls.rests(&task));
        two.wake();
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    }
}
