use clap::{CommandFactory, Parser};
use gateway_api::gateways::Gateway;
use serde_json::{Value, json};

use super::gateway::{Progress, manifest, progress};
use super::*;
use crate::cli::Cli;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    command: WaypointCommand,
}

fn parse(words: &str) -> Result<WaypointCommand, String> {
    let parsed = Line::try_parse_from(std::iter::once("waypoint").chain(words.split_whitespace()));
    parsed.map(|line| line.command).map_err(|error| error.to_string())
}

#[test]
fn without_a_subcommand_it_is_the_proxy_with_the_flags_it_always_had() {
    let command = parse("--name gate --namespace shop --xds-address istiod:15012 --log debug").unwrap();
    let WaypointCommand::Proxy(proxy) = command else { panic!("{command:?}") };
    assert_eq!((proxy.config.name.as_str(), proxy.log.as_str()), ("gate", "debug"));
    let error = parse("--namespace shop").unwrap_err();
    assert!(error.contains("--name <NAME>"), "{error}");
}

#[test]
fn a_subcommand_does_not_ask_for_the_proxys_flags() {
    let command = parse("apply -n shop --for all --admit team=a --wait --timeout 5").unwrap();
    let WaypointCommand::Gateways(Action::Apply(args)) = command else { panic!("{command:?}") };
    assert_eq!((args.cluster.namespace.as_deref(), args.name.as_str()), (Some("shop"), "waypoint"));
    assert_eq!((args.serves, args.admit), (Some(WaypointFor::All), Some(Admit::Label("team".into(), "a".into()))));
    assert!(args.wait.wait && args.wait.timeout == 5);
    assert!(matches!(parse("list -A").unwrap(), WaypointCommand::Gateways(Action::List(_))));
    assert!(matches!(parse("status").unwrap(), WaypointCommand::Gateways(Action::Status(_))));
    assert!(matches!(parse("delete a b --force").unwrap(), WaypointCommand::Gateways(Action::Delete(_))));
    for wrong in ["list -A -n shop", "apply --for everything", "apply --admit nobody", "--name gate list"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_gateway_that_is_applied_says_what_was_asked_for_and_no_more() {
    let plain = manifest("shop", "waypoint", None, None, None);
    assert_eq!(plain["metadata"], json!({"name": "waypoint", "namespace": "shop"}));
    assert_eq!(plain["spec"]["listeners"], json!([{"name": "mesh", "port": 15008, "protocol": "HBONE"}]));
    let wide = manifest("infra", "shared", Some(WaypointFor::All), Some(&Admit::All), None);
    assert_eq!(wide["metadata"]["labels"], json!({"istio.io/waypoint-for": "all"}));
    assert_eq!(wide["spec"]["listeners"][0]["allowedRoutes"], json!({"namespaces": {"from": "All"}}));
    let some = manifest("infra", "shared", None, Some(&"team=a".parse().unwrap()), None);
    assert_eq!(some["spec"]["listeners"][0]["allowedRoutes"]["namespaces"]["selector"], json!({"matchLabels": {"team": "a"}}));
    // What is not said stays.
    let held = serde_json::from_value(wide.clone()).unwrap();
    assert_eq!(manifest("infra", "shared", None, None, Some(&held)), wide);
    let changed = manifest("infra", "shared", Some(WaypointFor::Workload), Some(&Admit::Same), Some(&held));
    assert_eq!(changed["metadata"]["labels"], json!({"istio.io/waypoint-for": "workload"}));
    assert_eq!(changed["spec"]["listeners"][0]["allowedRoutes"], json!({"namespaces": {"from": "Same"}}));
}

/// A Gateway of generation 2 with conditions: type, status, reason, generation that they speak of.
fn with(conditions: &[(&str, &str, &str, i64)]) -> Gateway {
    let conditions = conditions.iter().map(|(r#type, status, reason, generation)| {
        json!({"type": r#type, "status": status, "reason": reason, "message": format!("{type} {reason}"), "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    });
    let mut gateway = manifest("shop", "gate", None, None, None);
    gateway["metadata"]["generation"] = json!(2);
    gateway["status"] =
        json!({"conditions": conditions.collect::<Value>(), "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}]});
    serde_json::from_value(gateway).unwrap()
}

#[test]
fn only_what_speaks_of_the_gateway_as_it_is_now_counts() {
    let waiting = Progress::Waiting("no control plane has looked at it yet; is istiod-lite running?".into());
    assert_eq!(progress(&with(&[])), waiting);
    assert_eq!(progress(&with(&[("Accepted", "Unknown", "Pending", 2)])), waiting);
    assert_eq!(progress(&with(&[("Accepted", "True", "Accepted", 1), ("Programmed", "True", "Programmed", 1)])), waiting);
    let accepted = ("Accepted", "True", "Accepted", 2);
    assert_eq!(progress(&with(&[accepted])), Progress::Waiting("it is not deployed yet".into()));
    let unready = with(&[accepted, ("Programmed", "False", "AddressNotAssigned", 2)]);
    assert_eq!(progress(&unready), Progress::Waiting("Programmed AddressNotAssigned".into()));
    assert_eq!(progress(&with(&[accepted, ("Programmed", "True", "Programmed", 2)])), Progress::Ready);
    let refused = with(&[("Accepted", "False", "InvalidParameters", 2), ("Programmed", "False", "Invalid", 2)]);
    assert_eq!(progress(&refused), Progress::Stuck("Accepted InvalidParameters".into()));
    let in_the_way = with(&[accepted, ("Programmed", "False", "Invalid", 2)]);
    assert_eq!(progress(&in_the_way), Progress::Stuck("Programmed Invalid".into()));
}

#[test]
fn the_table_is_as_wide_as_it_has_to_be() {
    let ready = with(&[("Accepted", "True", "Accepted", 2), ("Programmed", "True", "Programmed", 2)]);
    let mut waiting = with(&[("Accepted", "True", "Accepted", 2), ("Programmed", "False", "AddressNotAssigned", 2)]);
    waiting.status.as_mut().unwrap().addresses = None;
    let expected = "NAMESPACE  NAME  FOR      STATE    ADDRESS   WHY
shop       gate  service  ready    10.0.0.1
shop       gate  service  waiting  -         Programmed AddressNotAssigned
";
    assert_eq!(show::table(&[ready, waiting]), expected);
}

#[test]
fn a_pod_that_does_not_start_says_why() {
    let pod = |status: Value| serde_json::from_value(json!({"metadata": {"name": "gate-1"}, "status": status})).unwrap();
    let waiting = |reason: &str| json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "no such image"}}}]});
    assert_eq!(wait::trouble(&pod(waiting("ImagePullBackOff"))), Some("pod gate-1: ImagePullBackOff: no such image".into()));
    assert_eq!(wait::trouble(&pod(waiting("ContainerCreating"))), None);
    let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]});
    assert_eq!(wait::trouble(&pod(unscheduled)), Some("pod gate-1: Unschedulable".into()));
}

