//! What is measured, in which unit, and whether more is better.

/// One figure of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// Its name in documents.
    pub key: &'static str,
    /// What a person reads, with the unit.
    pub title: &'static str,
    /// Whether more of it is better.
    pub more_is_better: bool,
}

const fn more(key: &'static str, title: &'static str) -> Figure {
    Figure { key, title, more_is_better: true }
}

const fn less(key: &'static str, title: &'static str) -> Figure {
    Figure { key, title, more_is_better: false }
}

/// The number of connections of the measurements of requests, and what is measured at each.
pub const REQUESTS: [RequestFigures; 3] = [
    RequestFigures {
        connections: 1,
        rate: more("requests_1", "requests/s, 1 connection"),
        cpu: less("cpu_requests_1", "proxy CPU-s per 10k requests at 1"),
        switches: less("switches_1", "context switches per request at 1"),
        calls: less("calls_1", "system calls per request at 1"),
    },
    RequestFigures {
        connections: 16,
        rate: more("requests_16", "requests/s, 16 connections"),
        cpu: less("cpu_requests_16", "proxy CPU-s per 10k requests at 16"),
        switches: less("switches_16", "context switches per request at 16"),
        calls: less("calls_16", "system calls per request at 16"),
    },
    RequestFigures {
        connections: 64,
        rate: more("requests_64", "requests/s, 64 connections"),
        cpu: less("cpu_requests_64", "proxy CPU-s per 10k requests at 64"),
        switches: less("switches_64", "context switches per request at 64"),
        calls: less("calls_64", "system calls per request at 64"),
    },
];

/// What is measured with requests on some number of connections.
#[derive(Debug, Clone, Copy)]
pub struct RequestFigures {
    /// How many connections.
    pub connections: usize,
    /// Requests a second.
    pub rate: Figure,
    /// CPU-seconds of the proxies for 10,000 requests.
    pub cpu: Figure,
    /// Context switches of the proxies for a request.
    pub switches: Figure,
    /// System calls of the proxies for a request.
    pub calls: Figure,
}

/// The number of streams of the measurements of bulk, and what is measured at each.
pub const BULK: [BulkFigures; 2] = [
    BulkFigures {
        streams: 1,
        rate: more("bulk_1", "Gbit/s, 1 stream"),
        cpu: less("cpu_bulk_1", "proxy CPU-s per GB, 1 stream"),
        bytes_per_call: more("bytes_per_call_1", "KB per read or write call, 1 stream"),
    },
    BulkFigures {
        streams: 8,
        rate: more("bulk_8", "Gbit/s, 8 streams"),
        cpu: less("cpu_bulk_8", "proxy CPU-s per GB, 8 streams"),
        bytes_per_call: more("bytes_per_call_8", "KB per read or write call, 8 streams"),
    },
];

/// What is measured with bodies without end on some number of streams.
#[derive(Debug, Clone, Copy)]
pub struct BulkFigures {
    /// How many streams.
    pub streams: usize,
    /// Gbit/s of payload.
    pub rate: Figure,
    /// CPU-seconds of the proxies for a GB of payload.
    pub cpu: Figure,
    /// Payload that a system call of the proxies that reads or writes moves, in KB.
    pub bytes_per_call: Figure,
}

