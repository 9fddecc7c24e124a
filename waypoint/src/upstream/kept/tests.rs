//! What is kept of bodies, and for how long.

use super::*;

fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

/// Of a body of which these parts have passed.
fn of(parts: &[&'static str], room: usize) -> (Kept, Keeper, Arc<Semaphore>) {
    let room = Arc::new(Semaphore::new(room));
    let (kept, keeper) = Kept::passing(&room, LONGEST);
    for part in parts {
        keeper.add(&data(*part));
    }
    (kept, keeper, room)
}

fn text(mut again: Again) -> (String, Option<HeaderMap>) {
    let (mut text, mut trailers) = (String::new(), None);
    while let Some(frame) = again.part() {
        match frame.into_data() {
            Ok(data) => text += std::str::from_utf8(&data).unwrap(),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    assert!(again.is_end());
    (text, trailers)
}

#[test]
fn a_body_that_passed_whole_can_be_sent_again_as_often_as_wanted() {
    let (kept, keeper, room) = of(&["one", "", "two"], 1000);
    assert!(kept.whole().is_none(), "its end has not passed");
    let trailers: HeaderMap = [(http::header::ETAG, "1".parse().unwrap())].into_iter().collect();
    keeper.add(&Frame::trailers(trailers.clone()));
    keeper.complete();
    for _ in 0..2 {
        assert_eq!(text(kept.whole().unwrap()), ("onetwo".to_owned(), Some(trailers.clone())));
    }
    assert_eq!(room.available_permits(), 1000 - "onetwo".len() - "etag1".len() - FIELD);
    drop(kept);
    assert_eq!(room.available_permits(), 1000, "the room is not given back");
}

#[test]
fn what_nobody_wants_any_more_is_let_go_although_the_body_goes_on() {
    let (kept, keeper, room) = of(&["one"], 1000);
    let other = kept.clone();
    drop(kept);
    assert_eq!(room.available_permits(), 997);
    drop(other);
    assert_eq!(room.available_permits(), 1000);
    keeper.add(&data("two"));
    keeper.complete();
    assert_eq!(room.available_permits(), 1000);
}

#[test]
fn bytes_on_their_way_hold_their_room() {
    let (kept, keeper, room) = of(&["one"], 1000);
    keeper.complete();
    let mut again = kept.whole().unwrap();
    drop(kept);
    let on_the_way = again.part().unwrap().into_data().unwrap();
    drop(again);
    assert_eq!(room.available_permits(), 997);
    drop(on_the_way);
    assert_eq!(room.available_permits(), 1000);
}

#[test]
fn a_body_that_is_too_much_is_let_go_at_once() {
    let (kept, keeper, room) = of(&["one", "two"], 5);
    assert_eq!(room.available_permits(), 5);
    keeper.complete();
    assert!(kept.whole().is_none());
    let (kept, keeper, room) = of(&["one"], 1 << 24);
    keeper.add(&data(vec![0_u8; LONGEST]));
    assert_eq!(room.available_permits(), 1 << 24);
    keeper.complete();
    assert!(kept.whole().is_none());
    let (kept, keeper, _) = of(&["one"], 1 << 24);
    keeper.add(&data(vec![b'x'; LONGEST - 3]));
    keeper.complete();
    assert_eq!(text(kept.whole().unwrap()).0.len(), LONGEST);
}

#[test]
fn less_is_kept_where_less_is_wanted() {
    let room = Arc::new(Semaphore::new(1 << 24));
    let (kept, keeper) = Kept::passing(&room, SHORT);
    assert!(keeper.add(&data(vec![b'x'; SHORT - 1])) && keeper.add(&data("y")));
    assert_eq!(room.available_permits(), (1 << 24) - SHORT);
    assert!(!keeper.add(&data("z")), "what comes is still wanted");
    assert_eq!(room.available_permits(), 1 << 24);
    drop(keeper);
    assert!(kept.whole().is_none());
}

#[test]
fn a_body_that_comes_byte_by_byte_takes_no_more_than_twice_its_length() {
    let (kept, keeper, room) = of(&["x"; 1000], 10_000);
    assert!((8_000..=9_000).contains(&room.available_permits()), "{}", room.available_permits());
    let (lost, keeps, little) = of(&["x"; 1000], 900);
    assert_eq!(little.available_permits(), 900);
    keeper.complete();
    keeps.complete();
    assert!(kept.whole().is_some() && lost.whole().is_none());
}

#[tokio::test]
async fn who_waits_for_the_end_is_told() {
    for whole in [true, false] {
        let (kept, keeper, _room) = of(&["one"], 1000);
        let waits = tokio::spawn({
            let kept = kept.clone();
            async move {
                kept.ended().await;
                kept.whole().and_then(|again| again.length())
            }
        });
        tokio::task::yield_now().await;
        if whole {
            keeper.complete();
        } else {
            drop(keeper);
        }
        assert_eq!(waits.await.unwrap(), whole.then_some(3));
        kept.ended().await;
        assert_eq!(kept.whole().is_some(), whole, "who asks later is told as well");
    }
}

#[test]
fn a_long_body_goes_in_pieces() {
    let (kept, keeper, _) = of(&[], 1 << 24);
    keeper.add(&data(vec![0_u8; PIECE + 1]));
    keeper.complete();
    let mut again = kept.whole().unwrap();
    let lengths: Vec<_> = std::iter::from_fn(|| again.part()).map(|frame| frame.into_data().unwrap().len()).collect();
    assert_eq!(lengths, [PIECE, 1]);
}
