//! Requests, their answers, and how many there may be.

use super::*;

#[test]
fn requests_beyond_the_limit_are_refused_until_a_tunnel_has_ended() {
    let mut end = End::server_with(50);
    end.says();
    end.asks(101).unwrap();
    assert_eq!(resets(&end.says()), [(101, code::REFUSED_STREAM)]);
    end.mux.finish(1).unwrap();
    end.asks(103).unwrap();
    assert_eq!(resets(&end.says()), [(103, code::REFUSED_STREAM)], "half of a tunnel is open");
    end.hears_data(1, 0, true).unwrap();
    end.asks(105).unwrap();
    assert!(resets(&end.says()).is_empty());
    assert_eq!(end.mux.take_request().unwrap().stream, 105);
}

#[test]
fn nothing_is_read_while_the_answers_to_what_was_read_wait() {
    let mut end = End::server_with(1);
    for _ in 0..5000 {
        assert!(end.mux.batch.len() < 66 << 10);
        if !end.mux.may_read() {
            break;
        }
        end.hears(|out, _| encode::ping(out, [0; 8])).unwrap();
    }
    assert!(!end.mux.may_read());
    assert!(end.says().iter().all(|frame| matches!(frame, Frame::Pong(_))));
    assert!(end.mux.may_read());
}

#[test]
fn nothing_is_read_while_answers_to_requests_wait() {
    let mut end = End::server();
    for n in 0..5000 {
        if !end.mux.may_read() {
            assert!(n > 1000);
            return;
        }
        end.asks(2 * n + 1).unwrap();
        let request = end.mux.take_request().unwrap();
        end.mux.respond(request.stream, StatusCode::FORBIDDEN, &HeaderMap::new(), true).unwrap();
        end.mux.let_go(request.stream);
        assert!(end.mux.batch.len() < 66 << 10);
    }
    panic!("all of it was read");
}

#[test]
fn a_request_that_is_given_up_before_anybody_has_seen_it_reaches_no_handler() {
    let mut end = End::server();
    end.asks(1).unwrap();
    end.asks(3).unwrap();
    end.hears(|out, _| encode::reset(out, 1, code::CANCEL)).unwrap();
    assert_eq!(end.mux.take_request().unwrap().stream, 3);
    assert!(end.mux.streams.get(1).is_none());
}

#[test]
fn requests_wait_for_the_peers_leave() {
    let mut end = End::client();
    let two = Parameters { max_concurrent_streams: Some(2), ..Parameters::default() };
    end.hears(|out, _| encode::settings(out, &two)).unwrap();
    assert_eq!((end.opens(), end.opens(), end.opens()), (Some(1), Some(3), None));
    assert_eq!(end.mux.opening.len(), 1);
    end.answers(1, StatusCode::FORBIDDEN, true).unwrap();
    assert_eq!(end.opens(), None);
    end.mux.let_go(1);
    assert_eq!(end.opens(), Some(5));
}

#[test]
fn first_bytes_go_with_a_request_only_where_the_peer_has_told_its_settings_and_within_its_windows() {
    let fill = |places: &mut [IoSliceMut<'_>]| Ok(places.iter().map(|place| place.len()).sum());
    let mut new = Mux::new(Role::Client, &small_windows(), PLAIN);
    let opening = Opening { authority: "10.0.0.1:80", headers: &HeaderMap::new() };
    let Poll::Ready(Ok(id)) = new.poll_open(&Context::from_waker(Waker::noop()), opening) else { panic!("not opened") };
    assert_eq!(new.send_early(id, fill).unwrap(), 0);
    let mut end = End::client();
    let id = end.opens().unwrap();
    end.mux.streams.get_mut(id).unwrap().send_window = 100;
    assert_eq!(end.mux.send_early(id, fill).unwrap(), 100);
    assert_eq!(end.mux.send_early(id, fill).unwrap(), 0);
    assert_eq!(data(&end.says()), 100);
    let id = end.opens().unwrap();
    let nothing = |_: &mut [IoSliceMut<'_>]| Err(std::io::ErrorKind::WouldBlock.into());
    assert_eq!(end.mux.send_early(id, nothing).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(data(&end.says()), 0);
}

#[test]
fn it_is_known_whether_first_bytes_may_have_left_when_a_connection_is_lost_before_the_answer() {
    let fill = |places: &mut [IoSliceMut<'_>]| Ok(places.iter().map(|place| place.len()).sum());
    for (early, taken, written, left) in [
        (true, true, true, true),
        (true, true, false, false),
        (true, false, true, false),
        (true, false, false, false),
        (false, true, true, false),
    ] {
        let mut end = End::client();
        let id = end.opens().unwrap();
        if early {
            assert!(end.mux.send_early(id, fill).unwrap() > 0);
        }
        if taken {
            end.says();
        }
        if !written {
            end.mux.not_written();
        }
        end.mux.fail(Failure::Silent("gone"));
        let answer = end.mux.poll_answer(id, &mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Err(Unanswered::Connection { early_bytes_left, .. })) = answer else { panic!("{answer:?}") };
        assert_eq!(early_bytes_left, left, "{early} {taken} {written}");
    }
}
