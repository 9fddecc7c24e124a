//! What is sent, in which order, and who waits.

use super::*;

#[test]
fn pieces_are_sealed_once_each_and_hold_the_frames_in_order() {
    let mut batch = Batch::new(SEALED);
    batch.append(&encode::data_head(9, 0, true));
    let mut byte = 0_u8;
    for len in [1_usize, 100, 16_375, 16_376, 70_000, 3] {
        let filled = batch
            .data(1, len, |places| {
                for place in places.iter_mut() {
                    place.fill_with(|| {
                        byte = byte.wrapping_add(1);
                        byte
                    });
                }
                Ok(places.iter().map(|place| place.len()).sum())
            })
            .unwrap();
        assert_eq!(filled, len);
    }
    let mut plain = Vec::new();
    batch
        .seal(|piece| {
            assert!(piece.len() <= SEALED.most + 22);
            plain.extend_from_slice(&piece[5..piece.len() - 17]);
            piece.fill(0xee);
            Ok(())
        })
        .unwrap();
    assert!(batch.as_slice().iter().all(|byte| *byte == 0xee), "a byte goes out that was not sealed");
    let mut decoder = Decoder::client(Limits::new(1 << 14, 1 << 14));
    let mut settings = Vec::new();
    encode::settings(&mut settings, &Parameters::default());
    decoder.push(settings.into());
    decoder.push(plain.into());
    let mut expected = 0_u8;
    let mut seen = 0;
    while let Some(frame) = decoder.next().unwrap() {
        if let Frame::Data { stream: 1, data, .. } = frame {
            seen += data.len();
            for byte in data {
                expected = expected.wrapping_add(1);
                assert_eq!(byte, expected);
            }
        }
    }
    assert_eq!(seen, 1 + 100 + 16_375 + 16_376 + 70_000 + 3);
}

#[test]
fn a_fill_that_comes_short_or_fails_sends_what_it_filled_and_no_more() {
    let mut end = End::server_with(1);
    let mut cx = Context::from_waker(Waker::noop());
    let short = end.mux.poll_fill(1, &mut cx, 100_000, |_| Ok(20_000));
    assert!(matches!(short, Poll::Ready(Ok(20_000))));
    let failed = end.mux.poll_fill(1, &mut cx, 100_000, |_| Err(std::io::ErrorKind::WouldBlock.into()));
    assert!(matches!(failed, Poll::Ready(Err(Unfilled::Source(_)))));
    assert_eq!(data(&end.says()), 20_000);
}

#[test]
fn a_tunnel_takes_all_of_the_batch_when_alone_and_a_share_of_it_while_others_wait() {
    let (mut end, bell) = (End::server_with(3), Arc::<Bell>::default());
    assert_eq!(end.sends(1, 1 << 20, &bell), Some(256 << 10));
    assert_eq!(end.sends(1, 1 << 20, &bell), None);
    assert_eq!(
        end.sends(3, 1 << 20, &bell),
        Some(16 << 10),
        "a tunnel that has sent nothing is let in even if the batch is full"
    );
    assert_eq!(end.sends(3, 1 << 20, &bell), None);
    assert_eq!(data(&end.says()), 272 << 10);
    assert!(!end.grants());
    assert_eq!(bell.rung(), 2);
    assert_eq!(end.sends(5, 1 << 20, &bell), Some(256 << 10));
    assert_eq!(end.sends(1, 1 << 20, &bell), Some(16 << 10));
    assert_eq!(end.sends(1, 1 << 20, &bell), None);
    end.says();
    assert_eq!(end.sends(3, 1 << 20, &bell), Some(64 << 10), "while another waits");
}

