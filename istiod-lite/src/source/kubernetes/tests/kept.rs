//! What is kept of objects, and that nothing is missed.

use std::path::{Path, PathBuf};

use ambit_xds::server::Cache;
use serde_json::{Value, json};

use super::made;
use crate::index::MeshConfig;
use crate::mesh::Mesh;
use crate::push::Pusher;
use crate::source::document::parse;
use crate::source::kubernetes::read::read;
use crate::source::object::{Event, Kind, Object};
use crate::source::{Problem, typed};

/// What an API server adds to an object, and what people do.
fn decorate(kind: Kind, object: &mut Value) {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.insert("resourceVersion".into(), json!("4711"));
    metadata.insert("managedFields".into(), json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]));
    let annotations = metadata.entry("annotations").or_insert(json!({}));
    annotations["kubectl.kubernetes.io/last-applied-configuration"] = json!("{}");
    annotations["prometheus.io/scrape"] = json!("true");
    if kind == Kind::Pod {
        let sidecar =
            json!({"name": "sidecar", "image": "x", "ports": [{"containerPort": 1}], "env": [{"name": "A", "value": "b"}]});
        object["spec"]["containers"].as_array_mut().unwrap().insert(0, sidecar);
        object["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        object["status"]["containerStatuses"] =
            json!([{"name": "sidecar", "ready": true, "image": "", "imageID": "", "restartCount": 0}]);
    }
}

/// Names and versions (hashes of the content) of all that is made of objects, and their conditions.
fn resources(objects: Vec<Object>) -> Value {
    let mesh = Mesh::new(MeshConfig::new("cluster.local".parse().unwrap(), "Kubernetes"));
    let cache = Cache::new();
    Pusher::new(cache.clone()).apply(&mesh, objects.into_iter().map(Event::Upsert).collect());
    let mut all = serde_json::Map::new();
    for view in cache.views() {
        for type_url in cache.types(&view) {
            let versions: Vec<String> = cache.read(&view, &type_url, |content| {
                content.entries().map(|entry| format!("{} {}", entry.name, entry.version)).collect()
            });
            all.insert(format!("{view} {type_url}"), json!(versions));
        }
    }
    all.insert("conditions".into(), serde_json::to_value(crate::status::conditions(&mesh.index())).unwrap());
    Value::Object(all)
}

fn yaml_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if name.ends_with(".yaml") && !name.ends_with("out.yaml") {
            found.push(path);
        }
    }
}

#[test]
fn what_is_kept_of_objects_yields_the_same_resources_as_all_of_them() {
    let mut files = Vec::new();
    for directory in ["tests/golden", "src/translate/waypoint/golden", "../manifests/demo"] {
        yaml_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    let mut compared = 0;
    for file in files {
        let (mut whole, mut kept) = (Vec::new(), Vec::new());
        for document in parse(&file, &std::fs::read_to_string(&file).unwrap()).documents {
            let (kind, name) = (document.key.kind, document.key.name);
            let Ok(object) = typed::read(kind, document.value.clone()) else { continue };
            whole.push(object);
            let mut value = document.value;
            decorate(kind, &mut value);
            let read = read(kind, &name, value, None);
            assert!(!read.problems.iter().any(Problem::is_error), "{name} in {}: {:?}", file.display(), read.problems);
            kept.extend(read.object);
        }
        let (whole, kept) = (resources(whole), resources(kept));
        assert_eq!(whole, kept, "{}", file.display());
        compared += whole.as_object().unwrap().values().map(|all| all.as_array().unwrap().len()).sum::<usize>();
    }
    assert!(compared > 50, "only {compared} resources were compared");
}

#[test]
fn a_pod_is_kept_with_what_a_mesh_reads_and_nothing_else() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "it", "namespace": "shop", "uid": "u", "resourceVersion": "5", "generateName": "i", "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"], "managedFields": [{"manager": "m"}],
            "annotations": {"ambient.istio.io/redirection": "enabled", "networking.istio.io/tunnel": "http", "cni/x": "long"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "2", "controller": true, "blockOwnerDeletion": true},
            ],
        },
        "spec": {
            "serviceAccountName": "web", "nodeName": "n1", "hostNetwork": false, "tolerations": [{"key": "x"}],
            "initContainers": [{"name": "i", "ports": [{"name": "late", "containerPort": 9, "protocol": "TCP", "hostPort": 1}]}],
            "containers": [
                {"name": "a", "image": "a:1", "ports": [{"containerPort": 1}, {"name": "http", "containerPort": 8080, "protocol": "TCP"}]},
                {"name": "b", "image": "b:1"},
            ],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "192.0.2.1", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
            "containerStatuses": [],
        },
    });
    let Some(Object::Pod(kept)) = made(Kind::Pod, &pod, None).object else { panic!() };
    assert_eq!(
        *kept,
        serde_json::from_value(json!({
            "metadata": {
                "name": "it", "namespace": "shop", "uid": "u", "labels": {"app": "web"},
                "annotations": {"ambient.istio.io/redirection": "enabled", "networking.istio.io/tunnel": "http"},
                "ownerReferences": [{"apiVersion": "", "kind": "ReplicaSet", "name": "web-1", "uid": "", "controller": true}],
            },
            "spec": {
                "serviceAccountName": "web", "nodeName": "n1", "hostNetwork": false,
                "containers": [{"name": "ports", "ports": [
                    {"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "late", "containerPort": 9, "protocol": "TCP"},
                ]}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap()
    );
}
