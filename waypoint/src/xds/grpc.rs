//! Services that are called by gRPC (`envoy.config.core.v3.GrpcService`).

use std::{mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{GrpcService, grpc_service::TargetSpecifier},
    r#type::v3::HttpStatus,
};
use http::StatusCode;

use super::read::{Compiled, Problem, Under, duration, finish};

/// A service that is called.
pub struct Called {
    /// The cluster that it is reached by.
    pub cluster: Arc<str>,
    /// The host asked for.
    pub authority: Arc<str>,
    /// How long an answer is waited for, if that is said.
    pub timeout: Option<Duration>,
}

/// Who is called.
pub fn called(mut config: GrpcService) -> Compiled<Called> {
    let timeout = config.timeout.take().map(duration).transpose().under("timeout")?;
    let Some(TargetSpecifier::EnvoyGrpc(mut envoy)) = config.target_specifier.take() else {
        return Err(Problem::new("only envoy_grpc is implemented"));
    };
    let cluster = take(&mut envoy.cluster_name);
    let authority = match take(&mut envoy.authority) {
        authority if authority.is_empty() => cluster.clone(),
        authority => authority,
    };
    authority
        .parse::<http::uri::Authority>()
        .map_err(|_| Problem::new(format!("{authority:?} is no host that can be asked for")).under("envoy_grpc.authority"))?;
    finish(&envoy).under("envoy_grpc")?;
    finish(&config)?;
    Ok(Called { cluster: cluster.into(), authority: authority.into(), timeout })
}

/// A status that clients are answered, after which nothing more comes.
pub fn status(status: HttpStatus) -> Compiled<StatusCode> {
    let known = u16::try_from(status.code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    known.filter(|code| !code.is_informational()).ok_or_else(|| Problem::new(format!("{} is not a status", status.code)))
}
