use std::os::unix::fs::PermissionsExt;

use ambit_api::{security, type_url, workload};
use ambit_model::policy::PolicyKey;
use ambit_xds::{Any, client::Handler};
use prost::Message;

use super::*;
use crate::{
    discovery,
    state::{Shared, addresses, policies},
};

const DAY: Duration = Duration::from_hours(24);
/// For what has to come about on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn resource(type_url: &str, name: &str, version: &str, message: &impl Message) -> Resource {
    let body = Any { type_url: type_url.to_owned(), value: message.encode_to_vec() };
    Resource { name: name.to_owned(), version: version.to_owned(), body }
}

fn pod(uid: &str, version: &str) -> Resource {
    let workload = workload::Workload { uid: uid.to_owned(), namespace: "shop".to_owned(), ..Default::default() };
    let address = workload::Address { r#type: Some(workload::address::Type::Workload(workload)) };
    resource(type_url::ADDRESS, uid, version, &address)
}

/// A policy; one with an action that nobody knows cannot be read.
fn policy(name: &str, version: &str, action: i32) -> Resource {
    let policy = security::Authorization { name: name.into(), namespace: "shop".into(), scope: 1, action, ..Default::default() };
    resource(type_url::AUTHORIZATION, &format!("shop/{name}"), version, &policy)
}

/// A proxy with its state on disk, as `run_with` puts it together.
struct Proxy {
    kept: Arc<Kept>,
    shared: Arc<Shared>,
    versions: Vec<(String, String)>,
    doubtful: Vec<String>,
    restored: bool,
}

impl Proxy {
    fn start(home: &Path) -> Self {
        let (kept, restored) = Kept::open(home, "node/cluster/domain".to_owned(), DAY);
        let shared = Arc::new(Shared::default());
        let was = restored.is_some();
        let in_force = restored.map(|restored| {
            let InForce { mut versions, .. } = put_in_force(restored.addresses, addresses(Arc::clone(&shared)));
            let policies = put_in_force(restored.policies, policies(Arc::clone(&shared)));
            versions.extend(policies.versions);
            InForce { versions, doubtful: policies.doubtful }
        });
        let InForce { versions, doubtful } = in_force.unwrap_or_default();
        Self { kept: Arc::new(kept), shared, versions, doubtful, restored: was }
    }

    fn take(&self, kind: Kind, upserts: Vec<Resource>, removals: &[&str]) {
        let removals = removals.iter().map(|name| (*name).to_owned()).collect();
        let shared = Arc::clone(&self.shared);
        match kind {
            Kind::Address => keeping(Some(Arc::clone(&self.kept)), kind, Vec::new(), addresses(shared)).apply(upserts, removals),
            Kind::Policy => {
                let doubtful = self.doubtful.clone();
                keeping(Some(Arc::clone(&self.kept)), kind, doubtful, policies(shared)).apply(upserts, removals)
            }
        };
    }

    async fn synced_and_written(&self) {
        self.shared.note(|changes| (changes.addresses_synced, changes.policies_synced) = (true, true));
        self.kept.flush(&self.shared).await;
    }
}

#[tokio::test]
async fn a_proxy_that_starts_again_knows_what_it_knew_and_says_which_versions_it_holds() {
    let home = tempfile::tempdir().unwrap();
    let first = Proxy::start(home.path());
    assert!(!first.restored);
    first.take(Kind::Address, vec![pod("web", "1"), pod("api", "1")], &[]);
    first.take(Kind::Policy, vec![policy("deny", "7", 1)], &[]);
    first.synced_and_written().await;
    first.take(Kind::Address, vec![pod("web", "2")], &["api"]);
    first.synced_and_written().await;

    let again = Proxy::start(home.path());
    let mut versions = again.versions.clone();
    versions.sort();
    assert_eq!(versions, [("shop/deny".to_owned(), "7".to_owned()), ("web".to_owned(), "2".to_owned())]);
    again.shared.read(|mesh| {
        assert!(mesh.workload("web").is_some() && mesh.workload("api").is_none());
        assert!(mesh.policy(&PolicyKey::new("shop", "deny")).is_some());
    });
    assert!(!again.shared.changes().policies_synced, "it is not in force before the control plane had its chance");
}

#[tokio::test]
async fn a_policy_that_could_not_be_read_denies_after_a_restart_too() {
    let home = tempfile::tempdir().unwrap();
    let first = Proxy::start(home.path());
    first.take(Kind::Address, vec![pod("web", "1")], &[]);
    first.take(Kind::Policy, vec![policy("bad", "1", 9), policy("good", "1", 1)], &[]);
    first.synced_and_written().await;
    // A version of a policy that cannot be read leaves the one before it in force.
    first.take(Kind::Policy, vec![policy("good", "2", 9)], &[]);
    first.synced_and_written().await;
    drop(first);
    let again = Proxy::start(home.path());
    assert!(again.versions.contains(&("shop/good".to_owned(), "1".to_owned())), "{:?}", again.versions);
    assert!(!again.versions.iter().any(|(name, _)| name == "shop/bad"), "it would not be sent again");
    again.shared.read(|mesh| {
        let web = mesh.workload("web").unwrap();
        assert_eq!(mesh.unreadable_policy_for(web), Some(&PolicyKey::new("shop", "bad")));
        assert!(mesh.policy(&PolicyKey::new("shop", "good")).is_some());
    });
    // The control plane was not told of it, so it says nothing of it when it is gone: then the first answer takes it away.
    again.take(Kind::Policy, Vec::new(), &[]);
    again.synced_and_written().await;
    again.shared.read(|mesh| assert_eq!(mesh.unreadable_policy_for(mesh.workload("web").unwrap()), None));
    assert!(Proxy::start(home.path()).doubtful.is_empty(), "it is not in the file any more");
}

#[tokio::test]
async fn a_state_of_unknown_age_or_in_a_directory_that_others_write_in_is_none() {
    let home = tempfile::tempdir().unwrap();
    let first = Proxy::start(home.path());
    first.take(Kind::Address, vec![pod("web", "1")], &[]);
    first.synced_and_written().await;
    let path = home.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() + DAY).unwrap();
    assert!(!Proxy::start(home.path()).restored, "the clock was set back since");
    fs::write(&path, &whole).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let open = Proxy::start(home.path());
    assert!(!open.restored && open.kept.status().broken.is_some_and(|why| why.contains("others may write")));
}