#[test]
fn those_who_wait_are_woken_in_the_order_they_came_and_none_is_forgotten() {
    let mut end = End::server_with(20);
    let bells: Vec<Arc<Bell>> = (0..20).map(|_| Arc::default()).collect();
    assert_eq!(end.sends(1, 1 << 20, &bells[0]), Some(256 << 10));
    for (n, id) in (1..40).step_by(2).enumerate() {
        let _first = end.sends(id, 1 << 20, &bells[n]);
        while end.sends(id, 1 << 20, &bells[n]).is_some() {}
    }
    end.says();
    let mut order = Vec::new();
    while order.len() < 20 {
        // Those who are woken send nothing: the next ones must have their turn all the same.
        let more = end.grants();
        order.extend(bells.iter().enumerate().filter(|(_, bell)| bell.rung() > 0).map(|(n, _)| n));
        assert!(more || order.len() == 20, "{order:?}");
    }
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[test]
fn at_rest_a_connection_holds_no_buffers() {
    let (mut end, bell) = (End::server_with(1), Arc::<Bell>::default());
    assert_eq!(end.sends(1, 200_000, &bell), Some(200_000));
    let rest = |mux: &mut Mux| {
        mux.settle(0);
        mux.rest();
    };
    rest(&mut end.mux);
    assert!(end.mux.batch.capacity() > 200_000, "what was not written yet stays");
    end.says();
    rest(&mut end.mux);
    assert_eq!((end.mux.batch.capacity(), end.mux.scratch.capacity(), end.mux.dead.capacity()), (0, 0, 0));
}

#[test]
fn a_trickle_after_a_load_keeps_no_more_memory_than_it_needs() {
    let mut batch = Batch::new(SEALED);
    let mut sends = |most: usize| {
        let filled = batch.data(1, most, |places| Ok(places.iter().map(|place| place.len()).sum())).unwrap();
        assert_eq!(filled, most);
        batch.settle();
        assert!(batch.len() > most && batch.as_slice().len() == batch.len(), "what is in it stays");
        batch.clear();
        batch.capacity()
    };
    let load = sends(200_000);
    assert_eq!(sends(200_000), load);
    assert!(sends(100) <= load);
    assert!(sends(100) < 1000);
    batch.settle();
    assert_eq!(batch.capacity(), 0);
}

#[test]
fn a_connection_is_pressed_from_when_it_is_blocked_until_all_of_it_has_left() {
    let (mut end, bell) = (End::server_with(1), Arc::<Bell>::default());
    let mut after = |work: fn(&mut End, &Arc<Bell>), blocked| {
        work(&mut end, &bell);
        end.mux.note_pressure(blocked);
        assert!(!end.mux.is_pressed(Duration::from_hours(1)));
        end.mux.is_pressed(Duration::ZERO)
    };
    assert!(!after(|end, bell| assert_eq!(end.sends(1, 1000, bell), Some(1000)), false));
    assert!(after(|_, _| (), true));
    assert!(after(|_, _| (), false), "there is more to be written");
    assert!(!after(|end, _| drop(end.says()), false));
    let no_window = |end: &mut End, bell: &Arc<Bell>| {
        end.mux.window = 0;
        assert_eq!(end.sends(1, 1000, bell), None);
    };
    assert!(after(no_window, false));
    let widened = |end: &mut End, _: &Arc<Bell>| {
        end.hears(|out, _| encode::window_update(out, 0, 1000)).unwrap();
        end.says();
    };
    assert!(!after(widened, false));
}

#[test]
fn a_connection_goes_aside_when_most_of_its_tunnels_are_bulk_and_takes_no_more_while_any_is() {
    let mut end = End::server_with(3);
    assert!(!end.mux.note_bulk(1, true) && end.mux.is_pressed(Duration::from_hours(1)));
    assert!(end.mux.note_bulk(3, true) && end.mux.note_bulk(3, true) && end.mux.belongs_aside(false));
    assert!(!end.mux.note_bulk(3, false) && !end.mux.belongs_aside(false) && end.mux.belongs_aside(true));
    end.mux.let_go(1);
    assert!(!end.mux.belongs_aside(true) && !end.mux.is_pressed(Duration::ZERO));
}
