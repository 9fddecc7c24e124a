use std::os::unix::fs::PermissionsExt;

use ambit_api::{security, workload};
use ambit_model::policy::PolicyKey;
use ambit_xds::client::Handler;
use prost::Message;

use super::*;
use crate::state::{addresses, policies};

const DAY: Duration = Duration::from_hours(24);

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
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE);
    let first = Proxy::start(home.path());
    first.take(Kind::Address, vec![pod("web", "1")], &[]);
    first.synced_and_written().await;
    // Something else has destroyed it: with changes alone the policies would be missing.
    fs::write(&path, b"nonsense").unwrap();
    first.take(Kind::Policy, vec![policy("deny", "1", 1)], &[]);
    first.synced_and_written().await;
    assert!(!path.exists() && first.kept.status().broken.is_some());
}