#[tokio::test]
async fn half_a_state_is_never_written_and_a_damaged_or_old_or_foreign_one_is_none() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE);
    let first = Proxy::start(home.path());
    first.take(Kind::Address, vec![pod("web", "1")], &[]);
    first.shared.note(|changes| changes.addresses_synced = true);
    first.kept.flush(&first.shared).await;
    assert!(!path.exists(), "the policies are missing");
    first.synced_and_written().await;
    let whole = fs::read(&path).unwrap();
    drop(first);

    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(!Proxy::start(home.path()).restored);
    assert!(!path.exists(), "changes must not be added to it");

    fs::write(&path, &whole).unwrap();
    assert!(Kept::open(home.path(), "another".to_owned(), DAY).1.is_none());
    fs::write(&path, &whole).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - 2 * DAY).unwrap();
    assert!(!Proxy::start(home.path()).restored);
    fs::write(&path, &whole).unwrap();
    assert!(Proxy::start(home.path()).restored);
}

#[tokio::test]
async fn a_state_that_cannot_be_written_any_more_is_removed() {
    for destroy in [|path: &Path| fs::write(path, b"nonsense"), |path: &Path| fs::remove_file(path)] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let first = Proxy::start(home.path());
        first.take(Kind::Address, vec![pod("web", "1")], &[]);
        first.synced_and_written().await;
        // With changes alone the policies would be missing.
        destroy(&path).unwrap();
        first.take(Kind::Policy, vec![policy("deny", "1", 1)], &[]);
        first.synced_and_written().await;
        let status = first.kept.status();
        assert!(!path.exists() && status.broken.is_some() && !status.writes);
        first.take(Kind::Policy, vec![policy("deny", "2", 1)], &[]);
        first.synced_and_written().await;
        assert!(!path.exists() && first.kept.status().pending == 0, "it goes on");
        let second = Proxy::start(home.path());
        assert!(!second.kept.status().writes, "the first one still serves, and has said that it does not");
    }
}