/// What the control plane has a waypoint's container start is this program: its arguments, and the variables of its environment.
#[test]
fn the_container_that_is_made_for_a_gateway_is_started_as_the_proxy_is_configured() {
    use istiod_lite::deploy::{Options, Parameters, Part, desired};
    let gateway = serde_json::from_value(manifest("shop", "gate", None, None, None)).unwrap();
    let mesh = istiod_lite::index::MeshConfig::new("example.org".parse().unwrap(), "Kubernetes");
    let all = desired(&gateway, &Parameters::default(), &mesh, &Options::default(), "ambit:1");
    let deployment = &all.iter().find(|manifest| manifest.part == Part::Deployment).unwrap().value;
    let container = deployment.pointer("/spec/template/spec/containers/0").unwrap();
    let mut words = vec!["ambit".to_owned()];
    words.extend(container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()));
    let command = Cli::command();
    let program = command.find_subcommand(&words[1]).unwrap();
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let flag = program.get_arguments().find(|flag| flag.get_env().is_some_and(|env| env == name));
        let flag = flag.and_then(|flag| flag.get_long()).unwrap_or_else(|| panic!("ambit waypoint does not read {name}"));
        // What a node fills in.
        let filled = if name == "INSTANCE_IP" { "10.0.0.1" } else { "gate" };
        words.push(format!("--{flag}={}", variable["value"].as_str().unwrap_or(filled)));
    }
    Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let words = words[1..].join(" ").replacen("waypoint ", "", 1);
    let WaypointCommand::Proxy(proxy) = parse(&words).unwrap() else { panic!("{words}") };
    assert_eq!((proxy.config.name.as_str(), proxy.config.trust_domain.as_str()), ("gate", "example.org"));
    let mounts = container["volumeMounts"].as_array().unwrap();
    for file in [&proxy.config.control_plane.ca_root, &proxy.config.control_plane.token] {
        assert!(mounts.iter().any(|mount| file.starts_with(mount["mountPath"].as_str().unwrap())), "{}", file.display());
    }
    let listens = [proxy.config.hbone, proxy.config.metrics, proxy.config.ready].map(|address| json!(address.port()));
    let ports: Vec<_> = container["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].clone()).collect();
    assert_eq!(ports, listens);
}
