//! A waypoint, or a proxy behind it, is replaced: requests do not notice, and neither does what takes longer, but no longer than the drain.

#[path = "leaving/load.rs"]
mod load;
#[path = "leaving/rolling.rs"]
mod rolling;
#[path = "leaving/sessions.rs"]
mod sessions;
mod support;

use std::time::{Duration, Instant};

use ambit_runtime::drain::Outcome;
use http::Request;
use support::{
    WEB, billing,
    client::{Body, get, http1, http2, read},
};

#[tokio::test]
async fn a_client_that_keeps_its_connection_learns_from_an_answer_that_it_was_the_last() {
    let (mesh, service, _) = billing(193).await;
    let mut kept = http1(&mesh, WEB, service.vip).await;
    let mut silent = http1(&mesh, WEB, service.vip).await;
    let (status, headers, _) = read(kept.send_request(get("/")).await.unwrap()).await;
    assert_eq!(status, 200);
    assert!(!headers.contains_key("connection"), "{headers:?}");

    mesh.trigger.begin();
    // Neither the one that has asked before nor the one that has not is cut.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for sender in [&mut kept, &mut silent] {
        sender.ready().await.unwrap();
        let (status, headers, _) = read(sender.send_request(get("/")).await.unwrap()).await;
        assert_eq!((status, &headers["connection"]), (200, &"close".parse().unwrap()));
        assert!(sender.ready().await.is_err(), "it goes on after its last answer");
    }
    assert_eq!(mesh.trigger.drain(Duration::from_secs(10)).await, Outcome::Finished);
}

#[tokio::test]
async fn a_connection_whose_client_asks_nothing_more_does_not_hold_up_the_end() {
    let (mesh, service, _) = billing(194).await;
    let mut idle = http1(&mesh, WEB, service.vip).await;
    assert_eq!(read(idle.send_request(get("/")).await.unwrap()).await.0, 200);
    let _never_asks = http1(&mesh, WEB, service.vip).await;
    assert_eq!(mesh.trigger.drain(Duration::from_secs(15)).await, Outcome::Finished);
}

#[tokio::test]
async fn where_the_proxy_of_an_endpoint_goes_requests_take_another_connection_before_theirs_is_cut() {
    for (number, multiplexed) in [(63, false), (64, true)] {
        let (mesh, service, seen) = billing(number).await;
        let (mut one, mut many) = (http1(&mesh, WEB, service.vip).await, http2(&mesh, WEB, service.vip).await);
        let mut ask = async || match multiplexed {
            true => {
                let request = Request::get("http://billing.shop/").body(Body::default()).unwrap();
                read(many.send_request(request).await.unwrap()).await.0
            }
            false => {
                one.ready().await.unwrap();
                read(one.send_request(get("/")).await.unwrap()).await.0
            }
        };
        for _ in 0..3 {
            assert_eq!(ask().await, 200);
        }
        assert_eq!(seen.connections(), 1);

        seen.leave.notify_waiters();
        let began = Instant::now();
        while seen.connections() < 2 {
            assert!(began.elapsed() < Duration::from_secs(20), "requests still go where they will be cut");
            assert_eq!(ask().await, 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..3 {
            assert_eq!(ask().await, 200);
        }
        assert_eq!(seen.connections(), 2, "each request takes a connection of its own");
    }
}
