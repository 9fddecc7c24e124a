//! A tunnel and a TCP connection: bytes are read from the socket into the frames that go out, and written to it from where they arrived.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
};

use super::{Counters, EndedBy, Outcome, early};
use crate::{
    TunnelStream, aside,
    mux::Unfilled,
    pace::{self, Pace},
};

/// Size of the first read from a socket; it grows while reads come back full.
const SMALL_READ: usize = 4 << 10;
const LARGE_READ: usize = 256 << 10;

/// One direction.
#[derive(Debug, Default, Clone, Copy)]
struct Direction {
    /// Its source has come to its end.
    ended: bool,
    /// Its sink knows of the end, or wants nothing more.
    finished: bool,
}

/// A tunnel and a TCP connection, which are reset unless both directions come to an end.
pub(super) struct Pump<C> {
    tunnel: TunnelStream,
    tcp: TcpStream,
    counters: C,
    /// What the socket still had to say when it could not be written to any more.
    rest: Vec<u8>,
    /// Why bytes were lost, when the rest could go on.
    loss: Option<Box<EndedBy>>,
    read_size: usize,
    /// It is told when it is to end.
    watched: bool,
    pace: Pace,
    /// So many of the socket's first bytes are in the tunnel already.
    past: u32,
    /// From TCP into the tunnel.
    up: Direction,
    /// From the tunnel into TCP.
    down: Direction,
}

