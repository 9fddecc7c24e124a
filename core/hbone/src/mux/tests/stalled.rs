//! Tunnels whose bytes nobody reads.

use std::io::ErrorKind;

use super::*;
use crate::mux::held::Account;

const LONG: Duration = Duration::from_secs(10);

/// A server with some tunnels, in a process that may hold so much.
fn with_limit(tunnels: u32, limit: usize) -> End {
    let mut end = End::server_with(tunnels);
    end.mux.credit.account = Account::within(limit);
    end
}

fn is_given_up(read: &Poll<std::io::Result<usize>>) -> bool {
    matches!(read, Poll::Ready(Err(error)) if error.kind() == ErrorKind::OutOfMemory)
}

#[test]
fn at_the_limit_as_many_tunnels_as_needed_are_cut_that_nobody_has_read_from_for_long() {
    let (mut end, start) = (with_limit(3, 250_000), Instant::now());
    for (id, bytes) in [(1, 95_000), (3, 80_000), (5, 90_000)] {
        end.hears_data(id, bytes, false).unwrap();
    }
    assert_eq!(end.mux.cut_stalled(start), Some(start + LONG));
    assert!(matches!(end.reads(5, 100), Poll::Ready(Ok(100))));
    end.mux.cut_stalled(start + LONG / 2);
    assert!(resets(&end.says()).is_empty(), "they may still be read");
    end.mux.cut_stalled(start + LONG);
    assert_eq!(resets(&end.says()), [(1, code::ENHANCE_YOUR_CALM)], "the greediest is enough");
    assert!(is_given_up(&end.reads(1, 100)));
    end.hears_data(5, 100, false).unwrap();
    assert!(end.reads(3, 100).is_ready() && end.reads(5, 100).is_ready());
    end.mux.cut_stalled(start + 10 * LONG);
    assert!(resets(&end.says()).is_empty(), "below the limit all may wait");
}

#[test]
fn between_two_looks_a_tunnel_that_nobody_has_read_from_for_long_is_cut_when_it_is_sent_more() {
    let mut end = with_limit(2, 120_000);
    end.hears_data(1, 60_000, false).unwrap();
    end.mux.cut_stalled(Instant::now().checked_sub(LONG).unwrap());
    end.hears_data(1, 100, false).unwrap();
    end.hears_data(3, 80_000, false).unwrap();
    end.hears_data(3, 100, false).unwrap();
    assert!(resets(&end.says()).is_empty(), "not above the limit, or not for long");
    end.hears_data(1, 100, false).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::ENHANCE_YOUR_CALM)]);
}

#[test]
fn what_is_given_up_after_its_end_has_come_does_not_pass_for_all_there_was() {
    for ended_here in [false, true] {
        let (mut end, bell, start) = (with_limit(1, 1), Arc::<Bell>::default(), Instant::now());
        let waker = Waker::from(Arc::clone(&bell));
        end.hears_data(1, 70_000, true).unwrap();
        if ended_here {
            end.mux.finish(1).unwrap();
        }
        end.says();
        assert!(end.mux.poll_cut(1, &mut Context::from_waker(&waker)).is_pending());
        end.mux.cut_stalled(start);
        end.mux.cut_stalled(start + LONG);
        end.grants();
        assert_eq!(bell.rung(), 1);
        let expected = if ended_here { vec![] } else { vec![(1, code::ENHANCE_YOUR_CALM)] };
        assert_eq!((resets(&end.says()), end.mux.live), (expected, 0));
        assert!(end.mux.poll_cut(1, &mut Context::from_waker(&waker)).is_ready());
        assert!(is_given_up(&end.reads(1, 100)));
        end.mux.let_go(1);
        assert!(end.mux.streams.is_empty());
    }
}

#[test]
fn bytes_that_were_handed_out_are_given_up_once() {
    let (mut end, start) = (with_limit(1, 1), Instant::now());
    end.hears_data(1, 90_000, false).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(Some(chunk))) = end.mux.poll_chunk(1, &mut cx) else { panic!("nothing has come") };
    end.mux.cut_stalled(start);
    end.mux.cut_stalled(start + LONG);
    assert!(!end.mux.credit.account.is_full(), "nothing is held");
    end.mux.consumed(1, chunk.len());
    end.mux.let_go(1);
    assert!(!end.mux.credit.account.is_full() && end.mux.streams.is_empty());
}
