//! The watches on a server that answers as a test likes.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use kube::{Client, Config, core::Status};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::source::PodSource;

/// For what has to come about on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Waits that are over soon.
const BRIEF: Limits = Limits {
    silence: Duration::from_millis(300),
    short: Duration::from_millis(100),
    answer: Duration::from_millis(300),
    page: Duration::from_millis(300),
    apart: Duration::from_millis(100),
    ..LIMITS
};

const PODS: &str = r#"{"apiVersion":"v1","kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{"metadata":
    {"name":"web","namespace":"shop","uid":"u","resourceVersion":"5"},"spec":{"containers":[]}}]}"#;
const NO_NAMESPACES: &str = r#"{"apiVersion":"v1","kind":"NamespaceList","metadata":{"resourceVersion":"7"},"items":[]}"#;
const LABELLED: &str = concat!(
    r#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","resourceVersion":"8","#,
    r#""labels":{"istio.io/dataplane-mode":"ambient"}}}}"#,
    "\n"
);
const BOOKMARK: &str =
    concat!(r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"Namespace","metadata":{"resourceVersion":"9"}}}"#, "\n");
const EXPIRED: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource "#,
    r#"version","reason":"Expired","code":410}}"#,
    "\n"
);

/// The first page of a list.
const PAGE: &str =
    r#"{"apiVersion":"v1","kind":"NamespaceList","metadata":{"resourceVersion":"6","continue":"more"},"items":[]}"#;
const GONE: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"The provided continue parameter is too old",
    "reason":"Expired","code":410}"#;

/// As the API server refuses to tell of metadata: in many lines.
const FORBIDDEN: &str = r#"{
  "kind": "Status",
  "apiVersion": "v1",
  "metadata": {},
  "status": "Failure",
  "message": "namespaces is forbidden: User \"agent\" cannot watch resource \"namespaces\" in API group \"\" at the cluster scope",
  "reason": "Forbidden",
  "details": {
    "kind": "namespaces"
  },
  "code": 403
}
"#;

/// What becomes of a request.
#[derive(Debug, Clone)]
enum Answer {
    /// It is refused with this status and text.
    Refused(&'static str, &'static str),
    /// It is answered with this, and that is all.
    Whole(String),
    /// It is answered with this, and what comes later.
    Begun(String),
    /// It is not.
    Never,
}

fn whole(parts: &[&str]) -> Answer {
    Answer::Whole(parts.concat())
}

/// What was asked for about namespaces, and a source that asks. Pods are told of as they should.
struct World {
    source: Kubernetes,
    asked: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl World {
    /// `answer` says what becomes of each request about namespaces: by whether it is a watch, and how many of that kind there were before.
    async fn start(answer: impl Fn(bool, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let mut config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        config.default_retry = false;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, heard) = (Arc::new(answer), Arc::clone(&asked));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, heard) = (Arc::clone(&answer), Arc::clone(&heard));
                connections.spawn(async move {
                    let decide = |path: String| {
                        let watch = path.contains("watch=true");
                        if path.contains("/pods?") {
                            return if watch { Answer::Begun(String::new()) } else { whole(&[PODS]) };
                        }
                        let mut heard = heard.lock().unwrap();
                        let before = heard.iter().filter(|path: &&String| path.contains("watch=true") == watch).count();
                        heard.push(path);
                        answer(watch, before)
                    };
                    let _gone = serve(stream, decide).await;
                });
            }
        });
        let client = Client::try_from(config).unwrap();
        Self { source: Kubernetes::new(client, "node-1".to_owned()), asked, _server: server }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Follows until something holds.
    async fn until(&self, limits: Limits, holds: impl Fn() -> bool) {
        self.until_for(false, limits, holds).await;
    }

    /// The same for somebody who may have done something by what was told.
    async fn until_for(&self, cautious: bool, limits: Limits, holds: impl Fn() -> bool) {
        let hold = async {
            while !holds() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let follow = async {
            tokio::select! {
                () = follow_within(&self.source, cautious, limits) => {}
                () = hold => {}
            }
        };
        assert!(timeout(PATIENCE, follow).await.is_ok(), "it does not come about: {:?}", self.asked());
    }

    /// Whether it is known that the pod's namespace has the label.
    fn is_labelled(&self) -> bool {
        self.source.pods().is_ok_and(|pods| pods.iter().any(|pod| pod.enrolled == Some(true)))
    }
}

/// Answers one request.
async fn serve(mut stream: TcpStream, decide: impl FnOnce(String) -> Answer) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body, goes_on) = match decide(path) {
        Answer::Refused(status, body) => (status, body.to_owned(), false),
        Answer::Whole(body) => ("200 OK", body, false),
        Answer::Begun(body) => ("200 OK", body, true),
        Answer::Never => return std::future::pending().await,
    };
    let head = "content-type: application/json\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("HTTP/1.1 {status}\r\n{head}{body}").as_bytes()).await?;
    if goes_on { std::future::pending().await } else { stream.shutdown().await }
}

