//! How tunnels and connections end, in order or not.

use super::*;

#[test]
fn frames_of_idle_streams_end_the_connection() {
    let frames: [fn(&mut Vec<u8>); 4] = [
        |out| out.extend_from_slice(&encode::data_head(7, 0, false)),
        |out| encode::reset(out, 7, code::CANCEL),
        |out| encode::window_update(out, 7, 1),
        // By nothing: a stream's error, of a stream that is none.
        |out| out.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 7, 0, 0, 0, 0]),
    ];
    for frame in frames {
        for mut end in [End::server_with(2), End::client_with_tunnel()] {
            assert_eq!(code_of(end.hears(|out, _| frame(out))), Some(code::PROTOCOL_ERROR));
        }
    }
    assert_eq!(code_of(End::client_with_tunnel().answers(9, StatusCode::OK, false)), Some(code::PROTOCOL_ERROR));
}

#[test]
fn frames_after_the_end_of_a_stream_are_its_error_and_those_after_our_reset_are_none() {
    let mut end = End::server_with(2);
    end.hears_data(1, 10, true).unwrap();
    end.hears_data(1, 10, false).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::STREAM_CLOSED)]);
    end.mux.cancel(3);
    assert_eq!(resets(&end.says()), [(3, code::CANCEL)]);
    end.hears_data(3, 10, false).unwrap();
    end.hears(|out, _| encode::window_update(out, 3, 1)).unwrap();
    end.asks(3).unwrap();
    end.hears(|out, _| encode::reset(out, 3, code::CANCEL)).unwrap();
    assert!(end.says().is_empty());
    assert_eq!(code_of(end.asks(1)), None);
    // A number that was passed over is closed.
    end.asks(9).unwrap();
    assert_eq!(code_of(end.asks(7)), Some(code::PROTOCOL_ERROR));
}

#[test]
fn a_pong_counts_only_for_the_ping_that_it_answers() {
    let mut end = End::server();
    end.hears(|out, _| encode::pong(out, *b"whatever")).unwrap();
    end.mux.ping(*b"whatever");
    assert!(!end.mux.take_pong_of(*b"whatever"));
    end.hears(|out, _| encode::pong(out, *b"whatever")).unwrap();
    assert!(end.mux.take_pong_of(*b"whatever"));
    assert!(end.mux.pings.is_empty());
}

#[test]
fn a_server_that_shuts_waits_for_those_who_still_read_what_has_ended() {
    let mut end = End::server_with(1);
    end.mux.shut(*b"lastcall");
    end.mux.shut_finally();
    end.hears_data(1, 1000, true).unwrap();
    end.mux.finish(1).unwrap();
    assert!(!end.mux.is_over());
    end.mux.let_go(1);
    assert!(end.mux.is_over());
}

#[test]
fn an_end_and_a_reset_after_it_leave_what_came_before_to_be_read() {
    let mut end = End::client_with_tunnel();
    end.hears_data(1, 100, true).unwrap();
    end.hears(|out, _| encode::reset(out, 1, code::NO_ERROR)).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(end.mux.poll_reset(1, &mut cx).is_ready());
    assert!(matches!(end.reads(1, 1000), Poll::Ready(Ok(100))));
    assert!(matches!(end.reads(1, 1000), Poll::Ready(Ok(0))));
}

#[test]
fn a_reset_before_the_end_is_an_error_after_what_came_before() {
    let mut end = End::client_with_tunnel();
    end.hears_data(1, 100, false).unwrap();
    end.hears(|out, _| encode::reset(out, 1, code::CANCEL)).unwrap();
    assert!(matches!(end.reads(1, 1000), Poll::Ready(Ok(100))));
    let Poll::Ready(Err(error)) = end.reads(1, 1000) else { panic!("no error") };
    assert_eq!(error.to_string(), "the peer reset the tunnel (CANCEL)");
}

#[test]
fn tunnels_beyond_the_last_one_of_a_goaway_were_not_looked_at_and_the_others_go_on() {
    let mut end = End::client_with_tunnel();
    assert!(end.mux.take_place(10));
    assert_eq!(end.opens(), Some(3));
    end.hears(|out, _| encode::goaway(out, 1, code::NO_ERROR)).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Err(Unanswered::Reset(reset))) = end.mux.poll_answer(3, &mut cx) else { panic!("not reset") };
    assert_eq!(reset.by, Side::Away);
    assert_eq!(end.sends(1, 100, &Arc::default()), Some(100));
    assert!(!end.mux.take_place(10));
    assert_eq!(end.opens(), None);
}

#[test]
fn a_failure_reaches_every_tunnel_that_has_not_ended_and_takes_nothing_from_one_that_has() {
    let (mut end, bell) = (End::server_with(3), Arc::<Bell>::default());
    end.hears_data(3, 10, true).unwrap();
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    assert!(end.mux.poll_chunk(1, &mut cx).is_pending());
    end.mux.fail(Failure::Silent("gone"));
    end.grants();
    assert_eq!(bell.rung(), 1);
    assert!(matches!(end.mux.poll_chunk(1, &mut cx), Poll::Ready(Err(_))));
    assert!(matches!(end.mux.poll_chunk(3, &mut cx), Poll::Ready(Ok(Some(_)))));
    assert!(matches!(end.mux.poll_chunk(3, &mut cx), Poll::Ready(Ok(None))));
    assert!(end.mux.finish(1).is_err());
}

#[test]
fn a_reader_that_cannot_pass_on_is_woken_by_a_failure_and_not_by_bytes() {
    let (mut end, bell) = (End::server_with(1), Arc::<Bell>::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    assert!(end.mux.poll_cut(1, &mut cx).is_pending());
    end.hears_data(1, 10, false).unwrap();
    end.grants();
    assert_eq!(bell.rung(), 0);
    end.hears(|out, _| encode::reset(out, 1, code::CANCEL)).unwrap();
    end.grants();
    assert_eq!(bell.rung(), 1);
    assert!(end.mux.poll_cut(1, &mut cx).is_ready());
}
