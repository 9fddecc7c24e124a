//! HTTP routing as a pure decision: which route a request takes, what is done to it on the way, and whether a rule set lets it through.
//!
//! The types mean what the Envoy v3 resources they are compiled from mean (`envoy.config.route.v3`, `envoy.config.rbac.v3`);
//! the waypoint compiles them, runs them for every request, and `ambit explain` runs the same ones.

mod action;
mod admission;
mod cors;
pub mod deadline;
mod domains;
mod ended;
mod fault;
mod filters;
mod hash;
mod limit;
mod matcher;
mod metadata;
mod mirror;
mod mutation;
mod path;
mod paths;
mod rbac;
mod request;
mod retry;
mod savings;
mod session;
mod share;
mod sizes;
mod table;
mod words;

#[cfg(test)]
mod tests;

pub use action::{Action, ClusterWeight, DirectResponse, HostRewrite, PathRewrite, Redirect, StreamTimes, UpgradeRule, Upstream};
pub use admission::{AdmissionSettings, BestTime, Gradient};
pub use cors::{Cors, Crossing};
pub use domains::DomainMatch;
pub use ended::{CallStatuses, Ended};
pub use fault::{Abort, Fault};
pub use filters::RouteFilters;
pub use hash::{HashBy, HashPolicy, Hashed};
pub use limit::{Bucket, Counted, Descriptor, Filling, GlobalLimit, LimitSettings, LocalLimit, Part, Source, Taken};
pub use matcher::{HeaderMatch, HeaderTest, Pattern, QueryMatch, QueryTest, StringMatch, StringTest};
pub use metadata::{MetadataMatch, ValueMatch};
pub use mirror::Mirror;
pub use mutation::{AppendAction, HeaderMutations, HeaderOption, HeaderValueTemplate, TemplatePart};
pub use path::{PathMatch, PathTest, normalize_path};
pub use rbac::{Closest, Misfit, Permission, Principal, Rbac, RbacAction, RbacPolicy, Subject, Verdict, dry_run, evaluate};
pub use request::RequestView;
pub use retry::{RetryBudget, RetryOn, RetryPolicy, may_leave_again};
pub use savings::Savings;
pub use session::{Carrier, Claim, Cookie, EndpointName, Session};
pub use share::Share;
pub use sizes::SizeLimits;
pub use table::{Conditions, Difference, Route, RouteMatch, RouteTable, VirtualHost};
