//! HTTP: which route a request takes (`select`), what is done to it on the way (`headers`), who may (`authz`), and how it
//! reaches an endpoint (`forward`).

mod admission;
pub(crate) mod ahead;
mod ambiguous;
mod answer;
mod arrival;
mod body;
pub(crate) mod call;
mod clock;
pub(crate) mod deadline;
pub mod detect;
mod downstream;
mod ext_authz;
mod ext_proc;
mod forward;
mod frames;
mod framing;
mod headers;
mod limiter;
mod live;
mod mirror;
mod retry;
mod rewound;
pub(crate) mod select;
mod send;
mod serve;
pub(crate) mod sizes;
mod times;
mod upgrade;

pub use answer::grpc_status;
pub use body::ResponseBody;
pub use downstream::Downstream;
pub(crate) use frames::poll_filled;
pub(crate) use headers::{CLIENT_CERTIFICATE, EXPLAIN, arrived, client_certificate};
pub use mirror::Mirrors;
pub use rewound::{Over, Phase, Rewound};
pub use select::Target;
pub use send::unreached;
pub use serve::serve;
pub(crate) use serve::{is_grpc, view};
