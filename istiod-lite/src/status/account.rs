//! Service accounts that a policy names and that do not exist: no error, for they may come later, but often a slip of the pen.

use crate::index::{Index, in_namespace, service_account};
use crate::source::NamespacedName;
use crate::source::crd::{AuthorizationPolicy, Source};

/// A sentence for each service account of this mesh that the policy names and that neither an object nor a pod has.
pub fn unknown(index: &Index, policy: &AuthorizationPolicy) -> Vec<String> {
    let own = policy.metadata.namespace.as_deref().unwrap_or_default();
    let mut notes = Vec::new();
    for (position, rule) in policy.spec.rules.iter().enumerate() {
        for account in rule.from.iter().flat_map(|from| accounts(index, &from.source, own)) {
            if !exists(index, &account) {
                let trust_domain = index.config().trust_domain.as_str();
                let principal = format!("{trust_domain}/ns/{}/sa/{}", account.namespace, account.name);
                notes.push(format!("rules[{position}]: there is no service account {principal}"));
            }
        }
    }
    notes.dedup();
    notes
}

/// The service accounts named one by one, those of other trust domains left out.
fn accounts(index: &Index, source: &Source, own: &str) -> Vec<NamespacedName> {
    let principals = source.principals.iter().chain(&source.not_principals).filter_map(|principal| {
        let (trust_domain, path) = principal.split_once("/ns/")?;
        let (namespace, name) = path.split_once("/sa/")?;
        let ours = [index.config().trust_domain.as_str(), "cluster.local"].contains(&trust_domain);
        ours.then(|| NamespacedName::new(namespace, name))
    });
    let listed = source.service_accounts.iter().chain(&source.not_service_accounts).map(|account| {
        let (namespace, name) = account.split_once('/').unwrap_or((own, account));
        NamespacedName::new(namespace, name)
    });
    principals.chain(listed).filter(|account| !account.namespace.contains('*') && !account.name.contains('*')).collect()
}

/// Every namespace has an account `default`, which a directory of YAML seldom lists.
fn exists(index: &Index, account: &NamespacedName) -> bool {
    let objects = index.objects();
    *account.name == *"default"
        || objects.service_accounts.contains_key(account)
        || in_namespace(&objects.pods, &account.namespace).any(|(_, pod)| service_account(pod) == &*account.name)
}
