//! An API server without a network: lists in pages, watches with bookmarks, and whatever goes wrong on request.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream;
use http::{Request, Response};
use http_body::Frame;
use istiod_lite::source::Kind;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What a path answers instead of its objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Missing,
    /// 404, from something in between: the server has the kind and says so.
    Lost,
    Forbidden,
    Busy,
    /// Watches from before are too old.
    Expired,
    /// Watches open and are told nothing, as from a version that is yet to come.
    Mute,
    /// No answer at all.
    Silent,
    /// The connection is refused.
    Refused,
}

#[derive(Default)]
struct State {
    version: u64,
    /// Objects by path and `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    wrong: BTreeMap<String, Wrong>,
    watches: BTreeMap<String, Vec<mpsc::UnboundedSender<Vec<u8>>>>,
    requests: Vec<String>,
}

#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Makes or changes an object, and tells the watches of its path.
    pub fn put(&self, path: &str, object: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let mut object = object;
        object["metadata"]["resourceVersion"] = json!(version);
        let key = format!("{}/{}", object["metadata"]["namespace"], object["metadata"]["name"]);
        let old = state.objects.entry(path.into()).or_default().insert(key, object.clone());
        state.tell(path, if old.is_some() { "MODIFIED" } else { "ADDED" }, object);
    }

    pub fn delete(&self, path: &str, namespace: &str, name: &str) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let key = format!("{}/{}", json!(namespace), json!(name));
        let mut object = state.objects.get_mut(path).unwrap().remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = json!(version);
        state.tell(path, "DELETED", object);
    }

    /// A path answers wrongly from now on, and its watches end; `None` mends it.
    pub fn wrong(&self, path: &str, wrong: Option<Wrong>) {
        let mut state = self.0.lock().unwrap();
        state.watches.remove(path);
        match wrong {
            Some(wrong) => drop(state.wrong.insert(path.into(), wrong)),
            None => drop(state.wrong.remove(path)),
        }
    }

    /// The watches of a path stay open and are told nothing any more, as when a firewall has forgotten them.
    pub fn forget_watches(&self, path: &str) {
        let mut state = self.0.lock().unwrap();
        let forgotten = state.watches.remove(path).unwrap_or_default();
        state.watches.entry("forgotten".into()).or_default().extend(forgotten);
    }

    /// The requests for a path so far, without the path.
    pub fn requests(&self, path: &str) -> Vec<String> {
        let state = self.0.lock().unwrap();
        state.requests.iter().filter_map(|request| Some(request.strip_prefix(path)?.to_owned())).collect()
    }

    fn answer(&self, request: &Request<Body>) -> Option<Response<Answer>> {
        let mut state = self.0.lock().unwrap();
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        state.requests.push(format!("{path}?{query}"));
        let parameters: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let watch = parameters.contains_key("watch");
        let error = |code: u16, reason: &str, details: Value| {
            let body = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason, "details": details});
            Response::builder().status(code).body(Answer::whole(&body)).unwrap()
        };
        match state.wrong.get(&path) {
            Some(Wrong::Missing | Wrong::Lost) => return Some(error(404, "NotFound", json!({}))),
            Some(Wrong::Forbidden) => return Some(error(403, "Forbidden", json!({}))),
            Some(Wrong::Busy) => return Some(error(429, "TooManyRequests", json!({"retryAfterSeconds": 3}))),
            Some(Wrong::Expired) if watch => return Some(error(410, "Expired", json!({}))),
            Some(Wrong::Silent | Wrong::Refused) => return None,
            _ => {}
        }
        if let Some(body) = state.discovery(&path) {
            return Some(Response::new(Answer::whole(&body)));
        }
        Some(if watch { state.watch(&path, &parameters) } else { state.list(&path, &parameters) })
    }
}

impl State {
    fn tell(&mut self, path: &str, kind: &str, object: Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        if let Some(watches) = self.watches.get_mut(path) {
            watches.retain(|watch| watch.send(line.clone().into_bytes()).is_ok());
        }
    }

