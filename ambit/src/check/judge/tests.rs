use super::*;
use crate::check::facts::Webhooks;

fn good() -> Facts {
    let node = NodeFacts {
        name: "n1".to_owned(),
        system: "linux".to_owned(),
        processor: "amd64".to_owned(),
        kernel: "6.1.0-13-cloud".to_owned(),
        runtime: "containerd://1.7.2".to_owned(),
        kubelet: "v1.36.3".to_owned(),
    };
    Facts {
        minor: 36,
        version: "v1.36.3".to_owned(),
        nodes: Some(vec![node]),
        daemon_sets: Some(vec!["kube-system/kindnet".to_owned()]),
        kube_proxy: Some("iptables".to_owned()),
        gateway_api: Some(Some("v1.6.3".to_owned())),
        admission_policies: Some(true),
        webhooks: Some(Vec::new()),
        namespace: "istio-system".to_owned(),
        ..Facts::default()
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut Facts), requirement: &str, level: Level, part: &str) {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(&facts);
    let finding = findings.iter().find(|finding| finding.requirement == requirement).unwrap();
    assert_eq!(finding.level, level, "{finding}");
    assert!(finding.to_string().contains(part), "{part}: {finding}");
    let others: Vec<_> = findings.iter().filter(|other| other.requirement != requirement && other.level == Level::Fail).collect();
    assert!(others.is_empty(), "only {requirement} should fail: {others:?}");
    assert_eq!(finding.fix.is_none(), level == Level::Ok, "what is not well has a fix: {finding}");
}

fn node(facts: &mut Facts) -> &mut NodeFacts {
    &mut facts.nodes.as_mut().unwrap()[0]
}

#[test]
fn a_good_cluster_is_good_in_everything() {
    let findings = judge(&good());
    assert_eq!(findings.len(), REQUIREMENTS.len());
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
}

#[test]
fn each_requirement_that_is_not_met_is_said_with_its_fix() {
    check(|facts| facts.minor = 30, "kubernetes", Level::Fail, "upgrade the cluster to 1.31");
    check(|facts| facts.denied = vec!["create daemonsets".to_owned()], "rights", Level::Fail, "create daemonsets");
    check(|facts| node(facts).kernel = "4.14.1".to_owned(), "nodes", Level::Fail, "n1 (amd64, 4.14.1)");
    check(|facts| node(facts).processor = "s390x".to_owned(), "nodes", Level::Fail, "s390x");
    check(|facts| node(facts).system = "windows".to_owned(), "nodes", Level::Warn, "1 of 1 nodes are not Linux");
    check(|facts| facts.nodes = None, "nodes", Level::Warn, "no node can be seen");
    check(|facts| node(facts).runtime = "docker://26".to_owned(), "runtime", Level::Warn, "docker://26");
    check(|facts| node(facts).runtime = "cri-o://1.31".to_owned(), "runtime", Level::Ok, "--set cni.keepProgram=true");
    check(|facts| node(facts).kubelet = "v1.33.1+k3s1".to_owned(), "cni-paths", Level::Warn, "cni.confDir=/var/lib/rancher");
    check(|facts| facts.cilium_exclusive = Some(true), "other-cni", Level::Fail, "cni.exclusive=false");
    check(|facts| facts.daemon_sets = None, "other-cni", Level::Warn, "cannot be seen");
    check(|facts| facts.cilium_sockets = Some(true), "kube-proxy", Level::Fail, "socketLB.hostNamespaceOnly=true");
    check(|facts| facts.kube_proxy = Some("ipvs".to_owned()), "kube-proxy", Level::Warn, "ipvs is not tested");
    check(|facts| facts.gateway_api = Some(None), "gateway-api", Level::Warn, "standard-install.yaml");
    check(|facts| facts.gateway_api = Some(Some("v0.8.1".to_owned())), "gateway-api", Level::Fail, "v0.8.1");
    check(|facts| facts.pod_security = Some("baseline".to_owned()), "pod-security", Level::Fail, "enforce=privileged");
    check(
        |facts| facts.daemon_sets = Some(vec!["istio-system/ztunnel".to_owned()]),
        "other-mesh",
        Level::Fail,
        "istio-system/ztunnel",
    );
}

#[test]
fn what_stands_in_the_way_of_validation_is_said_with_its_fix() {
    check(|facts| facts.admission_policies = Some(false), "admission-policies", Level::Fail, "--set validation.policies=false");
    check(|facts| facts.admission_policies = None, "admission-policies", Level::Warn, "cannot be seen");
    check(|facts| node(facts).kubelet = "v1.33.1-gke.1000".to_owned(), "webhook-port", Level::Warn, "TCP 15017");
    check(|facts| node(facts).kubelet = "v1.33.1-eks-0d1".to_owned(), "webhook-port", Level::Warn, "security group");
    let istios = |blocks, service: &str| {
        let services = vec![service.to_owned()];
        Some(vec![Webhooks { name: "istiod-default-validator".to_owned(), blocks, services }])
    };
    let name = "istiod-default-validator";
    check(|facts| facts.webhooks = istios(true, "istio-system/istiod"), "other-webhooks", Level::Fail, name);
    check(|facts| facts.webhooks = istios(false, "istio-system/istiod"), "other-webhooks", Level::Warn, name);
    check(|facts| facts.webhooks = istios(true, "other/istiod"), "other-webhooks", Level::Warn, name);
    check(|facts| facts.webhooks = None, "other-webhooks", Level::Warn, "cannot be seen");
}

/// The rows of the README's table are the requirements.
#[test]
fn the_readme_says_what_is_checked() {
    let readme = include_str!("../../../../README.md");
    let (_, section) = readme.split_once("## What it needs of a cluster").expect("the README has this section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let written: Vec<(String, String)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            (cells[0].to_owned(), cells[1].to_owned())
        })
        .collect();
    let checked: Vec<(String, String)> =
        REQUIREMENTS.iter().map(|requirement| (requirement.what.to_owned(), requirement.why.to_owned())).collect();
    assert_eq!(written, checked);
}
