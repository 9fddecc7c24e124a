//! The rights that an installation gives the control plane, and no others, for tests on a real API server.

use std::path::PathBuf;

use ambit_cluster::ApiServer;

/// What `kubectl apply -f` installs.
const INSTALLED: &str = include_str!("../../../manifests/ambit.yaml");
/// The control plane's service account in it.
const ACCOUNT: &str = "system:serviceaccount:istio-system:istiod-lite";

/// Gives the control plane's account its roles, and returns a kubeconfig of it.
pub async fn kubeconfig(api: &ApiServer) -> PathBuf {
    let kinds = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    let is_role = |part: &&str| {
        let has = |text: &str| part.lines().any(|line| line == text);
        kinds.iter().any(|kind| has(&format!("kind: {kind}"))) && has("  name: istiod-lite")
    };
    let roles: Vec<&str> = INSTALLED.split("\n---\n").filter(is_role).collect();
    assert_eq!(roles.len(), kinds.len(), "the roles are looked for as they are written");
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}").await.unwrap();
    api.apply(&roles.join("\n---\n")).await.unwrap();
    api.kubeconfig_of(ACCOUNT, None).unwrap()
}
