//! Names of metric labels.

/// Label names of the standard Istio metrics (Istio standard metrics reference) and our own `reason` and `policy`.
#[allow(missing_docs)]
pub mod label {
    pub const REPORTER: &str = "reporter";
    pub const REASON: &str = "reason";
    /// The policy behind a refusal, or in dry run.
    pub const POLICY: &str = "policy";
    pub const REQUEST_PROTOCOL: &str = "request_protocol";
    pub const RESPONSE_CODE: &str = "response_code";
    pub const RESPONSE_FLAGS: &str = "response_flags";
    pub const GRPC_RESPONSE_STATUS: &str = "grpc_response_status";
    pub const CONNECTION_SECURITY_POLICY: &str = "connection_security_policy";

    pub const SOURCE_WORKLOAD: &str = "source_workload";
    pub const SOURCE_WORKLOAD_NAMESPACE: &str = "source_workload_namespace";
    pub const SOURCE_PRINCIPAL: &str = "source_principal";
    pub const SOURCE_APP: &str = "source_app";
    pub const SOURCE_VERSION: &str = "source_version";
    pub const SOURCE_CLUSTER: &str = "source_cluster";
    pub const SOURCE_CANONICAL_SERVICE: &str = "source_canonical_service";
    pub const SOURCE_CANONICAL_REVISION: &str = "source_canonical_revision";

    pub const DESTINATION_WORKLOAD: &str = "destination_workload";
    pub const DESTINATION_WORKLOAD_NAMESPACE: &str = "destination_workload_namespace";
    pub const DESTINATION_PRINCIPAL: &str = "destination_principal";
    pub const DESTINATION_APP: &str = "destination_app";
    pub const DESTINATION_VERSION: &str = "destination_version";
    pub const DESTINATION_CLUSTER: &str = "destination_cluster";
    pub const DESTINATION_SERVICE: &str = "destination_service";
    pub const DESTINATION_SERVICE_NAME: &str = "destination_service_name";
    pub const DESTINATION_SERVICE_NAMESPACE: &str = "destination_service_namespace";
    pub const DESTINATION_CANONICAL_SERVICE: &str = "destination_canonical_service";
    pub const DESTINATION_CANONICAL_REVISION: &str = "destination_canonical_revision";

    /// The value of a label whose truth is not known.
    pub const UNKNOWN: &str = "unknown";
    /// The value that stands for every series beyond the limit.
    pub const OTHER: &str = "other";
}
