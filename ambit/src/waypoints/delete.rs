//! `ambit waypoint delete`.

use istiod_lite::deploy::WAYPOINT_CLASS;
use kube::api::DeleteParams;

use super::DeleteArgs;
use super::cluster::failed;
use super::wait::until_gone;
use crate::error::{Error, Result};

/// How many users of a waypoint an error lists.
const LISTED: usize = 10;

pub async fn run(args: DeleteArgs) -> Result<()> {
    let cluster = args.cluster.connect().await?;
    // All are looked at before the first is deleted.
    for name in &args.names {
        let gateway = cluster.gateway(name).await?;
        let (class, label) = (&gateway.spec.gateway_class_name, format!("{}/{name}", cluster.namespace));
        if class != WAYPOINT_CLASS {
            return Err(Error::Invalid(format!("Gateway {label} is of class {class}, no waypoint; kubectl deletes it")));
        }
        let users = if args.force { Vec::new() } else { cluster.users(name).await? };
        if !users.is_empty() {
            let more = users.len().checked_sub(LISTED).filter(|more| *more > 0).map(|more| format!(" and {more} more"));
            let listed = users.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::Invalid(format!(
                "waypoint {label} is used by {listed}{}, which could not be reached without it; take the label istio.io/use-waypoint off first, or say --force",
                more.unwrap_or_default()
            )));
        }
    }
    for name in &args.names {
        let deleted = cluster.gateways().delete(name, &DeleteParams::background()).await;
        deleted.map_err(|error| failed("delete gateways", &error))?;
        println!("waypoint {}/{name} deleted", cluster.namespace);
    }
    if args.wait.wait {
        for name in &args.names {
            until_gone(&cluster, name, args.wait.timeout()).await?;
        }
    }
    Ok(())
}
