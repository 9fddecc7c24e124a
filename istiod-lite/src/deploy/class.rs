//! The GatewayClasses of the mesh: made when they are missing, never changed.

use kube::api::{Api, DynamicObject, PostParams};
use serde_json::json;

use super::{MANAGED_BY, MANAGER, WAYPOINT_CLASS};
use crate::index::{INGRESS_CLASS, INGRESS_CONTROLLER};
use crate::source::Kind;
use crate::status::{CONTROLLER, resource};

/// A class.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// Its name.
    pub name: &'static str,
    controller: &'static str,
    description: &'static str,
}

/// All of them.
pub const ALL: [Class; 2] = [
    Class { name: WAYPOINT_CLASS, controller: CONTROLLER, description: "L7 proxies of the mesh" },
    Class { name: INGRESS_CLASS, controller: INGRESS_CONTROLLER, description: "L7 proxies at the edge of the mesh" },
];

impl Class {
    /// Makes the class. That another replica or a user is quicker is as good.
    ///
    /// # Errors
    /// What the API server answers, such as that it has no Gateway API.
    pub async fn create(self, client: &kube::Client) -> Result<(), kube::Error> {
        let resource = resource(Kind::GatewayClass);
        let mut class = DynamicObject::new(self.name, &resource).data(json!({
            "spec": { "controllerName": self.controller, "description": self.description },
        }));
        class.metadata.labels = Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into());
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        match api.create(&parameters, &class).await {
            Ok(_) => {
                tracing::info!(class = self.name, "made the GatewayClass");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
