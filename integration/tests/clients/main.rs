//! Unmodified clients of others that take their configuration from a control plane which reads a real API server: grpc-go with its xDS, and
//! Envoy. Needs root or user namespaces, and what `integration/test.sh` installs.

mod envoy;
mod grpc;
mod world;

use std::process::ExitCode;

use ambit_cluster::manifests::{Channel, gateway_api};
use ambit_cluster::programs::Programs;
use ambit_integration::test;

fn main() -> ExitCode {
    // Downloaded and built, if need be, where the network still is.
    let prepared = Programs::get(&mut |_| {}).and_then(|_| gateway_api(Channel::Standard));
    let definitions = match prepared {
        Ok(definitions) => definitions,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let of_envoy = definitions.clone();
    ambit_integration::run(vec![
        test("grpc-go finds services by xDS, spreads calls as routes say, and follows each change", async move || {
            grpc::follows(&definitions).await
        }),
        test("Envoy is the waypoint that the API server's objects describe, and follows each change", async move || {
            envoy::follows(&of_envoy).await
        }),
    ])
}
