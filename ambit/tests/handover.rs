//! An installation goes from `ambit` to Helm and back, on a real API server without nodes.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

use ambit_cluster::ApiServer;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/chart");

/// Runs a program against the cluster: whether it went well, and all that it printed.
fn run(api: &ApiServer, mut program: Command, arguments: &[&str]) -> (bool, String) {
    let output =
        program.args(arguments).arg("--kubeconfig").arg(api.kubeconfig()).output().unwrap_or_else(|error| {
            panic!("{program:?} cannot be started, which integration/test.sh builds if it is Helm: {error}")
        });
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout) + &text(output.stderr))
}

fn ambit(api: &ApiServer, arguments: &[&str]) -> (bool, String) {
    run(api, Command::new(env!("CARGO_BIN_EXE_ambit")), arguments)
}

/// What comes of handing over to Helm while nothing can be printed there.
fn to_helm_into(api: &ApiServer, output: Stdio) -> (bool, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_ambit"));
    program.stdout(output);
    run(api, program, &["uninstall", "--to-helm"])
}

/// Helm with the chart as the release `ambit`.
fn helm(api: &ApiServer, home: &Path, arguments: &[&str]) -> (bool, String) {
    let mut program = Command::new("helm");
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        program.env(variable, home);
    }
    let release = ["upgrade", "ambit", CHART, "--namespace", "istio-system"];
    run(api, program, &[&release, arguments].concat())
}

#[track_caller]
fn good((good, said): (bool, String)) -> String {
    assert!(good, "{said}");
    said
}

#[track_caller]
fn refused((good, said): (bool, String), parts: &[&str]) {
    assert!(!good && parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
}

async fn seen(api: &ApiServer, kinds: &str, path: &str) -> String {
    api.kubectl(&["get", "-n", "istio-system", kinds, "-o", &format!("jsonpath={path}"), "--show-managed-fields"]).await.unwrap()
}

#[tokio::test]
async fn an_installation_goes_to_helm_and_back_without_a_restart_and_leaves_nothing_of_the_other() {
    let api = ApiServer::start().await.unwrap();
    // No controller of namespaces runs that would end one which goes.
    api.kubectl(&["create", "namespace", "istio-system"]).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    good(ambit(&api, &["install", "--set", "istiod.replicas=3,ztunnel.podAnnotations.note=kept"]));
    let workloads = "{range .items[*]}{.metadata.uid} {.spec.template} {end}";
    let before = seen(&api, "deployments,daemonsets", workloads).await;
    refused(helm(&api, home.path(), &["--install"]), &["cannot be imported into the current release"]);

    // The settings are kept until somebody has them.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    refused(to_helm_into(&api, full.into()), &["printing"]);
    let (reader, unread) = std::io::pipe().unwrap();
    drop(reader);
    refused(to_helm_into(&api, unread.into()), &["nobody has read the settings", "ambit uninstall --to-helm > FILE"]);
    refused(ambit(&api, &["uninstall"]), &["belongs to Helm"]);
    let settings = good(ambit(&api, &["uninstall", "--to-helm"]));
    assert!(settings.contains("replicas: 3"), "{settings}");
    let file = home.path().join("settings.yaml");
    std::fs::write(&file, &settings).unwrap();
    refused(ambit(&api, &["upgrade"]), &["there is no installation"]);
    refused(ambit(&api, &["install"]), &["belongs to Helm", "--from-helm"]);
    refused(ambit(&api, &["uninstall"]), &["belongs to Helm"]);
    good(helm(&api, home.path(), &["--install", "--values", file.to_str().unwrap()]));
    assert_eq!(seen(&api, "deployments,daemonsets", workloads).await, before, "no pod is made anew:\n{settings}");

    // Helm changes what it wants, and takes away what it does not want any more, without forcing anything.
    good(helm(&api, home.path(), &["--set", "istiod.replicas=2"]));
    assert_eq!(seen(&api, "deployment/istiod-lite", "{.spec.replicas}").await, "2");
    assert_eq!(seen(&api, "daemonset/ztunnel", "{.spec.template.metadata.annotations.note}").await, "");

    refused(ambit(&api, &["install", "--from-helm"]), &["forgets Helm's settings", "helm get values ambit -n istio-system"]);
    // What is part of another release is left to it, and all with it.
    let annotated = async |release: &str| {
        let annotation = format!("meta.helm.sh/release-name={release}");
        api.kubectl(&["annotate", "--overwrite", "-n", "istio-system", "daemonset/ztunnel", &annotation]).await.unwrap();
    };
    annotated("other").await;
    let parts = ["DaemonSet istio-system/ztunnel is of Helm's release other", "helm uninstall other -n istio-system"];
    refused(ambit(&api, &["install", "--from-helm", "--set", "istiod.replicas=4"]), &parts);
    assert!(seen(&api, "secrets", "{.items[*].metadata.labels.owner}").await.contains("helm"), "its release is kept");
    annotated("ambit").await;
    let given = home.path().join("given.yaml");
    std::fs::write(&given, "istiod: {replicas: 4}\n").unwrap();
    let from_helm = ["install", "--from-helm", "-f", given.to_str().unwrap()];
    let said = good(ambit(&api, &from_helm));
    assert!(
        said.contains("in release ambit") && said.contains("Secret istio-system/sh.helm.release.v1.ambit.v1 deleted"),
        "{said}"
    );
    assert_eq!(seen(&api, "deployment/istiod-lite", "{.spec.replicas}").await, "4");
    let whose = seen(&api, "daemonset/ztunnel", "{.metadata.managedFields[*].manager} {.metadata.annotations}").await;
    assert!(whose.contains("ambit-install") && !whose.contains("helm"), "{whose}");
    refused(ambit(&api, &from_helm), &["nothing of the mesh in this cluster was installed by Helm"]);
    refused(helm(&api, home.path(), &[]), &["has no deployed releases"]);
    let said = good(ambit(&api, &["uninstall"]));
    assert!(said.contains("nothing is left"), "{said}");
}