/// The names of what is on disk, as a proxy that starts reads them.
fn on_disk(home: &Path) -> Vec<String> {
    let mut names: Vec<String> = Proxy::start(home).versions.into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn of_two_proxies_the_one_that_takes_over_writes_once_the_other_drains_and_then_what_it_knows_itself() {
    let home = tempfile::tempdir().unwrap();
    let old = Proxy::start(home.path());
    old.take(Kind::Address, vec![pod("web", "1")], &[]);
    old.take(Kind::Policy, vec![policy("deny", "1", 1)], &[]);
    old.synced_and_written().await;

    let new = Proxy::start(home.path());
    assert!(new.restored && !new.kept.status().writes && old.kept.status().writes);
    new.take(Kind::Address, vec![pod("api", "1")], &[]);
    new.synced_and_written().await;
    assert_eq!(on_disk(home.path()), ["shop/deny", "web"], "the old one still writes");
    assert_eq!(new.kept.status().pending, 1);

    // The old one was told of a policy that is taken back before the new one hears of it. What it has not written yet, it writes at its end.
    let (_answers, answered) = watch::channel(false);
    let [first, second, third] = [answered.clone(), answered.clone(), answered];
    let run = tokio::spawn(Arc::clone(&old.kept).run(Arc::clone(&old.shared), [first, second, third]));
    old.take(Kind::Policy, vec![policy("soon-gone", "1", 0)], &[]);
    old.kept.leave().await;
    run.await.unwrap();
    assert_eq!(on_disk(home.path()), ["shop/deny", "shop/soon-gone", "web"]);
    old.take(Kind::Policy, vec![policy("late", "1", 0)], &[]);
    old.synced_and_written().await;
    assert!(
        !old.kept.status().writes && old.kept.status().pending == 0,
        "what it hears while it drains is the new one's to write"
    );

    // As long as it does not know everything, what the old one has left is better.
    new.shared.note(|changes| (changes.addresses_synced, changes.policies_synced) = (false, false));
    new.kept.flush(&new.shared).await;
    assert_eq!(on_disk(home.path()), ["shop/deny", "shop/soon-gone", "web"]);
    assert!(!new.kept.used(), "it is not by what it read itself that anybody is let in");
    new.synced_and_written().await;
    assert_eq!(on_disk(home.path()), ["api", "shop/deny", "web"], "the new one does not know of the policy that is gone");
    assert!(new.kept.status().writes);
}

#[tokio::test]
async fn a_proxy_that_stood_by_while_the_state_was_written_anew_takes_no_pods_until_it_is_told_all_or_started_anew() {
    let home = tempfile::tempdir().unwrap();
    let old = Proxy::start(home.path());
    old.take(Kind::Address, vec![pod("web", "1")], &[]);
    old.synced_and_written().await;
    let new = Proxy::start(home.path());
    old.take(Kind::Policy, vec![policy("deny", "1", 1)], &[]);
    old.synced_and_written().await;
    drop(old);

    new.kept.alone().await;
    let stands_by = |proxy: &Proxy| Box::pin(discovery::stand_by(Some(Arc::clone(&proxy.kept)), Arc::clone(&proxy.shared)));
    let mut waits = stands_by(&new);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waits).await.is_err(), "it would refuse everything");
    assert!(!new.kept.used());
    let file = tokio::time::timeout(PATIENCE, new.kept.outdated()).await.unwrap();
    assert_eq!(file, home.path().join(FILE));
    new.shared.note(|changes| (changes.addresses_synced, changes.policies_synced) = (true, true));
    tokio::time::timeout(PATIENCE, waits).await.unwrap();
    drop(new);

    let again = Proxy::start(home.path());
    tokio::time::timeout(PATIENCE, stands_by(&again)).await.unwrap();
    assert!(again.kept.used(), "it has read what the first one has left");
}

#[tokio::test]
async fn a_state_that_has_become_too_old_since_it_was_read_is_not_put_in_force() {
    let home = tempfile::tempdir().unwrap();
    let old = Proxy::start(home.path());
    old.take(Kind::Address, vec![pod("web", "1")], &[]);
    old.synced_and_written().await;
    let new = Proxy::start(home.path());
    assert!(new.restored);
    let confirm = |ago: Duration| {
        let file = fs::File::options().write(true).open(home.path().join(FILE)).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    };
    confirm(2 * DAY);
    assert!(!new.kept.used());
    confirm(DAY / 2);
    assert!(new.kept.used() && new.kept.status().age_seconds >= (DAY / 2).as_secs());
}
