//! Tunnels whose user has gone while the peer still sends.

use super::*;

#[test]
fn a_tunnel_that_is_closed_after_its_end_keeps_its_place_until_the_peer_has_ended_it() {
    let mut end = End::client_with_tunnel();
    end.hears_data(1, 1000, false).unwrap();
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    assert!(resets(&end.says()).is_empty());
    assert_eq!(end.mux.places.taken(), 1);
    end.hears_data(1, 60_000, false).unwrap();
    assert_eq!(end.says().len(), 1, "the window is widened although nobody reads");
    end.hears_data(1, 0, true).unwrap();
    assert_eq!((end.mux.places.taken(), end.mux.parting), (0, 0));
    assert_eq!(end.mux.credit.due(), None);
}

#[test]
fn a_tunnel_that_is_closed_after_its_end_is_reset_when_too_much_still_comes_or_it_takes_too_long() {
    let mut end = End::client_with_tunnel();
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    end.says();
    for _ in 0..5 {
        end.hears_data(1, 50_000, false).unwrap();
    }
    assert!(resets(&end.says()).is_empty());
    end.hears_data(1, 50_000, false).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::CANCEL)]);
    assert_eq!((end.mux.places.taken(), end.mux.parting), (0, 0));

    let mut end = End::client_with_tunnel();
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    end.says();
    let until = end.mux.end_partings(Some(Instant::now())).unwrap();
    assert_eq!(end.mux.end_partings(Some(until)), None);
    assert_eq!(resets(&end.says()), [(1, code::CANCEL)]);
    assert_eq!(end.mux.places.taken(), 0);
}

#[test]
fn the_server_asks_a_client_to_stop_when_nobody_reads_a_tunnel_any_more() {
    let mut end = End::server_with(1);
    end.mux.finish(1).unwrap();
    end.mux.let_go(1);
    let frames = end.says();
    assert!(
        matches!(frames[..], [Frame::Data { end: true, .. }, Frame::Reset { stream: 1, code: code::NO_ERROR }]),
        "{frames:?}"
    );
    assert_eq!(end.mux.live, 0);
}
