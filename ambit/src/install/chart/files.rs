//! The files of the chart, in the program. A test compares with what lies in `manifests/`.

/// A file's path and its text.
type File = (&'static str, &'static str);

/// The text of a file below `manifests/`.
macro_rules! text {
    ($($path:expr),+) => {
        include_str!(concat!("../../../../manifests/", $($path),+))
    };
}

/// Files of the chart, by their path in it.
macro_rules! chart {
    ($($path:literal),+ $(,)?) => { &[$(($path, text!("chart/", $path))),+] };
}

/// What the chart says of itself.
pub(super) const METADATA: &str = text!("chart/Chart.yaml");
/// Its settings.
pub(super) const VALUES: &str = text!("chart/values.yaml");
/// Which settings it has.
pub(super) const SCHEMA: &str = text!("chart/values.schema.json");
/// Templates; those that only define things for others, and `NOTES.txt`, become no objects.
pub(super) const TEMPLATES: &[File] = chart![
    "templates/NOTES.txt",
    "templates/_helpers.tpl",
    "templates/istiod/access.yaml",
    "templates/istiod/deployment.yaml",
    "templates/istiod/disruption.yaml",
    "templates/istiod/service.yaml",
    "templates/node/access.yaml",
    "templates/node/daemonset.yaml",
    "templates/options/dashboards.yaml",
    "templates/options/mesh.yaml",
    "templates/options/networkpolicies.yaml",
    "templates/options/podmonitors.yaml",
    "templates/options/quota.yaml",
    "templates/validation/policies.yaml",
    "templates/validation/webhook.yaml",
    "templates/ztunnel/account.yaml",
    "templates/ztunnel/daemonset.yaml",
];
/// Files that templates read.
pub(super) const OTHERS: &[File] = chart!["dashboards/mesh.json",];
/// CRDs of the kinds that the mesh reads, its own and those of others but for the Gateway API's.
pub const CRDS: &[(&str, &str)] = &[
    ("crds/authorizationpolicies.yaml", text!("crds/authorizationpolicies.yaml")),
    ("crds/destinationrules.yaml", text!("crds/destinationrules.yaml")),
    ("crds/peerauthentications.yaml", text!("crds/peerauthentications.yaml")),
    ("crds/requestpolicies.yaml", text!("crds/requestpolicies.yaml")),
    ("crds/requestauthentications.yaml", text!("crds/requestauthentications.yaml")),
    ("crds/serviceentries.yaml", text!("crds/serviceentries.yaml")),
    ("crds/telemetries.yaml", text!("crds/telemetries.yaml")),
    ("crds/trafficpolicies.yaml", text!("crds/trafficpolicies.yaml")),
    ("crds/virtualservices.yaml", text!("crds/virtualservices.yaml")),
    ("crds/workloadentries.yaml", text!("crds/workloadentries.yaml")),
];
