use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use ambit_api::envoy::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, ProcessingRequest, ProcessingResponse, body_mutation::Mutation,
    processing_response::Response as Said,
};
use ambit_identity::SpiffeId;
use ambit_runtime::{
    drain,
    telemetry::{AccessLog, Destination},
};
use ambit_tls::{
    StoreConfig, SvidStore,
    authority::{Authority, LocalSource},
};
use arc_swap::ArcSwap;
use futures::{poll, stream};
use http_body_util::StreamBody;
use prost::Message;
use tokio::sync::mpsc;

use super::*;
use crate::{
    compiled::{ExtProc, Snapshot},
    http::ext_proc::{
        call::{Place, Spoken},
        session::Session,
        tests::config,
    },
    observe::Telemetry,
    proxy::{Limits, Proxy},
    terminate::{Peer, Tunnel},
};

/// How many pieces there are.
const PIECES: u8 = 40;

type Source = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn place() -> Arc<Place> {
    let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/waypoint".parse().unwrap();
    let authority = Arc::new(Authority::create(identity.trust_domain()).unwrap());
    let source = Arc::new(LocalSource::new(authority, Duration::from_secs(3600)));
    let telemetry = Arc::new(Telemetry::new(AccessLog::open(&Destination::Off).unwrap()));
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let certificates = SvidStore::new(source, StoreConfig::default());
    let proxy = Proxy::new(snapshot, identity, certificates, telemetry, Limits::default());
    let destination = "10.0.0.1:80".parse().unwrap();
    let peer = Arc::new(Peer::new(destination, None));
    let (_, drain) = drain::channel();
    let tunnel = Tunnel { peer, destination, passed_on: HeaderMap::new(), drain, edge: None, secure: None };
    Arc::new(Place { proxy, snapshot: Arc::default(), tunnel: Arc::new(tunnel) })
}

/// A body that passes, what is said of it, and where that is answered.
fn passing() -> (Flow<Source>, mpsc::Receiver<Bytes>, mpsc::Sender<Spoken>) {
    let config = ExtProc { message_timeout: Duration::from_secs(60), ..config() };
    let half = Session::new(Arc::new(config), place()).take(Way::Request).unwrap();
    let (said, [answers, _]) = half.opened();
    (flow(half, Way::Request), said, answers)
}

fn flow(half: Half, way: Way) -> Flow<Source> {
    let pieces: Vec<_> = (0..PIECES).map(|piece| Ok(Frame::data(Bytes::from(vec![piece; 10])))).collect();
    let through = Through { half, pieces: Pieces { body: true, trailers: false }, most: 1024 };
    Flow::new(StreamBody::new(stream::iter(pieces)), way, through)
}

/// What is told while nothing is answered.
async fn ahead(flow: &mut Flow<Source>, said: &mut mpsc::Receiver<Bytes>) -> usize {
    let mut next = pin!(flow.next());
    let (mut told, mut idle) = (0, 0);
    while idle < 10 {
        assert!(poll!(next.as_mut()).is_pending(), "it goes on without an answer");
        match said.try_recv() {
            Ok(_) => (told, idle) = (told + 1, 0),
            Err(_) => idle += 1,
        }
        tokio::task::yield_now().await;
    }
    told
}

/// All that goes on, or why no more does.
async fn rest(flow: &mut Flow<Source>) -> Result<Vec<Bytes>, Stop<Infallible>> {
    let mut rest = Vec::new();
    while let Some(frame) = flow.next().await? {
        rest.push(frame.into_data().unwrap());
    }
    Ok(rest)
}

fn answer(with: u8) -> Spoken {
    let body_mutation = Some(BodyMutation { mutation: Some(Mutation::Body(vec![with])) });
    let response = Some(CommonResponse { body_mutation, ..Default::default() });
    let response = Some(Said::RequestBody(BodyResponse { response }));
    Ok(Box::new(ProcessingResponse { response, ..Default::default() }))
}

fn is_last(message: &Bytes) -> bool {
    match ProcessingRequest::decode(message.slice(5..)).unwrap().request {
        Some(Told::RequestBody(piece)) => piece.end_of_stream,
        told => panic!("{told:?}"),
    }
}

#[tokio::test]
async fn pieces_are_told_ahead_of_answers_as_far_as_there_is_room_and_answers_go_on_in_their_order() {
    let (mut flow, mut said, answers) = passing();
    let told = ahead(&mut flow, &mut said).await;
    assert_eq!(told, AHEAD);
    let answering = tokio::spawn(async move {
        let mut last = Vec::new();
        for piece in 0..=PIECES {
            if usize::from(piece) >= told {
                last.push(is_last(&said.recv().await.unwrap()));
            }
            answers.send(answer(100 + piece)).await.unwrap();
        }
        // What was told last was not known to be, so that nothing follows is told by a piece without bytes.
        assert_eq!(last.iter().position(|last| *last), Some(last.len() - 1));
        (said, answers)
    });
    let expected: Vec<Bytes> = (100..=100 + PIECES).map(|byte| Bytes::from(vec![byte])).collect();
    assert_eq!(rest(&mut flow).await.unwrap(), expected);
    answering.await.unwrap();
}

#[tokio::test]
async fn without_its_processor_a_body_goes_on_as_it_was_and_with_a_failure_it_does_not() {
    let (mut flow, mut said, answers) = passing();
    ahead(&mut flow, &mut said).await;
    answers.send(answer(100)).await.unwrap();
    drop(answers);
    let mut expected: Vec<Bytes> = (0..PIECES).map(|piece| Bytes::from(vec![piece; 10])).collect();
    expected[0] = Bytes::from(vec![100]);
    assert_eq!(rest(&mut flow).await.unwrap(), expected);
    let (mut flow, mut said, answers) = passing();
    ahead(&mut flow, &mut said).await;
    answers.send(Err("it broke off".to_owned())).await.unwrap();
    let ended = rest(&mut flow).await;
    assert!(matches!(&ended, Err(Stop::End(End::Refused(status, _))) if status.as_u16() == 500), "{ended:?}");
}

#[tokio::test]
async fn what_fails_in_one_direction_lets_nothing_pass_in_the_other_unless_that_is_allowed() {
    for failure_mode_allow in [false, true] {
        let mut session = Session::new(Arc::new(ExtProc { failure_mode_allow, ..config() }), place());
        let [request, response] = [Way::Request, Way::Response].map(|way| session.take(way).unwrap());
        let judged = request.judged(Err(Failure::from("it broke off".to_owned())));
        assert_eq!(judged.is_ok(), failure_mode_allow);
        match rest(&mut flow(response, Way::Response)).await {
            Ok(pieces) => assert!(failure_mode_allow && pieces.len() == usize::from(PIECES)),
            Err(stop) => assert!(!failure_mode_allow && matches!(stop, Stop::End(End::Refused(..)))),
        }
    }
}
