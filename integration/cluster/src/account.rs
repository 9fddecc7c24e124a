//! Service accounts with the rights that an installation of Ambit gives them, and no others.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::{Api, PostParams};

use crate::api_server::ApiServer;
use crate::audit::{Findings, Right, compare};
use crate::error::{Error, Result};

/// What `kubectl apply -f` installs.
const INSTALLED: &str = include_str!("../../../manifests/ambit.yaml");
/// Where it installs it.
const NAMESPACE: &str = "istio-system";
/// How long roles may take to be in force, and their use to come about.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// An account.
#[derive(Debug)]
pub struct Account {
    /// Its name as a user.
    pub user: String,
    kubeconfig: PathBuf,
    rights: Vec<Right>,
}

impl Account {
    /// A kubeconfig of it.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Its rights.
    #[must_use]
    pub fn rights(&self) -> &[Right] {
        &self.rights
    }
}

impl ApiServer {
    /// Gives a service account of the mesh its roles, and waits until they are in force.
    ///
    /// # Errors
    /// It has none, or the API server refuses one.
    pub async fn account(&self, name: &str) -> Result<Account> {
        let roles = roles(name);
        if roles.is_empty() {
            return Err(Error::failed(format!("looking for the roles of {name}"), "manifests/ambit.yaml has none"));
        }
        self.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}")).await?;
        self.apply(&roles.join("\n---\n")).await?;
        self.account_as_it_is(name).await
    }

    /// A service account of the mesh with the roles that it has already, once they are in force.
    ///
    /// # Errors
    /// It has none.
    pub async fn account_as_it_is(&self, name: &str) -> Result<Account> {
        let user = format!("system:serviceaccount:{NAMESPACE}:{name}");
        let client = self.client().await?;
        let asking = |cause| Error::Api { doing: format!("reading the roles of {name}"), cause: Box::new(cause) };
        let everywhere = Api::<ClusterRole>::all(client.clone()).get_opt(name).await.map_err(asking)?;
        let here = Api::<Role>::namespaced(client.clone(), NAMESPACE).get_opt(name).await.map_err(asking)?;
        let mut rights = Vec::new();
        for rule in everywhere.and_then(|role| role.rules).into_iter().flatten().enumerate() {
            expand(&format!("ClusterRole {name}"), None, rule, &mut rights);
        }
        for rule in here.and_then(|role| role.rules).into_iter().flatten().enumerate() {
            expand(&format!("Role {name}"), Some(NAMESPACE), rule, &mut rights);
        }
        let began = Instant::now();
        for right in &rights {
            while !allowed(&client, &user, right).await? {
                if began.elapsed() > PATIENCE {
                    return Err(Error::failed(format!("waiting for the roles of {name}"), format!("it may not {right}")));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(Account { kubeconfig: self.kubeconfig_of(&user, None)?, user, rights })
    }

    /// Waits until an account has used each of its rights that `counts` names for something that it could not have done without, and fails
    /// if it never does, or if it asks for anything that it has no right to.
    ///
    /// # Errors
    /// Which rights it does not need, or which it lacks.
    pub async fn uses_each_right(&self, account: &Account, counts: impl Fn(&Right) -> bool) -> Result<()> {
        let doing = format!("holding the roles of {} against their use", account.user);
        let began = Instant::now();
        loop {
            let Findings { refused, mut unused } = compare(&account.rights, &self.requests_of(&account.user)?);
            if !refused.is_empty() {
                let refused: Vec<_> = refused.into_iter().collect();
                return Err(Error::failed(doing, format!("it has no right to\n  {}", refused.join("\n  "))));
            }
            unused.retain(&counts);
            if unused.is_empty() {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let unused: Vec<_> = unused.iter().map(ToString::to_string).collect();
                let what = "nothing that it does takes these rights, which should go, or the test should do what takes them";
                return Err(Error::failed(doing, format!("{what}:\n  {}", unused.join("\n  "))));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The roles of an account with what binds them, as they are written.
fn roles(name: &str) -> Vec<&'static str> {
    let kinds = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    let is_role = |part: &&str| {
        let has = |text: &str| part.lines().any(|line| line == text);
        kinds.iter().any(|kind| has(&format!("kind: {kind}"))) && has(&format!("  name: {name}"))
    };
    INSTALLED.split("\n---\n").filter(is_role).collect()
}

/// Each verb of a rule on each of its resources and names.
fn expand(role: &str, namespace: Option<&str>, (number, rule): (usize, PolicyRule), rights: &mut Vec<Right>) {
    let names = rule.resource_names.filter(|names| !names.is_empty());
    let names: Vec<_> = names.map_or_else(|| vec![None], |names| names.into_iter().map(Some).collect());
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                rights.extend(names.iter().map(|name| Right {
                    role: format!("{role}, rule {}", number + 1),
                    namespace: namespace.map(str::to_owned),
                    group: group.clone(),
                    resource: resource.clone(),
                    name: name.clone(),
                    verb: verb.clone(),
                }));
            }
        }
    }
}

/// Whether the API server would allow it.
async fn allowed(client: &kube::Client, user: &str, right: &Right) -> Result<bool> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource.as_str(), None),
    };
    let attributes = ResourceAttributes {
        group: Some(right.group.clone()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(right.verb.clone()),
        namespace: right.namespace.clone(),
        name: right.name.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.to_owned()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|cause| Error::Api { doing: format!("asking what {user} may do"), cause: Box::new(cause) })?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_of_an_installation_are_found_by_their_account() {
        for (name, count) in [("istiod-lite", 4), ("ambit-node", 4), ("ztunnel", 0)] {
            assert_eq!(roles(name).len(), count, "{name}: the roles are looked for as they are written");
        }
    }

    #[test]
    fn a_rule_is_as_many_rights_as_it_has_verbs_resources_and_names() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let rule = PolicyRule {
            api_groups: Some(list(&[""])),
            resources: Some(list(&["pods", "pods/status"])),
            resource_names: Some(list(&["a", "b"])),
            verbs: list(&["get", "patch"]),
            ..PolicyRule::default()
        };
        let mut rights = Vec::new();
        expand("Role r", Some("shop"), (2, rule), &mut rights);
        assert_eq!(rights.len(), 8);
        assert_eq!(rights[7].to_string(), "patch pods/status named b in namespace shop (Role r, rule 3)");
    }
}
