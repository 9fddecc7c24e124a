//! Names of metrics.

/// Metric names of the wire contract §7, and our own (prefix `ambit_`).
#[allow(missing_docs)]
pub mod metric {
    pub const TCP_CONNECTIONS_OPENED: &str = "istio_tcp_connections_opened_total";
    pub const TCP_CONNECTIONS_CLOSED: &str = "istio_tcp_connections_closed_total";
    pub const TCP_CONNECTIONS_FAILED: &str = "istio_tcp_connections_failed_total";
    pub const TCP_SENT_BYTES: &str = "istio_tcp_sent_bytes_total";
    pub const TCP_RECEIVED_BYTES: &str = "istio_tcp_received_bytes_total";
    pub const REQUESTS: &str = "istio_requests_total";
    /// Histogram, milliseconds.
    pub const REQUEST_DURATION: &str = "istio_request_duration_milliseconds";
    /// Histogram, bytes.
    pub const REQUEST_BYTES: &str = "istio_request_bytes";
    /// Histogram, bytes.
    pub const RESPONSE_BYTES: &str = "istio_response_bytes";

    /// DNS queries of pods.
    pub const DNS_REQUESTS: &str = "istio_dns_requests_total";
    /// DNS queries to the node's resolvers.
    pub const DNS_UPSTREAM_REQUESTS: &str = "istio_dns_upstream_requests_total";
    /// Those of them that were not answered.
    pub const DNS_UPSTREAM_FAILURES: &str = "istio_dns_upstream_failures_total";
    /// Histogram, seconds.
    pub const DNS_UPSTREAM_DURATION: &str = "istio_dns_upstream_request_duration_seconds";

    /// What dry-run policies would have decided about connections that were allowed, and at waypoints about requests; `reason` is `ok` where
    /// they would have been too.
    pub const POLICY_DRY_RUN: &str = "ambit_policy_dry_run_total";
    /// Rests of endpoints that kept failing.
    pub const ENDPOINT_RESTS: &str = "ambit_endpoint_rests_total";
    /// Connections that were tried on another endpoint.
    pub const CONNECT_RETRIES: &str = "ambit_connect_retries_total";
    /// Connections that were not, because too many were already.
    pub const CONNECT_RETRIES_OVER_BUDGET: &str = "ambit_connect_retries_over_budget_total";
    /// Access-log lines lost because the disk could not keep up.
    pub const ACCESS_LOG_DROPPED: &str = "ambit_access_log_dropped_total";
    /// Spans that the collector took.
    pub const SPANS_SENT: &str = "ambit_spans_sent_total";
    /// Spans lost because the collector took too few or none.
    pub const SPANS_DROPPED: &str = "ambit_spans_dropped_total";
    /// Requests with spans that were in vain, by `reason`: unreachable, timeout, busy, refused.
    pub const SPAN_EXPORT_FAILURES: &str = "ambit_span_export_failures_total";
    /// How often a label set found no room and was counted as `other`; one that is in use asks again each second.
    pub const SERIES_FOLDED: &str = "ambit_metric_series_folded_total";
    /// Label sets that left because others came, with all that was counted under them.
    pub const SERIES_EVICTED: &str = "ambit_metric_series_evicted_total";
}
