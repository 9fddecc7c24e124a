use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ambit_runtime::telemetry::metric;
use clap::{CommandFactory, Parser};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration},
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, ResourceQuota, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;

use super::*;
use crate::cli::Cli;

mod state;
mod validation;

/// Everything that can be switched on.
const ALL: &str = "networkPolicies.enabled=true,resourceQuota.enabled=true,podMonitors.enabled=true,podMonitors.labels.team=a,\
                   dashboards.enabled=true,ztunnel.otlpEndpoint=http://c:4318,istiod.nodeSelector.pool=mesh,node.seLinuxOptions.type=spc_t,\
                   cni.keepProgram=true,istiod.jwksRoots=issuers,meshConfig=ambitExplain: {}";

fn settings(text: &str) -> Settings {
    let mut settings = Settings::default();
    settings.add_assignments(text).unwrap();
    settings
}

fn rendered(settings: &Settings) -> Vec<Value> {
    objects(&Release::new(NAMESPACE), settings).unwrap()
}

/// The pods' templates of all parts, by the parts' names.
fn pods(settings: &Settings) -> BTreeMap<String, Value> {
    let pod = |object: &Value| Some((object["metadata"]["name"].as_str()?.to_owned(), object.pointer("/spec/template")?.clone()));
    rendered(settings).iter().filter_map(pod).collect()
}

fn containers(pod: &Value) -> &Vec<Value> {
    pod["spec"]["containers"].as_array().unwrap()
}

fn manifests() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

#[test]
fn the_program_carries_every_file_of_the_chart() {
    fn below(root: &Path, path: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(root, &path, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let (mut templates, mut others, mut crds) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let chart = manifests().join("chart");
    below(&chart, &chart.join("templates"), &mut templates);
    below(&chart, &chart.join("dashboards"), &mut others);
    below(&manifests(), &manifests().join("crds"), &mut crds);
    let names = |files: &[(&str, &str)]| files.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!((names(files::TEMPLATES), names(files::OTHERS), names(CRDS)), (templates, others, crds));
    assert_eq!(
        chart.join("crds").canonicalize().unwrap(),
        manifests().join("crds").canonicalize().unwrap(),
        "Helm installs the same"
    );
}

#[test]
fn the_plain_yaml_is_what_the_chart_becomes() {
    let made = plain(&Release::new(NAMESPACE), &Settings::default()).unwrap();
    let there = std::fs::read_to_string(manifests().join("ambit.yaml")).unwrap_or_default();
    assert!(made == there, "manifests/ambit.yaml is old: cargo run -- install --dry-run > manifests/ambit.yaml");
}

/// Reads an object as its type; fields that the type does not have are named.
fn typed<T: DeserializeOwned>(object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let read: Result<T, _> = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    read.map_or_else(|error| vec![error.to_string()], |_| unknown)
}

#[test]
fn every_object_is_what_the_api_server_knows() {
    let release = Release::new(NAMESPACE);
    let mut objects = rendered(&settings(ALL));
    objects.extend(crds().unwrap());
    objects.push(namespace(&release.namespace));
    let mut kinds = BTreeSet::new();
    for object in &objects {
        let kind = object["kind"].as_str().unwrap();
        kinds.insert(kind);
        let wrong = match kind {
            "ClusterRole" => typed::<ClusterRole>(object),
            "ClusterRoleBinding" => typed::<ClusterRoleBinding>(object),
            "ConfigMap" => typed::<ConfigMap>(object),
            "CustomResourceDefinition" => typed::<CustomResourceDefinition>(object),
            "DaemonSet" => typed::<DaemonSet>(object),
            "Deployment" => typed::<Deployment>(object),
            "Namespace" => typed::<Namespace>(object),
            "NetworkPolicy" => typed::<NetworkPolicy>(object),
            "PodDisruptionBudget" => typed::<PodDisruptionBudget>(object),
            // A kind of the Prometheus operator: there is no type of it here.
            "PodMonitor" => Vec::new(),
            "ResourceQuota" => typed::<ResourceQuota>(object),
            "Role" => typed::<Role>(object),
            "RoleBinding" => typed::<RoleBinding>(object),
            "Service" => typed::<Service>(object),
            "ServiceAccount" => typed::<ServiceAccount>(object),
            "ValidatingAdmissionPolicy" => typed::<ValidatingAdmissionPolicy>(object),
            "ValidatingAdmissionPolicyBinding" => typed::<ValidatingAdmissionPolicyBinding>(object),
            "ValidatingWebhookConfiguration" => typed::<ValidatingWebhookConfiguration>(object),
            _ => vec!["nobody reads this kind".to_owned()],
        };
        let wrong: Vec<_> = wrong.iter().filter(|field| !["apiVersion", "kind"].contains(&field.as_str())).collect();
        assert!(wrong.is_empty(), "{kind} {}: {wrong:?}", object["metadata"]["name"]);
        assert!(super::super::kinds::Known::of(object).is_some(), "{kind} can be applied and found again");
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "ambit", "{kind} {}", object["metadata"]["name"]);
    }
    assert_eq!(kinds.len(), super::super::kinds::KNOWN.len(), "every kind that is known is used");
}

#[test]
fn containers_have_no_more_rights_than_are_given_a_reason() {
    for (part, pod) in pods(&Settings::default()) {
        for container in containers(&pod) {
            let (name, rights) = (&container["name"], &container["securityContext"]);
            assert_eq!(rights["readOnlyRootFilesystem"], true, "{part} {name}");
            assert_eq!(rights["capabilities"]["drop"], json!(["ALL"]), "{part} {name}");
            assert_eq!(rights["seccompProfile"]["type"], "RuntimeDefault", "{part} {name}");
            assert!(rights["privileged"].is_null(), "{part} {name}");
            let root = rights["runAsNonRoot"] != true;
            assert_eq!(root, part != "istiod-lite", "{part} {name}");
        }
        assert!(pod["spec"]["hostPID"].is_null() && pod["spec"]["hostIPC"].is_null(), "{part}");
    }
    let privileges =
        ["- SYS_", "- NET_", "- DAC_", "runAsUser: 0", "hostNetwork: true", "allowPrivilegeEscalation: true", "type: Unconfined"];
    let mut found = 0;
    for (file, text) in files::TEMPLATES {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| privileges.iter().any(|mark| line.contains(mark))) {
            found += 1;
            assert!(lines[at - 1].starts_with("# Reason: "), "{file}:{}: {line} has no reason", at + 1);
        }
    }
    assert!(found >= 10, "they are looked for as they are written");
}

