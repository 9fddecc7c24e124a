//! Where the node proxy keeps its state.

use super::*;

/// The proxy's root file system is read-only; what it keeps has to outlive its pod, and somebody has to take it away in the end.
#[test]
fn the_state_of_the_node_proxy_is_a_directory_of_the_node_and_goes_with_the_mesh() {
    // Of a container the path on the node that an argument of it stands for.
    let on_node = |pod: &Value, container: &str, flag: &str| {
        let container = containers(pod).iter().find(|there| there["name"] == container).cloned().unwrap();
        let mut arguments = container["args"].as_array().unwrap().iter().filter_map(Value::as_str);
        let path = arguments.find_map(|argument| argument.strip_prefix(flag))?.to_owned();
        let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
        let of = |mount: &Value| {
            let rest = path.strip_prefix(mount["mountPath"].as_str()?)?.to_owned();
            let volume = pod["spec"]["volumes"].as_array()?.iter().find(|volume| volume["name"] == mount["name"])?;
            assert!(mount["readOnly"].is_null() && volume["hostPath"]["type"] == "DirectoryOrCreate", "{volume}");
            Some(format!("{}{rest}", volume["hostPath"]["path"].as_str()?))
        };
        mounts.find_map(of)
    };
    for (settings, expected) in [
        (Settings::default(), Some("/var/lib/ambit/ztunnel/state")),
        (settings("ztunnel.stateDir=/srv/z"), Some("/srv/z/state")),
        (settings("ztunnel.stateDir="), None),
    ] {
        let pods = pods(&settings);
        assert_eq!(on_node(&pods["ztunnel"], "ztunnel", "--state-dir=").as_deref(), expected);
        assert_eq!(on_node(&pods["ambit-node"], "install-cni", "--proxy-state-dir=").as_deref(), expected);
    }
}
