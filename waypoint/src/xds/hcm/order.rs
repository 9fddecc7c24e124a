//! In which order the filters of requests may stand: each relies on what those before it have done, and those after it have not yet. What of it
//! stands otherwise would be carried out in another order than it is written, so it is rejected.

use super::{RBAC, admission, buffer, cors, ext_authz, ext_proc, fault, jwt, limit, limiter, session};
use crate::xds::read::{Compiled, Problem};

/// A place in that order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Nothing was read yet.
    #[default]
    Start,
    /// Rules would not know yet what a token says.
    Tokens,
    /// Those who are asked, and rules that only say about what.
    Authorizers,
    /// A request that an authorizer may yet change is not judged.
    Rules,
    /// A preflight is not answered before somebody was asked whether it may be made.
    Cors,
    /// What is refused suffers no fault.
    Faults,
    /// What is refused takes no tokens.
    Limit,
    /// Servers that are asked about limits.
    Limiters,
    /// Nobody waits for the body of what is refused.
    Bodies,
    /// A processor is told of nothing that is refused, and nothing is judged as it leaves it.
    Processors,
    /// Which requests are probes is told by their headers as they are let in.
    Probes,
    /// What others refuse says nothing of how long a service takes.
    Admission,
    /// What a request goes on with is read as others have left it.
    Sessions,
}

impl Place {
    /// Of a filter of this type, at the latest; none of the router, nor of what is not known.
    pub(super) fn of(type_name: &str) -> Option<Self> {
        Some(match type_name {
            jwt::FILTER => Self::Tokens,
            ext_authz::FILTER => Self::Authorizers,
            RBAC => Self::Rules,
            cors::FILTER => Self::Cors,
            fault::FILTER => Self::Faults,
            limit::FILTER => Self::Limit,
            limiter::FILTER => Self::Limiters,
            buffer::FILTER => Self::Bodies,
            ext_proc::FILTER => Self::Processors,
            admission::PROBES => Self::Probes,
            admission::FILTER => Self::Admission,
            session::FILTER => Self::Sessions,
            _ => return None,
        })
    }

    /// Whether a filter may stand here after one that stands there.
    pub(super) fn after(self, there: Self) -> Compiled<()> {
        let once = matches!(self, Self::Tokens | Self::Faults | Self::Limit | Self::Bodies | Self::Admission);
        if self > there || (self == there && !once) {
            return Ok(());
        }
        let that = match there {
            Self::Sessions if self >= Self::Probes => {
                return Err(Problem::new("sessions before adaptive concurrency are not implemented"));
            }
            Self::Sessions => return Err(Problem::new("sessions before other filters are not implemented")),
            Self::Admission => {
                return Err(Problem::new("filters other than sessions after adaptive concurrency are not implemented"));
            }
            Self::Probes if self == Self::Processors => {
                return Err(Problem::new("external processing after health checks is not implemented"));
            }
            Self::Probes => "health checks",
            Self::Processors => "external processing",
            Self::Bodies => "a limit of bodies",
            Self::Limiters | Self::Limit => "limits",
            Self::Faults => "faults",
            Self::Cors => "CORS",
            Self::Rules => "rules",
            Self::Authorizers => "external authorization",
            Self::Tokens | Self::Start => "tokens",
        };
        Err(Problem::new(format!("this filter after {that} is not implemented")))
    }
}