#[test]
fn all_parts_have_one_image_and_labels_by_which_they_are_found() {
    let settings = settings("image.repository=r/ambit,image.tag=t");
    for (part, pod) in pods(&settings) {
        let images: BTreeSet<_> = containers(&pod).iter().map(|container| container["image"].as_str().unwrap()).collect();
        assert_eq!(images, BTreeSet::from(["r/ambit:t"]), "{part}");
        assert_eq!(pod["metadata"]["labels"]["istio.io/dataplane-mode"], "none", "{part} is not captured itself");
    }
    for object in rendered(&settings).iter().filter(|object| !object["spec"]["template"].is_null()) {
        let selector = object["spec"]["selector"]["matchLabels"].as_object().unwrap();
        for (label, value) in selector {
            assert_eq!(&object["spec"]["template"]["metadata"]["labels"][label], value, "{}", object["metadata"]["name"]);
            assert_ne!(label, "app.kubernetes.io/version", "what changes cannot be selected by");
        }
    }
    let digest = format!("sha256:{}", "a".repeat(64));
    let pods = pods(&self::settings(&format!("image.digest={digest}")));
    assert_eq!(containers(&pods["ztunnel"])[0]["image"], format!("ghcr.io/ambit-mesh/ambit@{digest}"));
}

#[test]
fn ports_and_volumes_that_are_named_are_there() {
    let all = settings(ALL);
    let pods = pods(&all);
    for (part, pod) in &pods {
        let volumes: BTreeSet<_> =
            pod["spec"]["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).map(Value::to_string).collect();
        let mounts = containers(pod).iter().flat_map(|container| container["volumeMounts"].as_array().unwrap());
        let mounted: BTreeSet<_> = mounts.map(|mount| mount["name"].to_string()).collect();
        assert_eq!(mounted, volumes, "{part}");
        for container in containers(pod) {
            let probe = &container["readinessProbe"]["httpGet"]["port"];
            let ports = container["ports"].as_array().cloned().unwrap_or_default();
            let known = probe.is_number() || ports.iter().any(|port| &port["name"] == probe);
            assert!(known, "{part} {}: {probe}", container["name"]);
        }
    }
    let objects = rendered(&all);
    let service = objects.iter().find(|object| object["kind"] == "Service").unwrap();
    for port in service["spec"]["ports"].as_array().unwrap() {
        assert!(
            containers(&pods["istiod-lite"])[0]["ports"]
                .as_array()
                .unwrap()
                .iter()
                .any(|known| known["name"] == port["targetPort"])
        );
    }
}

/// The root file system is read-only, and the older iptables write nothing without their lock.
#[test]
fn the_agent_has_the_lock_of_iptables_unless_it_needs_none() {
    for (backend, there) in [("auto", true), ("iptables", true), ("nftables", false)] {
        let pods = pods(&settings(&format!("node.backend={backend}")));
        let agent = containers(&pods["ambit-node"]).iter().find(|container| container["name"] == "agent").cloned().unwrap();
        let mounts = agent["volumeMounts"].as_array().unwrap().iter();
        assert_eq!(mounts.filter(|mount| mount["mountPath"] == "/run/xtables.lock").count() == 1, there, "{backend}");
    }
}

/// The arguments of every container are those of the program, and so are the variables of its environment.
#[test]
fn every_container_is_started_as_its_program_is_configured() {
    let values = BTreeMap::from([
        ("NODE_NAME", "node-1"),
        ("POD_NAME", "pod-1"),
        ("POD_NAMESPACE", "istio-system"),
        ("INSTANCE_IP", "10.0.0.1"),
        ("RUST_LOG", "info"),
    ]);
    let pods = pods(&settings(ALL));
    for (part, pod) in &pods {
        for container in containers(pod) {
            let mut arguments: Vec<String> =
                container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap().to_owned()).collect();
            let command = Cli::command();
            let program =
                command.find_subcommand(&arguments[0]).unwrap_or_else(|| panic!("{part}: there is no {}", arguments[0]));
            for variable in container["env"].as_array().unwrap() {
                let name = variable["name"].as_str().unwrap();
                let flag = program.get_arguments().find(|flag| flag.get_env().is_some_and(|env| env == name));
                let flag = flag
                    .and_then(|flag| flag.get_long())
                    .unwrap_or_else(|| panic!("{part}: {} does not read {name}", arguments[0]));
                arguments.push(format!("--{flag}={}", values[name]));
            }
            arguments.insert(0, "ambit".to_owned());
            if let Err(error) = Cli::try_parse_from(&arguments) {
                panic!("{part}: {}: {error}", arguments.join(" "));
            }
        }
    }
    assert_eq!(pods.len(), 3);
}

