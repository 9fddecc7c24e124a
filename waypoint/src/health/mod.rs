//! Active health checks: each endpoint of a cluster that wants them is asked now and then whether it is well, on the way that requests take to
//! it. What follows from what is found: `upstream/live/checks.rs`.
//!
//! An endpoint has one task. It begins with the endpoint, or with another check, and ends with it; what it has found stays with the endpoint.

mod probe;

use std::{collections::HashMap, sync::Arc, time::Duration};

use ambit_model::balance::Found;
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    compiled::{Cluster, HealthCheck, Target},
    proxy::Proxy,
    upstream::{Host, destination_of},
};

/// Checks under way at once, of all clusters. Those beyond wait, and their time begins when they do not.
const AT_ONCE: usize = 256;

/// An endpoint of a cluster.
type Key = (Arc<str>, Target);

/// The task of an endpoint, and by what it goes.
struct Tended {
    host: Arc<Host>,
    check: Arc<HealthCheck>,
    task: AbortHandle,
}

impl Tended {
    fn is(&self, host: &Arc<Host>, check: &Arc<HealthCheck>) -> bool {
        Arc::ptr_eq(&self.host, host) && self.check == *check && !self.task.is_finished()
    }
}

impl Drop for Tended {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Has the endpoints checked of all clusters that want it, as they come and go. Ends when nothing changes any more.
pub async fn run(proxy: Arc<Proxy>, mut changes: watch::Receiver<()>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let (mut tasks, mut tended) = (JoinSet::new(), HashMap::<Key, Tended>::new());
    loop {
        // What changes from here on is not missed.
        changes.mark_unchanged();
        let mut before = std::mem::take(&mut tended);
        for cluster in proxy.config.load_full().clusters.values() {
            let Some(check) = &cluster.checks else { continue };
            for host in cluster.live.checked() {
                let key = (cluster.name.clone(), host.target().clone());
                let one = match before.remove(&key).filter(|one| one.is(&host, check)) {
                    Some(one) => one,
                    None => {
                        let task = tend(proxy.clone(), places.clone(), cluster.name.clone(), host.clone(), check.clone());
                        Tended { host, check: check.clone(), task: tasks.spawn(task) }
                    }
                };
                tended.insert(key, one);
            }
        }
        // Endpoints that are gone, or not checked any more.
        drop(before);
        // Those that have ended are not kept.
        while tasks.try_join_next().is_some() {}
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Checks one endpoint until its cluster is gone.
async fn tend(proxy: Arc<Proxy>, places: Arc<Semaphore>, name: Arc<str>, host: Arc<Host>, check: Arc<HealthCheck>) {
    sleep(check.begins_after(fastrand::u64(..))).await;
    loop {
        let (found, why) = match in_place(&places, check.timeout, Box::pin(ask(&proxy, &host, &check))).await {
            Some(Ok(())) => (Found::Well, None),
            Some(Err((found, why))) => (found, Some(why)),
            None => (Found::Silent, Some(format!("no answer within {:?}", check.timeout))),
        };
        // The one in force now, which may be another than that of the beginning.
        let Some(cluster) = cluster(&proxy, &name) else { return };
        cluster.live.found(&cluster, &check, &host, found, why);
        let pause = check.pause(host.is_failing(), cluster.live.is_used(), fastrand::u64(..));
        drop(cluster);
        sleep(pause).await;
    }
}

/// Asks when there is a place, and for no longer than this from then on: that others are asked says nothing of an endpoint.
async fn in_place<T>(places: &Semaphore, limit: Duration, asked: impl Future<Output = T>) -> Option<T> {
    // They are never closed.
    let _place = places.acquire().await.ok()?;
    timeout(limit, asked).await.ok()
}

fn cluster(proxy: &Proxy, name: &str) -> Option<Arc<Cluster>> {
    proxy.config.load().clusters.get(name).cloned()
}

/// One check.
async fn ask(proxy: &Proxy, host: &Host, check: &HealthCheck) -> Result<(), (Found, String)> {
    let Some(to) = destination_of(host.target()) else {
        return Err((Found::Silent, "it is no endpoint of its own".to_owned()));
    };
    probe::ask(proxy, &to, check).await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn the_time_of_a_check_begins_when_it_has_a_place() {
        let (places, limit) = (Semaphore::new(1), Duration::from_millis(200));
        let others = async {
            for _ in 0..2 {
                assert_eq!(in_place(&places, limit, pending::<()>()).await, None, "nobody answers");
            }
        };
        // The others have their turns first, which take longer than its own may.
        let waits = async {
            sleep(Duration::from_millis(50)).await;
            in_place(&places, limit, ready("well")).await
        };
        let taken = places.acquire().await.unwrap();
        let release = async {
            sleep(limit * 2).await;
            drop(taken);
        };
        let ((), well, ()) = tokio::join!(others, waits, release);
        assert_eq!(well, Some("well"));
        assert_eq!(places.available_permits(), 1);
    }
}
