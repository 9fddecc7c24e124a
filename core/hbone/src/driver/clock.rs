//! What a connection does from time to time: pings, giving memory back, giving up.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Driver, Phase};
use crate::{frame::code, mux::Failure, transport::Transport};

/// `later` from `now`; for ever is a year.
pub(crate) fn after(now: Instant, later: Duration) -> Instant {
    now + later.min(Duration::from_hours(24 * 365))
}

/// How often a connection with traffic gives back what it did not need meanwhile; without traffic for so long, all of it.
pub(super) const REST: Duration = Duration::from_secs(1);

impl<T: Transport> Driver<T> {
    /// What is done from time to time.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if self.phase != Phase::Running {
            self.phase = Phase::Over;
            return;
        }
        if self.block_by.is_some_and(|(_, by)| by <= now) {
            let code = code::ENHANCE_YOUR_CALM;
            return self.end(Err(Failure::Protocol { code, why: "a header block that takes too long" }), code);
        }
        self.watches = std::mem::take(&mut self.busy);
        let link = Arc::clone(&self.link);
        let mut mux = link.lock();
        if self.pong_by.is_some() && mux.take_pong_of(self.alive) {
            self.pong_by = None;
        }
        // A pong may lie behind megabytes of other things that are still on their way.
        let heard = std::mem::take(&mut self.heard);
        if heard && self.pong_by.is_some_and(|by| by <= now) {
            self.pong_by = Some(after(now, self.times.ping_timeout));
        }
        let silent = match (self.begun_by, self.pong_by) {
            _ if self.pong_by.is_some_and(|by| by <= now) => Some("the peer answers no ping"),
            (Some(by), _) if self.decoder.begun() || by > now => {
                self.begun_by = Some(by).filter(|_| !self.decoder.begun());
                None
            }
            (Some(_), _) => Some("no HTTP/2 preface in time"),
            _ => None,
        };
        if let Some(text) = silent {
            drop(mux);
            return self.fail(Failure::Silent(text));
        }
        if self.next_ping <= now && self.pong_by.is_none() {
            self.alive = fastrand::u64(..).to_be_bytes();
            mux.ping(self.alive);
            self.decoder.renew();
            self.next_ping = after(now, self.times.ping_interval);
            self.pong_by = Some(after(now, self.times.ping_timeout));
        }
        let parted = mux.end_partings(Some(now));
        let idle = self.times.idle.and_then(|limit| mux.places.idle_at(limit));
        if idle.is_some_and(|at| at <= now) {
            mux.close();
        }
        let unread = mux.cut_stalled(now);
        mux.compact();
        self.batch.settle();
        mux.settle(self.batch.capacity());
        self.read = 0;
        if !self.watches {
            mux.rest();
            self.wakes.shrink_to_fit();
        }
        drop(mux);
        let soonest = [parted, unread, idle.filter(|at| *at > now)].into_iter().flatten().min();
        let next = self.next_look(now, soonest);
        self.timer.as_mut().reset(next);
    }

    /// Notes since when the header block that has begun is under way: no ping can be answered before its end.
    pub(super) fn watch_block(&mut self) {
        let unfinished = self.decoder.unfinished_block();
        if unfinished == self.block_by.map(|(number, _)| number) {
            return;
        }
        self.block_by = unfinished.map(|number| (number, after(Instant::now(), self.times.header)));
        if let Some((_, by)) = self.block_by.filter(|(_, by)| *by < self.timer.deadline()) {
            self.timer.as_mut().reset(by);
        }
    }

    pub(super) fn next_look(&self, now: Instant, other: Option<Instant>) -> Instant {
        // A connection becomes idle without anybody looking at the clock.
        let idle = self.times.idle.map(|limit| after(now, (limit / 4).max(Duration::from_millis(10))));
        let rest = self.watches.then(|| now + REST);
        let ping = self.pong_by.into_iter().chain((self.next_ping > now).then_some(self.next_ping)).min();
        let ping = ping.or(Some(self.next_ping));
        [ping, self.begun_by, self.block_by.map(|(_, by)| by), idle, rest, other]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + REST)
    }
}
