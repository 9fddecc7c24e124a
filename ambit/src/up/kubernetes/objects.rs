//! Objects of any kind in a cluster: written by server-side apply, found, deleted. Whose an object is, is written on it: one that was
//! made here has a label, and on one that was there before the API server keeps which fields were added.

use std::collections::HashMap;

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::error::DiscoveryError;
use kube::{Client, Error};
use serde_json::{Value, json};

use super::documents::ObjectName;

/// Label of what was made by an `ambit up --kubernetes`, with which one.
pub(super) const MADE_BY: &str = "up.ambit.dev/made-by";

/// Objects of any kind, as one `ambit up --kubernetes` sees them.
pub(super) struct AnyObjects {
    client: Client,
    /// Which one. Also in the name under which the API server knows whose fields are whose, so that two do not share them.
    owner: String,
    kinds: HashMap<(String, String), (ApiResource, bool)>,
}

/// What became of an object that is not wanted any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// There was none.
    Gone,
    /// It was made here, and is deleted: it may take a while to be gone.
    Going,
    /// It is somebody else's, and has only what they wrote.
    Theirs,
    /// It was made here, but somebody else would lose something with it: what, in words.
    Stays(String),
}

impl AnyObjects {
    pub(super) fn new(client: Client, owner: &str) -> Self {
        Self { client, owner: owner.to_owned(), kinds: HashMap::new() }
    }

    /// The client that all is asked with.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    fn manager(&self) -> String {
        format!("ambit-up-{}", self.owner)
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

    /// Whether this one was made here.
    pub(super) fn is_ours(&self, found: &DynamicObject) -> bool {
        let labels = found.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(MADE_BY)).is_some_and(|owner| *owner == self.owner)
    }

    /// Whether this one has fields from here.
    fn has_fields(&self, found: &DynamicObject) -> bool {
        let manager = self.manager();
        found.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(&*manager))
    }

    /// Makes an object as it is written here, as far as it is written here; `before` is what there was.
    pub(super) async fn apply(&mut self, name: &ObjectName, object: &Value, before: Option<&DynamicObject>) -> Result<(), Error> {
        let ours = before.is_none_or(|before| self.is_ours(before));
        let after = if ours { self.write(name, &marked(object, &self.owner)).await? } else { self.write(name, object).await? };
        // Nobody but its maker has fields of an object that is new: somebody else was faster.
        let manager = self.manager();
        let mut managers = after.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref());
        if before.is_none() && managers.any(|other| other != manager) {
            self.write(name, object).await?;
        }
        Ok(())
    }

    async fn write(&mut self, name: &ObjectName, object: &Value) -> Result<DynamicObject, Error> {
        let mut how = PatchParams::apply(&self.manager());
        // A field that the API server does not know would be left out without a word.
        how.field_validation = Some(ValidationDirective::Strict);
        self.api(name).await?.patch(&name.name, &how, &Patch::Apply(object)).await
    }

    /// Deletes an object that was made here, and takes from another what was added to it. An object that somebody else has made anew
    /// meanwhile is theirs.
    pub(super) async fn take_out(&mut self, name: &ObjectName) -> Result<Taken, Error> {
        let Some(found) = self.get(name).await? else { return Ok(Taken::Gone) };
        if !self.is_ours(&found) {
            self.release(name, &found).await?;
            return Ok(Taken::Theirs);
        }
        // What a Deployment has made is to be gone before the policies for it: what holds it must hold to its end.
        let mut how =
            if name.is_workload() && name.kind != "Pod" { DeleteParams::foreground() } else { DeleteParams::background() };
        how.preconditions = Some(Preconditions { resource_version: None, uid: found.metadata.uid });
        match self.api(name).await?.delete(&name.name, &how).await {
            Ok(_) => Ok(Taken::Going),
            Err(Error::Api(status)) if status.code == 404 => Ok(Taken::Gone),
            Err(Error::Api(status)) if status.code == 409 => Ok(Taken::Theirs),
            Err(error) => Err(error),
        }
    }

    /// Takes from somebody's object the fields that were added here: those that are not in what its field manager applies any more.
    async fn release(&mut self, name: &ObjectName, found: &DynamicObject) -> Result<(), Error> {
        if !self.has_fields(found) {
            return Ok(());
        }
        // With the uid an object that is gone is not made.
        let mut metadata = json!({ "name": name.name, "uid": found.metadata.uid });
        if let (Some(namespace), Some(fields)) = (&found.metadata.namespace, metadata.as_object_mut()) {
            fields.insert("namespace".to_owned(), json!(namespace));
        }
        let nothing = json!({ "apiVersion": name.api_version, "kind": name.kind, "metadata": metadata });
        match self.write(name, &nothing).await {
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            written => written.map(drop),
        }
    }
}

/// The object with the label of whose it is.
fn marked(object: &Value, owner: &str) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let labels = metadata.entry("labels").or_insert(Value::Null);
        if labels.is_null() {
            *labels = json!({});
        }
        // Of labels that are none the API server says what is wrong.
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(MADE_BY.to_owned(), json!(owner));
        }
    }
    object
}

/// Whether the cluster has no such kind.
pub(super) fn is_unknown(error: &Error) -> bool {
    match error {
        Error::Discovery(_) => true,
        Error::Api(status) => status.code == 404,
        _ => false,
    }
}

/// Whether an object cannot become what it is to be, though there could be another one that is: nothing else is wrong with it.
pub(super) fn is_immutable(error: &Error) -> bool {
    let Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    status.code == 422 && !causes.is_empty() && causes.iter().all(|cause| cause.reason == "FieldValueForbidden")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_added_to_the_labels_that_there_are() {
        let labels =
            |metadata: Value| marked(&json!({ "kind": "Pod", "metadata": metadata }), "me")["metadata"]["labels"].clone();
        assert_eq!(labels(json!({ "name": "p" })), json!({ MADE_BY: "me" }));
        assert_eq!(labels(json!({ "labels": null })), json!({ MADE_BY: "me" }));
        assert_eq!(labels(json!({ "labels": { "app": "web" } })), json!({ "app": "web", MADE_BY: "me" }));
        assert_eq!(labels(json!({ "labels": ["wrong"] })), json!(["wrong"]));
    }

    #[test]
    fn a_pod_is_made_anew_only_if_nothing_else_is_wrong_with_what_it_is_to_be() {
        let refused = |reasons: &[&str]| {
            let causes: Vec<_> =
                reasons.iter().map(|reason| json!({ "reason": reason, "message": "m", "field": "spec" })).collect();
            let status = json!({ "code": 422, "message": "m", "reason": "Invalid", "details": { "causes": causes } });
            Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        assert!(is_immutable(&refused(&["FieldValueForbidden"])));
        assert!(!is_immutable(&refused(&["FieldValueForbidden", "FieldValueInvalid"])) && !is_immutable(&refused(&[])));
    }
}