    /// What the server says that it has, all kinds but those that are missing: its groups, or the kinds of one version of a group.
    fn discovery(&self, path: &str) -> Option<Value> {
        let path: Vec<&str> = path.split('/').skip(1).collect();
        let has = |kind: &Kind, version: &str| {
            let path = format!("/apis/{}/{version}/{}", kind.group(), kind.plural());
            kind.versions().contains(&version) && self.wrong.get(&path) != Some(&Wrong::Missing)
        };
        match path.as_slice() {
            ["apis"] => {
                let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
                for kind in Kind::ALL.iter().filter(|kind| !kind.group().is_empty()) {
                    let versions = kind.versions().iter().copied().filter(|version| has(kind, version));
                    groups.entry(kind.group()).or_default().extend(versions);
                }
                let version =
                    |group: &str, version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
                let groups: Vec<Value> = groups
                    .into_iter()
                    .map(|(group, versions)| {
                        let versions: Vec<Value> = versions.into_iter().map(|name| version(group, name)).collect();
                        json!({"name": group, "versions": versions})
                    })
                    .collect();
                Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            ["apis", group, version] => {
                let kinds = Kind::ALL.iter().filter(|kind| kind.group() == *group && has(kind, version));
                let resources: Vec<Value> = kinds
                    .map(|kind| {
                        json!({"name": kind.plural(), "singularName": "", "namespaced": kind.namespaced(), "kind": kind.as_str(), "verbs": []})
                    })
                    .collect();
                let version = format!("{group}/{version}");
                Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}))
            }
            _ => None,
        }
    }

    fn list(&self, path: &str, parameters: &BTreeMap<&str, &str>) -> Response<Answer> {
        let from: usize = parameters.get("continue").map_or(0, |token| token.parse().unwrap());
        let limit: usize = parameters.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let all = self.objects.get(path);
        let items: Vec<&Value> = all.iter().flat_map(|all| all.values()).skip(from).take(limit).collect();
        let more = all.map_or(0, BTreeMap::len) > from + items.len();
        let token = if more { (from + items.len()).to_string() } else { String::new() };
        let body = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string(), "continue": token}, "items": items});
        Response::new(Answer::whole(&body))
    }

    fn watch(&mut self, path: &str, parameters: &BTreeMap<&str, &str>) -> Response<Answer> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // What was changed since the version is told first; deletions are not remembered.
        let from: u64 = parameters.get("resourceVersion").unwrap().parse().unwrap();
        let mute = self.wrong.get(path) == Some(&Wrong::Mute);
        for object in self.objects.get(path).into_iter().flat_map(BTreeMap::values).filter(|_| !mute) {
            if object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > from {
                let _ = sender.send(format!("{}\n", json!({"type": "MODIFIED", "object": object})).into_bytes());
            }
        }
        let key = if mute { "forgotten" } else { path };
        self.watches.entry(key.into()).or_default().push(sender);
        let frames = stream::unfold(receiver, async |mut receiver| {
            let line = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(line.into())), receiver))
        });
        Response::new(Answer(Box::pin(frames)))
    }
}

type Frames = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<bytes::Bytes>, Infallible>> + Send>>;

/// The body of an answer.
pub struct Answer(Frames);

impl Answer {
    fn whole(body: &Value) -> Self {
        let text = body.to_string();
        Self(Box::pin(stream::once(async { Ok(Frame::data(text.into())) })))
    }
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Infallible>>> {
        self.0.as_mut().poll_next(context)
    }
}

impl tower::Service<Request<Body>> for FakeApi {
    type Response = Response<Answer>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Response<Answer>, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let refused = self.0.lock().unwrap().wrong.get(request.uri().path()) == Some(&Wrong::Refused);
        match self.answer(&request) {
            Some(answer) => Box::pin(std::future::ready(Ok(answer))),
            None if refused => Box::pin(std::future::ready(Err(std::io::Error::other("connection refused")))),
            None => Box::pin(std::future::pending()),
        }
    }
}