/// Median latency at a paced rate.
pub const PACED_P50: Figure = less("paced_p50", "p50 ms at 2,000 requests/s");
/// 99th percentile of the latency at a paced rate.
pub const PACED_P99: Figure = less("paced_p99", "p99 ms at 2,000 requests/s");
/// Connections opened, used for one request and closed.
pub const CONNECTIONS: Figure = more("connections", "new connections/s");
/// CPU-seconds of the proxies for 10,000 of them.
pub const CPU_CONNECTIONS: Figure = less("cpu_connections", "proxy CPU-s per 10k new connections");
/// System calls of the proxies for one of them.
pub const CALLS_CONNECTION: Figure = less("calls_connection", "system calls per new connection");
/// Memory of all proxies before any load, each shared page divided among its users (PSS).
pub const MEMORY_IDLE: Figure = less("memory_idle", "memory of the proxies idle, MB (PSS)");
/// The same while 1,000 connections are held open.
pub const MEMORY_HELD: Figure = less("memory_held", "memory of the proxies, 1,000 connections, MB (PSS)");
/// The same a while after the last load.
pub const MEMORY_REST: Figure = less("memory_rest", "memory of the proxies at rest after all loads, MB (PSS)");
/// What one idle connection adds in one proxy.
pub const MEMORY_CONNECTION: Figure = less("memory_connection", "KB per idle connection and proxy");
/// Resident memory of the largest proxy before any load.
pub const RSS_IDLE: Figure = less("rss_idle", "largest proxy idle, MB (RSS)");
/// The same while 1,000 connections are held open.
pub const RSS_HELD: Figure = less("rss_held", "largest proxy, 1,000 connections, MB (RSS)");
/// The most that the largest proxy had resident during a round.
pub const RSS_PEAK: Figure = less("rss_peak", "largest proxy, peak under load, MB (RSS)");
/// The peaks of all proxies added up.
pub const MEMORY_PEAK: Figure = less("memory_peak", "proxies' peaks under load together, MB (RSS)");
/// From the order to start a node proxy that finds 1,000 workloads until it says that it is ready.
pub const START: Figure = less("start_ready", "start to ready with 1,000 workloads, ms");
/// 99th percentile of small requests beside a stream at full speed, against without.
pub const FAIR_FULL: Figure = less("fair_full", "p99 of small requests beside a full-speed stream ÷ alone");
/// The same beside a stream of 1 Gbit/s, which leaves the processors time.
pub const FAIR_PACED: Figure = less("fair_paced", "p99 of small requests beside a 1 Gbit/s stream ÷ alone");
/// CPU per request on 10,000 connections that all ask, against one.
pub const GROWTH_CONNECTIONS: Figure = less("growth_connections", "CPU per request, 10,000 connections ÷ 1");
/// CPU per request on 16 connections beside 10,000 idle ones, against without.
pub const GROWTH_IDLE: Figure = less("growth_idle", "CPU per request, beside 10,000 idle connections ÷ alone");
/// CPU per request, 10,000 workloads against 10.
pub const GROWTH_WORKLOADS: Figure = less("growth_workloads", "CPU per request, 10,000 workloads ÷ 10");
/// CPU per new connection, 10,000 workloads against 10.
pub const GROWTH_WORKLOADS_NEW: Figure = less("growth_workloads_new", "CPU per new connection, 10,000 workloads ÷ 10");
/// CPU per request, 1,000 policies against 1.
pub const GROWTH_POLICIES: Figure = less("growth_policies", "CPU per request, 1,000 policies ÷ 1");
/// CPU per new connection, 1,000 policies against 1.
pub const GROWTH_POLICIES_NEW: Figure = less("growth_policies_new", "CPU per new connection, 1,000 policies ÷ 1");
/// CPU per request, 200 pods on the node against 1.
pub const GROWTH_PODS: Figure = less("growth_pods", "CPU per request, 200 pods on the node ÷ few");
/// CPU per new connection, 200 pods on the node against 1.
pub const GROWTH_PODS_NEW: Figure = less("growth_pods_new", "CPU per new connection, 200 pods on the node ÷ few");
/// New connections a second that the storm really made.
pub const STORM_RATE: Figure = more("storm_rate", "storm: new connections/s made");
/// Share of the storm's connections that failed.
pub const STORM_ERRORS: Figure = less("storm_errors", "storm: failed connections, %");
/// 99th percentile of another client's requests during the storm.
pub const STORM_P99: Figure = less("storm_p99", "storm: p99 ms of another client at 2,000 requests/s");
/// The most memory of the proxies in the last third of the storm, against the middle third: 1 when it does not grow.
pub const STORM_GROWTH: Figure = less("storm_growth", "storm: memory in its last third ÷ its second third");
/// The most memory that the proxies had during the storm.
pub const STORM_MEMORY: Figure = less("storm_memory", "storm: most memory of the proxies, MB (PSS)");

/// Memory of a waypoint by itself with 5,000 routes.
pub const ROUTES_MEMORY: Figure = less("routes_memory", "memory of the waypoint with 5,000 routes, MB (PSS)");
/// CPU per request on 16 connections with 5,000 routes, against none.
pub const ROUTES_CPU: Figure = less("routes_cpu", "CPU per request, 5,000 routes ÷ none");
/// From a route's change to the first answer that differs, beside 3,000 routes and under load.
pub const ROUTE_CHANGE_P50: Figure = less("route_change_p50", "p50 ms until a changed route holds");
/// The same of one in a hundred.
pub const ROUTE_CHANGE_P99: Figure = less("route_change_p99", "p99 ms until a changed route holds");
/// Requests that failed meanwhile.
pub const ROUTE_CHANGE_ERRORS: Figure = less("route_change_errors", "requests that failed while a route changed");

/// All of them, in the order of the report.
#[must_use]
pub fn all() -> Vec<Figure> {
    let mut all: Vec<Figure> = REQUESTS.iter().map(|at| at.rate).collect();
    all.extend([PACED_P50, PACED_P99]);
    all.extend(BULK.iter().map(|at| at.rate));
    all.push(CONNECTIONS);
    all.extend(REQUESTS.iter().map(|at| at.cpu));
    all.extend(BULK.iter().map(|at| at.cpu));
    all.push(CPU_CONNECTIONS);
    all.extend([MEMORY_IDLE, MEMORY_HELD, MEMORY_CONNECTION, MEMORY_PEAK, MEMORY_REST, RSS_IDLE, RSS_HELD, RSS_PEAK]);
    all.extend(REQUESTS.iter().map(|at| at.calls));
    all.push(CALLS_CONNECTION);
    all.extend(REQUESTS.iter().map(|at| at.switches));
    all.extend(BULK.iter().map(|at| at.bytes_per_call));
    all.extend([START, FAIR_FULL, FAIR_PACED]);
    all.extend([GROWTH_CONNECTIONS, GROWTH_IDLE, GROWTH_WORKLOADS, GROWTH_WORKLOADS_NEW, GROWTH_POLICIES]);
    all.extend([GROWTH_POLICIES_NEW, GROWTH_PODS, GROWTH_PODS_NEW]);
    all.extend([STORM_RATE, STORM_ERRORS, STORM_P99, STORM_GROWTH, STORM_MEMORY]);
    all.extend([ROUTES_MEMORY, ROUTES_CPU, ROUTE_CHANGE_P50, ROUTE_CHANGE_P99, ROUTE_CHANGE_ERRORS]);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_figures_have_the_same_name() {
        let keys: BTreeSet<&str> = all().iter().map(|figure| figure.key).collect();
        let titles: BTreeSet<&str> = all().iter().map(|figure| figure.title).collect();
        assert_eq!((keys.len(), titles.len()), (all().len(), all().len()));
    }
}
