//! The chart by Helm itself: it renders what this program renders, and lint has nothing to say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit::install::chart::{self, Release, values::Settings};
use serde_json::Value;

fn chart_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/chart")
}

/// Runs `helm`, which has to be there: `integration/test.sh` builds it.
fn helm(arguments: &[&str]) -> (bool, String, String) {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("helm")
        .args(arguments)
        .env("HELM_CACHE_HOME", home.path())
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_DATA_HOME", home.path())
        .env_remove("KUBECONFIG")
        .output()
        .expect("helm cannot be started: integration/test.sh builds it, for which it needs Go");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// Objects by kind, namespace and name.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| format!("{} {}/{}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]);
    let count = objects.len();
    let named: BTreeMap<_, _> = objects.into_iter().map(|object| (name(&object), object)).collect();
    assert_eq!(named.len(), count, "no object twice");
    named
}

fn documents(text: &str) -> Vec<Value> {
    let read = text.split("\n---\n").map(|part| part.trim_start_matches("---\n"));
    let read = read.filter(|part| part.lines().any(|line| !line.starts_with('#') && !line.trim().is_empty()));
    read.map(|part| serde_saphyr::from_str::<Value>(part).unwrap_or_else(|error| panic!("{error}:\n{part}"))).collect()
}

#[track_caller]
fn the_same(namespace: &str, assignments: &[&str]) {
    let mut settings = Settings::default();
    let directory = chart_directory();
    let mut arguments = vec!["template", "ambit", directory.to_str().unwrap(), "--namespace", namespace];
    for text in assignments {
        settings.add_assignments(text).unwrap();
        arguments.extend(["--set", text]);
    }
    let (good, theirs, error) = helm(&arguments);
    assert!(good, "{assignments:?}: {error}");
    let release = Release { service: "Helm".to_owned(), ..Release::new(namespace) };
    let ours = by_name(chart::objects(&release, &settings).unwrap());
    let theirs = by_name(documents(&theirs));
    assert!(ours.len() > 10);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{assignments:?}");
    for (name, object) in &ours {
        assert_eq!(object, &theirs[name], "{assignments:?}: {name}");
    }
}

#[test]
fn helm_renders_what_this_program_renders() {
    the_same("istio-system", &[]);
    the_same("istio-system", &["image.tag=1.2.3,image.pullSecrets=null", "mesh.trustDomain=example.org,istiod.replicas=1"]);
    the_same(
        "istio-system",
        &[
            "networkPolicies.enabled=true,networkPolicies.apiServer={10.0.0.1/32,fd00::/64},resourceQuota.enabled=true,dashboards.enabled=true",
        ],
    );
    the_same("istio-system", &["meshConfig=ambitExplain: {}"]);
    the_same("istio-system", &["podMonitors.enabled=true,podMonitors.labels.release=prometheus", "podMonitors.interval=1m"]);
    the_same(
        "istio-system",
        &["ztunnel.otlpEndpoint=http://collector.obs:4318,ztunnel.traceSample=0.5,ztunnel.drainSeconds=120"],
    );
    the_same(
        "istio-system",
        &[
            r"istiod.nodeSelector.topology\.kubernetes\.io/zone=a,ztunnel.podAnnotations.note=yes",
            "node.excludeNamespaces={kube-system,monitoring},node.seLinuxOptions.type=spc_t",
            "ztunnel.resources.limits=null,istiod.resources.limits.cpu=0.5,istiod.log=debug,cni.binDir=/home/kubernetes/bin",
        ],
    );
    let digest = format!("image.digest=sha256:{}", "0123456789abcdef".repeat(4));
    the_same("istio-system", &[&digest]);
}

#[test]
fn helm_refuses_the_settings_that_this_program_refuses() {
    let directory = chart_directory();
    for wrong in [
        "istiod.replica=3",
        "istiod.replicas=0",
        "image.pullPolicy=Sometimes",
        "cni.confDir=etc/cni",
        "ztunnel.traceSample=2",
        "ztunnel.traceSample=1.5",
        "ztunnel.accessLogSample=true",
    ] {
        let mut settings = Settings::default();
        settings.add_assignments(wrong).unwrap();
        assert!(chart::objects(&Release::new("istio-system"), &settings).is_err(), "{wrong}");
        let (good, ..) = helm(&["template", "ambit", directory.to_str().unwrap(), "--namespace", "istio-system", "--set", wrong]);
        assert!(!good, "{wrong}");
    }
}

/// The control plane looks for what holds for the whole mesh in this namespace.
#[test]
fn another_namespace_is_refused_by_both() {
    let release = Release { service: "Helm".to_owned(), ..Release::new("mesh") };
    let error = chart::objects(&release, &Settings::default()).unwrap_err().to_string();
    assert!(error.contains("istio-system"), "{error}");
    let (good, _, error) = helm(&["template", "ambit", chart_directory().to_str().unwrap(), "--namespace", "mesh"]);
    assert!(!good && error.contains("istio-system"), "{error}");
}

#[test]
fn lint_has_nothing_to_say() {
    let (good, said, error) = helm(&["lint", "--strict", "--namespace", "istio-system", chart_directory().to_str().unwrap()]);
    assert!(good && said.contains("0 chart(s) failed"), "{said}{error}");
}