impl<C: AsRef<Counters>> Pump<C> {
    pub(super) fn new(mut tunnel: TunnelStream, tcp: TcpStream, counters: C) -> Self {
        let (up, down) = (Direction::default(), Direction::default());
        let past = tunnel.take_early();
        counters.as_ref().sent.fetch_add(past.into(), Ordering::Relaxed);
        let pace = Pace::default();
        Self { tunnel, tcp, counters, rest: Vec::new(), loss: None, read_size: SMALL_READ, watched: false, pace, past, up, down }
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<EndedBy> {
        if self.pace.moved() {
            aside::move_here(&mut self.tcp);
            self.watched = false;
        }
        if self.counters.as_ref().watch(cx, &mut self.watched) {
            return Poll::Ready(EndedBy::Cut);
        }
        // A turn may take several polls, each after a connection's task has made room or brought more.
        if self.pace.is_over() {
            pace::give_way(cx);
            return Poll::Pending;
        }
        // One for each direction, so that neither starves the other.
        let turn = pace::turn();
        let (mut up, mut down) = (turn, turn);
        loop {
            let ended = (self.up.ended, self.down.ended);
            let carried = self.carry_up(cx, &mut up).and_then(|()| self.carry_down(cx, &mut down));
            if let Err(ended_by) = carried {
                return Poll::Ready(ended_by);
            }
            if self.up.finished && self.down.finished {
                return Poll::Ready(self.loss.take().map_or(EndedBy::Finished, |loss| *loss));
            }
            let changed = ended != (self.up.ended, self.down.ended);
            if changed {
                self.counters.as_ref().note_half_open();
            }
            let left = up.min(down);
            // The end of one direction changes what the other has to watch.
            if left == 0 || !changed {
                self.pace.note(turn - left);
                if left == 0 {
                    self.pace.end_turn();
                    pace::give_way(cx);
                }
                if let Some(bulk) = self.pace.turned_out()
                    && self.tunnel.note_bulk(bulk) != aside::is_aside()
                {
                    aside::wish();
                }
                return Poll::Pending;
            }
        }
    }

    /// Carries from TCP into the tunnel what can be carried now.
    fn carry_up(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Result<(), EndedBy> {
        while !self.up.finished && *budget > 0 {
            if self.up.ended && self.rest.is_empty() {
                if let Err(error) = self.tunnel.finish() {
                    self.tunnel_takes_no_more(error, false)?;
                }
                self.up.finished = true;
                continue;
            }
            let Self { tunnel, tcp, rest, past, .. } = self;
            let most = self.read_size.min(*budget);
            let filled = if rest.is_empty() {
                match tcp.poll_read_ready(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => return Err(EndedBy::Second(error)),
                    Poll::Ready(Ok(())) => {}
                }
                tunnel.poll_fill(cx, most, |places| match *past {
                    0 => read(tcp, places),
                    _ => early::read_past(past, places, |places| read(tcp, places)),
                })
            } else {
                tunnel.poll_fill(cx, rest.len(), |places| Ok(put(rest, places)))
            };
            match filled {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => self.up.ended = true,
                Poll::Ready(Ok(count)) => {
                    self.counters.as_ref().sent.fetch_add(count as u64, Ordering::Relaxed);
                    *budget = budget.saturating_sub(count);
                    self.adapt(count, most);
                }
                Poll::Ready(Err(Unfilled::Source(error))) if is_for_later(&error) => {}
                Poll::Ready(Err(Unfilled::Source(error))) => return Err(EndedBy::Second(error)),
                Poll::Ready(Err(Unfilled::Tunnel(error))) => self.tunnel_takes_no_more(error, true)?,
            }
        }
        // A tunnel whose bytes have ended tells of its end as a whole only when asked.
        if self.down.ended
            && !self.up.finished
            && let Poll::Ready(error) = self.tunnel.poll_reset(cx)
        {
            self.tunnel_takes_no_more(error, true)?;
        }
        Ok(())
    }

    /// Reads larger pieces while they come back full.
    fn adapt(&mut self, count: usize, most: usize) {
        if count == self.read_size {
            self.read_size = (self.read_size * 4).min(LARGE_READ);
        } else if count < most && count < self.read_size / 4 {
            self.read_size = (self.read_size / 4).max(SMALL_READ);
        }
    }

    /// The tunnel failed as a sink. If its own bytes have come to their end, its peer has closed as a whole, as an application does that
    /// answers and closes: then this direction is given up, while what the peer said before still goes to the other side.
    ///
    /// # Errors
    /// When the pair cannot go on.
    fn tunnel_takes_no_more(&mut self, error: io::Error, sending: bool) -> Result<(), EndedBy> {
        if !self.tunnel.has_received_end() {
            if self.tunnel.unread() == 0 {
                return Err(EndedBy::First(error));
            }
            // What the peer had said before it broke the tunnel goes to the other side first; whoever carries that meets the failure behind it.
            self.rest = Vec::new();
            self.up = Direction { ended: true, finished: true };
            return Ok(());
        }
        early::pass_over(&self.tcp, std::mem::take(&mut self.past));
        // Nothing is read before it can be sent, so what is lost still lies in the socket.
        let lost = sending && !self.up.ended && matches!(rustix::io::read(&self.tcp, &mut [0]), Ok(1..));
        if lost || !self.rest.is_empty() {
            self.loss.get_or_insert_with(|| Box::new(EndedBy::First(error)));
        }
        self.rest = Vec::new();
        self.up = Direction { ended: true, finished: true };
        Ok(())
    }

    /// Carries from the tunnel into TCP what can be carried now.
    fn carry_down(&mut self, cx: &mut Context<'_>, budget: &mut usize) -> Result<(), EndedBy> {
        while !self.down.finished && *budget > 0 {
            if self.down.ended {
                match Pin::new(&mut self.tcp).poll_shutdown(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {}
                    // The peer has closed both directions already, which is an end as well.
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {}
                    Poll::Ready(Err(error)) => self.tcp_takes_no_more(error)?,
                }
                self.down.finished = true;
                continue;
            }
            let Self { tunnel, tcp, .. } = self;
            let most = *budget;
            match tunnel.poll_drain(cx, |pieces| write(tcp, within(pieces, most))) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(EndedBy::First(error)),
                Poll::Ready(Ok(Ok(0))) => self.down.ended = true,
                Poll::Ready(Ok(Ok(count))) => {
                    self.counters.as_ref().received.fetch_add(count as u64, Ordering::Relaxed);
                    *budget = budget.saturating_sub(count);
                }
                Poll::Ready(Ok(Err(error))) if is_for_later(&error) => match self.tcp.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => self.tcp_takes_no_more(error)?,
                    Poll::Pending => {
                        if let Poll::Ready(error) = self.tunnel.poll_cut(cx) {
                            return Err(EndedBy::First(error));
                        }
                        break;
                    }
                },
                Poll::Ready(Ok(Err(error))) => self.tcp_takes_no_more(error)?,
            }
        }
        Ok(())
    }

