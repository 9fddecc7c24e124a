//! The watches of the API server: pods of the node, and the labels of all namespaces.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Resource,
    core::{PartialObjectMeta, Status},
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, time::Instant};

use super::{Kubernetes, chain, pauses::Pauses};

/// How long a watch lasts before it is asked for again, in seconds: one whose connection has died without a word is noticed soon after,
/// when nothing is read ([`super::SILENCE`]).
pub(super) const LONGEST: u32 = 60;
/// A list is asked for again at most this often.
const APART: Duration = Duration::from_secs(2);
/// And at least this often, or up to twice as seldom: a server that was restored from an older state has nothing to tell of what comes
/// after a version that it will not reach for long, and says nothing of that.
const ANEW: Duration = Duration::from_secs(600);

/// Keeps what is known as the API server has it, for ever.
pub(super) async fn follow(source: &Kubernetes) {
    let of_node = watcher::Config::default().timeout(LONGEST).fields(&format!("spec.nodeName={}", source.node));
    let pods = keep(source, &source.doubted, Api::<Pod>::all(source.client.clone()), of_node, "pods", |event| {
        source.change(|store| store.pod(event));
    });
    let all = watcher::Config::default().timeout(LONGEST);
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(source.client.clone());
    let namespaces = keep(source, &source.doubted_namespaces, namespaces, all, "namespaces", |event| {
        source.change(|store| store.namespace(event));
    });
    tokio::join!(pods, namespaces);
}

async fn keep<K>(
    source: &Kubernetes,
    doubted: &Notify,
    api: Api<K>,
    config: watcher::Config,
    what: &'static str,
    mut apply: impl FnMut(Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (mut failing, mut expired, mut pauses) = (false, false, Pauses::new());
    loop {
        let begun = Instant::now();
        let mut told = pin!(watcher(api.clone(), config.clone()));
        let mut anew = pin!(tokio::time::sleep(ANEW.mul_f64(1.0 + fastrand::f64())));
        // A list that is under way removes every doubt, if it may come to its end.
        let mut listing = true;
        loop {
            let event = tokio::select! {
                event = told.next() => event,
                () = doubted.notified(), if !listing => {
                    tracing::info!(what, "what the API server told may be out of date, and is asked for anew");
                    break;
                }
                () = &mut anew, if !listing => break,
            };
            match event {
                Some(Ok(event)) => {
                    // That a list begins is no answer yet.
                    if !matches!(event, Event::Init) && std::mem::take(&mut failing) {
                        tracing::info!(what, "the API server tells again");
                    }
                    listing = matches!(event, Event::Init | Event::InitApply(_));
                    apply(event);
                }
                Some(Err(error)) => {
                    let why = explained(&error, what);
                    metrics::counter!("ambit_kubernetes_watch_failures_total", "what" => what).increment(1);
                    // Once, however long it takes.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            what,
                            why,
                            "the API server cannot be heard; pods stay as they are, and none of which nothing is known starts"
                        );
                    }
                    source.state().failed(what == "pods", why);
                    // It answers, as it does after a while away: the list that it wants to be asked for must not wait as long as the
                    // last attempt did. If that ends so, too, it must.
                    let again = std::mem::replace(&mut expired, is_expired(&error));
                    if expired && !again {
                        pauses.begin_anew();
                    }
                    tokio::time::sleep(pauses.failed(Instant::now(), fastrand::f64())).await;
                    if expired {
                        break;
                    }
                }
                None => break,
            }
        }
        tokio::time::sleep_until(begun + APART).await;
    }
}

/// What the API server said, if it is its answer that is the failure.
fn refused(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether it knows no longer what has changed since it was heard last: all is to be asked for anew.
fn is_expired(error: &watcher::Error) -> bool {
    refused(error).is_some_and(|status| status.code == 410)
}

/// What is wrong, and what to do about it where that is known.
fn explained(error: &watcher::Error, what: &str) -> String {
    match refused(error) {
        Some(status) if status.code == 403 => {
            format!("{}; give the agent's service account the verbs list and watch for {what} (ClusterRole)", status.message)
        }
        Some(status) if status.code == 401 => {
            format!("{}; the agent's token or certificate is not accepted", status.message)
        }
        Some(status) => status.message.clone(),
        None => chain(error),
    }
}
