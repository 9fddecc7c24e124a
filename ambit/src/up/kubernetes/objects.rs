//! Objects of any kind in a cluster: written by server-side apply, found, deleted.

use std::collections::HashMap;

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::error::DiscoveryError;
use kube::{Client, Error};
use serde_json::Value;

use super::documents::ObjectName;

/// Whose fields are whose, for the API server.
const FIELD_MANAGER: &str = "ambit-up";

/// Objects of any kind.
pub(super) struct AnyObjects {
    client: Client,
    kinds: HashMap<(String, String), (ApiResource, bool)>,
}

impl AnyObjects {
    pub(super) fn new(client: Client) -> Self {
        Self { client, kinds: HashMap::new() }
    }

    /// Where objects of the kind and namespace of this one are.
    async fn api(&mut self, name: &ObjectName) -> Result<Api<DynamicObject>, Error> {
        let key = (name.api_version.clone(), name.kind.clone());
        if !self.kinds.contains_key(&key) {
            let (group, version) = name.api_version.rsplit_once('/').unwrap_or(("", &name.api_version));
            let kind = GroupVersionKind::gvk(group, version, &name.kind);
            let (resource, capabilities) = pinned_kind(&self.client, &kind).await?;
            self.kinds.insert(key.clone(), (resource, capabilities.scope == Scope::Namespaced));
        }
        let missing = || Error::Discovery(DiscoveryError::MissingKind(name.kind.clone()));
        let (resource, namespaced) = self.kinds.get(&key).ok_or_else(missing)?;
        Ok(match (namespaced, name.namespace.as_str()) {
            (false, _) => Api::all_with(self.client.clone(), resource),
            (true, "") => Api::namespaced_with(self.client.clone(), "default", resource),
            (true, namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
        })
    }

    /// Whether the cluster has the kind of this object.
    pub(super) async fn has_kind(&mut self, name: &ObjectName) -> Result<bool, Error> {
        match self.api(name).await {
            Ok(_) => Ok(true),
            Err(error) if is_unknown(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The object of this name.
    pub(super) async fn get(&mut self, name: &ObjectName) -> Result<Option<DynamicObject>, Error> {
        match self.api(name).await {
            Ok(api) => api.get_opt(&name.name).await,
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an object as it is written here, as far as it is written here.
    pub(super) async fn apply(&mut self, name: &ObjectName, object: &Value) -> Result<(), Error> {
        let mut how = PatchParams::apply(FIELD_MANAGER);
        // A field that the API server does not know would be left out without a word.
        how.field_validation = Some(ValidationDirective::Strict);
        self.api(name).await?.patch(&name.name, &how, &Patch::Apply(object)).await.map(drop)
    }

    /// Deletes an object, if there is one.
    pub(super) async fn delete(&mut self, name: &ObjectName) -> Result<(), Error> {
        match self.api(name).await?.delete(&name.name, &DeleteParams::background()).await {
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}

/// Whether the cluster has no such kind.
pub(super) fn is_unknown(error: &Error) -> bool {
    match error {
        Error::Discovery(_) => true,
        Error::Api(status) => status.code == 404,
        _ => false,
    }
}

/// Whether an object cannot become what it is to be.
pub(super) fn is_immutable(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 422)
}
