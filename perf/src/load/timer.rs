//! A timer finer than the runtime's, whose resolution of a millisecond is more than what is measured here.

use std::{os::fd::AsFd, time::Instant};

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::net::unix::pipe::Receiver;

/// Waits for moments of the monotonic clock, one at a time.
#[derive(Debug)]
pub(super) struct Timer {
    timer: TimerFd,
    /// The same descriptor, as something the runtime can wait for.
    expired: Receiver,
}

impl Timer {
    pub(super) fn new() -> std::io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let expired = Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, expired })
    }

    /// Returns at `due`, or at once when it has passed.
    pub(super) async fn wait_until(&self, due: Instant) -> std::io::Result<()> {
        let Some(wait) = due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) else {
            return Ok(());
        };
        self.timer.set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty())?;
        loop {
            self.expired.readable().await?;
            let mut expirations = [0; 8];
            match self.expired.try_read(&mut expirations) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                done => return done.map(drop),
            }
        }
    }
}
