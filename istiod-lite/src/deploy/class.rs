//! The GatewayClass of waypoints: made when it is missing, never changed.

use kube::api::{Api, DynamicObject, PostParams};
use serde_json::json;

use super::{MANAGED_BY, MANAGER, WAYPOINT_CLASS};
use crate::source::Kind;
use crate::status::{CONTROLLER, resource};

/// Makes the class. That another replica or a user is quicker is as good.
///
/// # Errors
/// What the API server answers, such as that it has no Gateway API.
pub async fn create(client: &kube::Client) -> Result<(), kube::Error> {
    let resource = resource(Kind::GatewayClass);
    let mut class = DynamicObject::new(WAYPOINT_CLASS, &resource).data(json!({
        "spec": { "controllerName": CONTROLLER, "description": "L7 proxies of the mesh" },
    }));
    class.metadata.labels = Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match api.create(&parameters, &class).await {
        Ok(_) => {
            tracing::info!(class = WAYPOINT_CLASS, "made the GatewayClass of waypoints");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}