/// The control plane is never ready while it may not list and watch a kind that it reads. What it does not read it may not read either, and a CRD
/// of a kind that nobody reads would promise an effect.
#[test]
fn the_control_plane_may_read_every_kind_that_it_reads_and_no_other() {
    use istiod_lite::source::Kind;
    let objects = rendered(&Settings::default());
    let role =
        objects.iter().find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "istiod-lite").unwrap();
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut may = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap().iter().filter(|rule| texts(rule, "verbs") == ["list", "watch"]) {
        // Of ConfigMaps there is one that is read so.
        let of_one = texts(rule, "resources") == ["configmaps"];
        assert!(if of_one { texts(rule, "resourceNames") == ["istio"] } else { rule["resourceNames"].is_null() }, "{rule}");
        for group in texts(rule, "apiGroups") {
            may.extend(texts(rule, "resources").into_iter().map(|resource| format!("{resource}.{group}")));
        }
    }
    let name = |kind: &Kind| format!("{}.{}", kind.plural(), kind.group());
    assert_eq!(may, Kind::ALL.iter().map(name).collect::<BTreeSet<_>>());
    let crds: BTreeSet<_> = crds().unwrap().iter().map(|crd| crd["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    let ours = Kind::ALL.iter().filter(|kind| kind.group().ends_with("istio.io") || kind.group() == "ambit.dev");
    assert_eq!(crds, ours.map(name).collect::<BTreeSet<_>>());
}

#[test]
fn an_installation_that_is_not_to_read_secrets_has_no_right_to_and_does_not_ask() {
    let lists_secrets = |settings: &Settings| {
        let objects = rendered(settings);
        let role = objects.iter().find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "istiod-lite");
        role.unwrap()["rules"].as_array().unwrap().iter().any(|rule| rule["resources"].to_string().contains("\"secrets\""))
    };
    let arguments = |settings: &Settings| {
        let pods = pods(settings);
        let arguments = containers(&pods["istiod-lite"])[0]["args"].as_array().unwrap().clone();
        arguments.iter().map(|argument| argument.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let flag = "--no-gateway-secrets".to_owned();
    let reads = Settings::default();
    assert!(lists_secrets(&reads) && !arguments(&reads).contains(&flag));
    let without = settings("gateways.secrets=false");
    assert!(!lists_secrets(&without) && arguments(&without).contains(&flag));
    Cli::try_parse_from(["ambit".to_owned()].into_iter().chain(arguments(&without))).unwrap();
    // What the right in all namespaces was good for besides: those of the authority are watched.
    let verbs = |settings: &Settings| {
        let objects = rendered(settings);
        let role = objects.iter().find(|object| object["kind"] == "Role" && object["metadata"]["name"] == "istiod-lite").unwrap();
        let of_authority = |rule: &&Value| rule["resourceNames"] == serde_json::json!(["cacerts", "ambit-ca"]);
        role["rules"].as_array().unwrap().iter().find(of_authority).unwrap()["verbs"].clone()
    };
    assert_eq!(verbs(&reads), serde_json::json!(["get"]));
    assert_eq!(verbs(&without), serde_json::json!(["get", "list", "watch"]));
}

#[test]
fn settings_that_the_chart_does_not_have_are_refused_by_name() {
    let refused = |text: &str| rendered_error(&settings(text));
    for (text, parts) in [
        ("istiod.replica=3", vec!["setting istiod.replica: there is none of that name", "replicas, certificateSeconds"]),
        ("istiod.replicas=three", vec!["setting istiod.replicas: \"three\" is no integer", "How many."]),
        ("istiod.replicas=0", vec!["0 is not between 1 and 100"]),
        ("ztunnel.traceSample=2", vec!["2 is not between 0 and 1"]),
        ("ztunnel.traceSample=1.5", vec!["setting ztunnel.traceSample: \"1.5\" does not match"]),
        ("ztunnel.traceSample=true", vec!["true is no number or string"]),
        ("image.pullPolicy=Sometimes", vec!["is none of \"Always\""]),
        ("cni.confDir=etc/cni", vec!["does not match ^/"]),
        ("ztunnel.stateDir=state", vec!["setting ztunnel.stateDir", "does not match"]),
        ("node.excludeNamespaces={a,B}", vec!["node.excludeNamespaces[1]"]),
        ("image.repository=", vec!["image.repository: it is empty"]),
        ("a=1,b=2", vec!["setting a:", "setting b:"]),
    ] {
        let error = refused(text);
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
}

fn rendered_error(settings: &Settings) -> String {
    objects(&Release::new(NAMESPACE), settings).unwrap_err().to_string()
}

#[test]
fn assignments_are_read_as_helm_reads_them() {
    let given = |text: &str| settings(text).given();
    assert_eq!(given("a.b=1,a.c=x"), json!({"a": {"b": 1, "c": "x"}}));
    assert_eq!(given("a=true,b=null,c=0.5,d=007,e="), json!({"a": true, "b": null, "c": "0.5", "d": "007", "e": ""}));
    assert_eq!(given("a=False,b=0,c=-7,d=1e3"), json!({"a": false, "b": 0, "c": -7, "d": "1e3"}));
    assert_eq!(given(r"a\.b/c=d,e=f\,g"), json!({"a.b/c": "d", "e": "f,g"}));
    assert_eq!(given("l={a,b},m={}"), json!({"l": ["a", "b"], "m": []}));
    for wrong in ["a", "=1", "a..b=1", "l[0]=1"] {
        assert!(Settings::default().add_assignments(wrong).is_err(), "{wrong}");
    }
    let mut files = Settings::default();
    files.add_yaml("f", "a: {b: 1, c: 2}\n").unwrap();
    files.add_yaml("g", "# nothing\n").unwrap();
    files.add_assignments("a.b=3").unwrap();
    assert_eq!(files.given(), json!({"a": {"b": 3, "c": 2}}), "the later goes before the earlier");
    assert!(files.add_yaml("h", "- a\n").is_err());
    let without = settings("ztunnel.resources.limits=null");
    assert!(containers(&pods(&without)["ztunnel"])[0]["resources"]["limits"].is_null(), "null takes a default away");
}

/// Every setting has a line that documents it in the schema, and the schema speaks only of what there is, in words that are understood.
#[test]
fn settings_and_their_schema_are_the_same() {
    fn compare(schema: &Value, value: &Value, path: &str) {
        let words = [
            "$schema",
            "title",
            "description",
            "type",
            "properties",
            "additionalProperties",
            "required",
            "enum",
            "items",
            "minimum",
            "maximum",
            "minLength",
            "pattern",
        ];
        for word in schema.as_object().unwrap().keys() {
            assert!(words.contains(&word.as_str()), "{path}: {word} is not checked");
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            regex::Regex::new(pattern).unwrap();
        }
        assert!(path.is_empty() || schema["description"].is_string(), "{path} is not described");
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        let known: BTreeSet<_> = properties.keys().filter(|key| !(path.is_empty() && *key == "global")).collect();
        let given: BTreeSet<_> = value.as_object().unwrap().keys().collect();
        assert_eq!(known, given, "{path}");
        for (key, value) in value.as_object().unwrap() {
            compare(&properties[key], value, &format!("{path}.{key}"));
        }
    }
    let schema: Value = serde_json::from_str(files::SCHEMA).unwrap();
    compare(&schema, &values::defaults().unwrap(), "");
}

#[test]
fn what_is_switched_on_and_off_is_there_or_not() {
    let kinds = |settings: &Settings| {
        rendered(settings).iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let (few, all) = (kinds(&Settings::default()), kinds(&settings(ALL)));
    for kind in ["NetworkPolicy", "ResourceQuota", "PodMonitor", "ConfigMap"] {
        assert!(!few.contains(kind) && all.contains(kind), "{kind}");
    }
    let without = kinds(&settings("validation.webhook=false,validation.policies=false"));
    for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration"] {
        assert!(few.contains(kind) && !without.contains(kind), "{kind}");
    }
    assert!(few.contains("PodDisruptionBudget") && !kinds(&settings("istiod.replicas=1")).contains("PodDisruptionBudget"));
}

#[test]
fn dashboards_show_metrics_that_there_are() {
    let known = [
        metric::REQUESTS,
        metric::REQUEST_DURATION,
        metric::TCP_CONNECTIONS_OPENED,
        metric::TCP_CONNECTIONS_FAILED,
        metric::TCP_RECEIVED_BYTES,
        metric::TCP_SENT_BYTES,
        metric::DNS_REQUESTS,
        metric::DNS_UPSTREAM_FAILURES,
    ];
    let word = regex::Regex::new(r"\b(istio|ambit)_[a-z_]+").unwrap();
    for (file, text) in files::OTHERS {
        let dashboard: Value = serde_json::from_str(text).unwrap();
        let shown: BTreeSet<_> = word.find_iter(text).map(|name| name.as_str().trim_end_matches("_bucket")).collect();
        assert!(shown.len() > 5, "{file}");
        assert!(shown.iter().all(|name| known.contains(name)), "{file}: {shown:?}");
        let ids: BTreeSet<_> = dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len(), "{file}");
    }
}
