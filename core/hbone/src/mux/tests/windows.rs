//! Flow control in both directions.

use super::*;

#[test]
fn windows_below_nothing_hold_a_tunnel_back_until_they_are_above_it() {
    let (mut end, bell) = (End::server_with(1), Arc::<Bell>::default());
    assert_eq!(end.sends(1, 200_000, &bell), Some(200_000));
    end.says();
    let window = |size| Parameters { initial_window_size: Some(size), ..Parameters::default() };
    end.hears(|out, _| encode::settings(out, &window(100_000))).unwrap();
    assert_eq!(end.sends(1, 10, &bell), None);
    end.hears(|out, _| encode::window_update(out, 1, 100_000)).unwrap();
    end.grants();
    assert_eq!((bell.rung(), end.sends(1, 10, &bell)), (0, None), "the window is exactly 0");
    end.hears(|out, _| encode::window_update(out, 1, 5)).unwrap();
    end.grants();
    assert_eq!((bell.rung(), end.sends(1, 10, &bell)), (1, Some(5)));
    assert_eq!(end.sends(1, 10, &bell), None);
    end.hears(|out, _| encode::settings(out, &window(100_001))).unwrap();
    end.grants();
    assert_eq!((bell.rung(), end.sends(1, 10, &bell)), (1, Some(1)));
}

#[test]
fn the_connections_window_is_waited_for() {
    let (mut end, bell) = (End::server_with(2), Arc::<Bell>::default());
    end.mux.window = 1000;
    assert_eq!(end.sends(1, 5000, &bell), Some(1000));
    assert_eq!((end.sends(1, 5000, &bell), end.sends(3, 5000, &bell)), (None, None));
    end.says();
    assert!(!end.grants());
    assert_eq!(bell.rung(), 0);
    end.hears(|out, _| encode::window_update(out, 0, 3000)).unwrap();
    end.grants();
    assert_eq!(bell.rung(), 2);
    assert_eq!((end.sends(1, 5000, &bell), end.sends(3, 5000, &bell)), (Some(3000), None));
}

#[test]
fn windows_that_grow_too_large_end_what_they_belong_to() {
    let most = (1 << 31) - 1;
    let mut end = End::server_with(1);
    end.hears(|out, _| encode::window_update(out, 1, most)).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::FLOW_CONTROL_ERROR)]);
    assert_eq!(code_of(end.hears(|out, _| encode::window_update(out, 0, most))), Some(code::FLOW_CONTROL_ERROR));
    let mut end = End::server_with(1);
    end.hears(|out, _| encode::window_update(out, 1, most - (1 << 20))).unwrap();
    let wider = Parameters { initial_window_size: Some((1 << 20) + 1), ..Parameters::default() };
    assert_eq!(code_of(end.hears(|out, _| encode::settings(out, &wider))), Some(code::FLOW_CONTROL_ERROR));
}

#[test]
fn bytes_beyond_a_window_are_a_flow_control_error() {
    let mut end = End::server_with(1);
    end.hears_data(1, 100_000, false).unwrap();
    end.hears_data(1, 1, false).unwrap();
    assert_eq!(resets(&end.says()), [(1, code::FLOW_CONTROL_ERROR)]);

    let mut end = End::server_with(5);
    end.mux.credit = Credit::new(65_535);
    end.hears_data(1, 60_000, false).unwrap();
    end.says();
    end.mux.credit = Credit::new(65_535);
    assert_eq!(code_of(end.hears_data(3, 65_536, false)), Some(code::FLOW_CONTROL_ERROR));
}

#[test]
fn what_is_read_is_given_back_when_half_a_window_has_come_together() {
    let mut end = End::server_with(1);
    let widened = |frames: &[Frame], of: u32| -> u32 {
        let by = |frame: &Frame| match frame {
            Frame::WindowUpdate { stream, increment } if *stream == of => Some(*increment),
            _ => None,
        };
        frames.iter().filter_map(by).sum()
    };
    end.hears_data(1, 90_000, false).unwrap();
    assert_eq!(widened(&end.says(), 1), 0);
    assert!(matches!(end.reads(1, 49_999), Poll::Ready(Ok(49_999))));
    assert_eq!(widened(&end.says(), 1), 0);
    assert!(matches!(end.reads(1, 1), Poll::Ready(Ok(1))));
    assert_eq!(widened(&end.says(), 1), 50_000);
    // The connection's window does not wait for the reader.
    end.hears_data(1, 60_000, false).unwrap();
    assert_eq!(widened(&end.says(), 0), 150_000);
}

#[test]
fn more_is_acknowledged_than_was_handed_out_and_nothing_comes_of_it() {
    let mut end = End::server_with(1);
    end.hears_data(1, 60_000, false).unwrap();
    end.says();
    end.mux.consumed(1, 60_000);
    assert!(end.says().is_empty());
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(Some(chunk))) = end.mux.poll_chunk(1, &mut cx) else { panic!("no chunk") };
    end.mux.consumed(1, chunk.len() + 1000);
    assert_eq!(end.says().len(), 1);
}
