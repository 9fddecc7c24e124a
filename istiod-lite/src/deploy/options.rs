//! What the deployer is told at start.

/// Where istiod-lite is found by its Service.
const XDS_ADDRESS: &str = "istiod.istio-system.svc:15012";

/// Flags for the waypoints that are deployed.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The image that the pods of waypoints run; its entry point is `ambit`. Without one no waypoint is deployed, and each Gateway says so.
    #[arg(long = "waypoint-image", env = "WAYPOINT_IMAGE", value_name = "IMAGE")]
    pub image: Option<String>,
    /// When nodes fetch that image.
    #[arg(long = "waypoint-image-pull-policy", env = "WAYPOINT_IMAGE_PULL_POLICY", value_name = "POLICY", value_enum, default_value_t = PullPolicy::IfNotPresent)]
    pub pull_policy: PullPolicy,
    /// Where waypoints find the control plane, host:port.
    #[arg(
        long = "waypoint-xds-address",
        env = "WAYPOINT_XDS_ADDRESS",
        value_name = "ADDRESS",
        default_value = XDS_ADDRESS
    )]
    pub xds_address: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { image: None, pull_policy: PullPolicy::IfNotPresent, xds_address: XDS_ADDRESS.into() }
    }
}

/// When a node fetches an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// At each start of a pod.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

impl PullPolicy {
    /// As a pod has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}
