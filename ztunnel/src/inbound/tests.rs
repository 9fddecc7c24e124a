use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
};

use ambit_api::workload as wire;
use ambit_model::policy::{Action, Group, Policy, PolicyKey, Scope};
use ambit_runtime::telemetry::Direction;

use super::*;
use crate::test_support::{pod, proxy};

fn deny_all() -> Policy {
    let groups = vec![Group { clauses: Vec::new() }];
    let key = PolicyKey::new("shop", "closed");
    Policy { key, scope: Scope::Namespace, action: Action::Deny, dry_run: false, not_understood: false, groups }
}

fn web() -> Arc<Workload> {
    let web = wire::Workload { uid: "web".into(), namespace: "shop".into(), ..Default::default() };
    Arc::new(web.try_into().unwrap())
}

fn connection() -> Connection {
    Connection { source: None, source_ip: "10.0.0.1".parse().unwrap(), destination: "10.0.0.2:80".parse().unwrap() }
}

/// Bytes that are carried as soon as someone looks.
struct AtOnce(Arc<AtomicBool>);

impl Future for AtOnce {
    type Output = Outcome;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
        self.0.store(true, Ordering::Relaxed);
        Poll::Ready(Outcome { sent: 0, received: 0, ended_by: EndedBy::Finished })
    }
}

/// Lets a connection in, or takes it as one that was; does `meanwhile`, and carries it. Returns whether its bytes were looked at, and its
/// line in the log.
async fn carried(decided: bool, meanwhile: impl FnOnce(&Shared)) -> (bool, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let (proxy, pod) = (Arc::new(proxy(log.path())), pod());
    let web = web();
    proxy.state.write(false, |mesh| mesh.insert_workload(Workload::clone(&web)));
    let connection = connection();
    let (from, to) = (SocketAddr::new(connection.source_ip, 4000), connection.destination);
    let mut record = proxy.telemetry.begin(Direction::Inbound, from, to);
    if decided {
        permit((&proxy, &pod), &web, None, from, to, &mut record).unwrap();
    }
    meanwhile(&proxy.state);
    let watched = Watched::new(&proxy, web, connection, &mut record);
    let looked = Arc::new(AtomicBool::new(false));
    carry(record, proxy.place(&pod).unwrap(), AtOnce(Arc::clone(&looked)), watched).await;
    proxy.telemetry.flush();
    (looked.load(Ordering::Relaxed), std::fs::read_to_string(log.path()).unwrap())
}

#[tokio::test]
async fn a_connection_that_was_let_in_is_carried() {
    let (looked, line) = carried(true, |_| {}).await;
    assert!(looked && line.contains(" reason=ok "), "{line}");
}

#[tokio::test]
async fn a_policy_that_arrives_while_the_application_is_dialled_ends_the_connection_before_its_first_byte() {
    // Known to have been decided before it, or not known when.
    for decided in [true, false] {
        let (looked, line) = carried(decided, |state| state.write(true, |mesh| mesh.insert_policy(deny_all()))).await;
        assert!(!looked && line.contains(" policy=shop/closed reason=policy_denied_explicit "), "{decided} {line}");
    }
}

#[test]
fn who_is_let_in_while_a_policy_arrives_is_decided_by_it_or_told_of_it() {
    const ROUNDS: usize = 10_000;
    let (state, web) = (Shared::default(), web());
    let decisions = Decisions::default();
    let decided = || {
        decisions.get(state.changes().version, &connection(), || {
            let allowed = again(&state, &web, &connection())?;
            Ok(Decided { allowed, source: None })
        })
    };
    let start = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        // It only counts: who panics would leave the other one waiting.
        let client = scope.spawn(|| {
            let mut missed = 0;
            for _ in 0..ROUNDS {
                state.write(true, |mesh| mesh.remove_policy(&deny_all().key));
                let remembered = decided().is_ok();
                start.wait();
                let policies = state.policies_of(&web.uid);
                let let_in = decided().is_ok();
                start.wait();
                missed += usize::from(!remembered || let_in && !policies.has_changed().unwrap_or(false));
            }
            missed
        });
        for _ in 0..ROUNDS {
            start.wait();
            state.write(true, |mesh| mesh.insert_policy(deny_all()));
            start.wait();
        }
        assert_eq!(client.join().unwrap(), 0);
    });
}