#[tokio::test]
async fn a_request_that_is_never_answered_is_made_again() {
    let world = World::start(|watch, before| match (watch, before) {
        (_, 0) => Answer::Never,
        (false, _) => whole(&[NO_NAMESPACES]),
        (true, _) => Answer::Begun(LABELLED.to_owned()),
    })
    .await;
    world.until(BRIEF, || world.is_labelled()).await;
    assert!(world.asked().len() >= 4, "{:?}", world.asked());
}

#[tokio::test]
async fn a_refusal_is_one_failure_whatever_its_form() {
    let world = World::start(|watch, before| match (watch, before) {
        (false, _) => whole(&[NO_NAMESPACES]),
        (true, 0) => Answer::Refused("403 Forbidden", FORBIDDEN),
        (true, _) => Answer::Begun(LABELLED.to_owned()),
    })
    .await;
    world.until(LIMITS, || world.is_labelled()).await;
    assert_eq!(world.asked().len(), 3, "it is asked again for what was refused: {:?}", world.asked());
    let status = serde_json::from_str::<Status>(FORBIDDEN).unwrap();
    let said = Failure::from(kube::Error::Api(Box::new(status))).explained("namespaces");
    assert!(said.contains("cannot watch") && said.contains("the verbs list and watch for namespaces"), "{said}");
}

#[tokio::test]
async fn a_watch_that_says_nothing_and_does_not_end_is_made_again() {
    let world = World::start(|watch, before| match (watch, before) {
        (false, _) => whole(&[NO_NAMESPACES]),
        (true, 0) => Answer::Begun(String::new()),
        (true, _) => Answer::Begun(LABELLED.to_owned()),
    })
    .await;
    world.until(BRIEF, || world.is_labelled()).await;
}

#[tokio::test]
async fn a_watch_that_ends_as_soon_as_it_has_begun_is_made_again_after_a_pause() {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let watches = Arc::clone(&begun);
    let world = World::start(move |watch, _| {
        if watch {
            watches.lock().unwrap().push(Instant::now());
        }
        whole(&[if watch { "" } else { NO_NAMESPACES }])
    })
    .await;
    // However long a busy machine takes to hear of the end.
    let limits = Limits { short: PATIENCE, ..LIMITS };
    world.until(limits, || begun.lock().unwrap().len() >= 2).await;
    let pause = begun.lock().unwrap().windows(2).map(|two| two[1] - two[0]).min().unwrap();
    assert!(pause >= Duration::from_millis(500), "{pause:?}: {:?}", world.asked());
}

#[tokio::test]
async fn a_watch_goes_on_from_what_was_told_last_and_from_a_list_that_is_not_older_when_that_is_too_old() {
    let world = World::start(|watch, before| match (watch, before) {
        (false, _) => whole(&[NO_NAMESPACES]),
        (true, 0) => whole(&[LABELLED, BOOKMARK]),
        (true, 1) => whole(&[EXPIRED]),
        (true, _) => Answer::Begun(String::new()),
    })
    .await;
    world.until(LIMITS, || world.asked().len() >= 6).await;
    let asked = world.asked();
    let version = |path: &String| path.split_once("resourceVersion=").map(|(_, version)| version.to_owned());
    let versions: Vec<Option<String>> = asked.iter().map(version).collect();
    let versions: Vec<Option<&str>> = versions.iter().map(Option::as_deref).collect();
    let (any, since) = (Some("0&resourceVersionMatch=NotOlderThan"), Some("9&resourceVersionMatch=NotOlderThan"));
    // The list that it gives is older than what was told: it is believed when it is that of the store, which has nothing newer.
    assert_eq!(versions, [any, Some("7"), Some("9"), since, None, Some("7")], "{asked:?}");
    assert!(asked[4].contains("limit=500"), "{asked:?}");
    assert!(!world.is_labelled(), "the last list does not have it, though nobody told of its end");
}

#[tokio::test]
async fn a_list_whose_next_page_is_gone_is_asked_for_as_a_whole() {
    let world = World::start(|watch, before| match (watch, before) {
        (false, 0) => whole(&[PAGE]),
        (false, 1) => Answer::Refused("410 Gone", GONE),
        (false, _) => whole(&[NO_NAMESPACES]),
        (true, _) => Answer::Begun(LABELLED.to_owned()),
    })
    .await;
    world.until_for(true, LIMITS, || world.is_labelled()).await;
    let asked = world.asked();
    assert!(asked[0].contains("limit=500") && !asked[0].contains("resourceVersion"), "not the store's: {asked:?}");
    assert!(asked[1].contains("continue=more"), "{asked:?}");
    assert!(!["limit", "continue", "resourceVersion"].iter().any(|part| asked[2].contains(part)), "{asked:?}");
    assert!(asked[3].ends_with("resourceVersion=7"), "{asked:?}");
}

#[tokio::test]
async fn a_line_that_does_not_end_is_not_kept_and_everything_is_asked_for_instead() {
    let world = World::start(|watch, before| match (watch, before) {
        (false, _) => whole(&[NO_NAMESPACES]),
        (true, 0) => Answer::Begun("x".repeat(lines::LONGEST + 1)),
        (true, _) => Answer::Begun(LABELLED.to_owned()),
    })
    .await;
    world.until(LIMITS, || world.is_labelled()).await;
    assert_eq!(world.asked().len(), 4, "{:?}", world.asked());
}