    /// TCP failed as a sink. As with [`Self::tunnel_takes_no_more`]; its own end may have come but not been read yet.
    ///
    /// # Errors
    /// When the pair cannot go on.
    fn tcp_takes_no_more(&mut self, error: io::Error) -> Result<(), EndedBy> {
        // Linux says EPIPE for the reset of a peer that had ended its direction before. One that had not has cut it short, but once the
        // write has met the error a read would take that for an end.
        if !self.up.ended && error.kind() != io::ErrorKind::BrokenPipe {
            return Err(EndedBy::Second(error));
        }
        early::pass_over(&self.tcp, std::mem::take(&mut self.past));
        let mut buffer = if self.up.ended { Vec::new() } else { vec![0; 16 << 10] };
        while !self.up.ended {
            // Not by way of the runtime, which may not have heard of it yet.
            match rustix::io::read(&self.tcp, &mut buffer) {
                Ok(0) => self.up.ended = true,
                Ok(count) => self.rest.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(EndedBy::Second(error)),
            }
        }
        if self.tunnel.unread() > 0 {
            self.loss.get_or_insert_with(|| Box::new(EndedBy::Second(error)));
        }
        self.down = Direction { ended: true, finished: true };
        Ok(())
    }
}

impl<C> Drop for Pump<C> {
    fn drop(&mut self) {
        if !(self.up.finished && self.down.finished) {
            self.tunnel.reset();
            // Fails only on a socket that is gone.
            let _gone = self.tcp.set_zero_linger();
        }
    }
}

impl<C: AsRef<Counters> + Unpin> Future for Pump<C> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Poll::Ready(ended_by) = self.poll_ended(cx) else { return Poll::Pending };
        Poll::Ready(Outcome::of(self.counters.as_ref(), ended_by))
    }
}

fn is_for_later(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn put(rest: &mut Vec<u8>, places: &mut [IoSliceMut<'_>]) -> usize {
    let mut count = 0;
    for place in places {
        let part = rest.get(count..).unwrap_or_default();
        let len = part.len().min(place.len());
        place.get_mut(..len).unwrap_or_default().copy_from_slice(part.get(..len).unwrap_or_default());
        count += len;
    }
    rest.drain(..count);
    count
}

/// Reads once. A read that does not fill its places has emptied the socket (epoll(7), question 9): that is remembered as not ready, so
/// that it is not asked again in vain.
fn read(tcp: &TcpStream, places: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let most: usize = places.iter().map(|place| place.len()).sum();
    once(tcp, Interest::READABLE, most, || rustix::io::readv(tcp, places))
}

/// The first of `pieces`: `most` bytes, and what the last of them has beyond that.
fn within<'a, 'b>(pieces: &'a [IoSlice<'b>], most: usize) -> &'a [IoSlice<'b>] {
    let (mut count, mut bytes) = (0, 0);
    for piece in pieces {
        if bytes >= most {
            break;
        }
        bytes += piece.len();
        count += 1;
    }
    pieces.get(..count).unwrap_or_default()
}

/// Writes once; as with [`read`], a write that is not taken whole has filled the socket.
fn write(tcp: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let most: usize = pieces.iter().map(|piece| piece.len()).sum();
    let count = once(tcp, Interest::WRITABLE, most, || rustix::io::writev(tcp, pieces))?;
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

fn once(
    tcp: &TcpStream,
    interest: Interest,
    most: usize,
    mut call: impl FnMut() -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = 0;
    let outcome = tcp.try_io(interest, || {
        moved = loop {
            match call() {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?,
            }
        };
        if (1..most).contains(&moved) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if moved > 0 { Ok(moved) } else { outcome.map(|()| 0) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn no_more_pieces_are_written_at_once_than_make_a_turn() {
        let bytes = [0; 100];
        let pieces = [IoSlice::new(&bytes), IoSlice::new(&bytes), IoSlice::new(&bytes)];
        for (most, count) in [(1, 1), (100, 1), (101, 2), (300, 3), (1000, 3)] {
            assert_eq!(within(&pieces, most).len(), count, "{most}");
        }
    }

    #[test]
    fn what_carries_a_connection_is_small() {
        let size = size_of::<Pump<Arc<Counters>>>();
        assert!(size <= 136, "{size}");
    }
}
