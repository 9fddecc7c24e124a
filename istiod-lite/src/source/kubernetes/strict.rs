//! What holds in place of a policy that cannot be read and of which nothing better is known.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::source::crd::tokens::{RequestAuthentication, RequestAuthenticationSpec};
use crate::source::crd::{
    AuthorizationPolicy, AuthorizationPolicySpec, MtlsMode, MutualTls, PeerAuthentication, PeerAuthenticationSpec, PolicyAction,
    Rule,
};
use crate::source::object::{Kind, Object};
use crate::source::validate::validate;

/// What the problem says of it.
pub(super) const CONSEQUENCE: &str = "the strictest policy holds for what it selects";

/// The strictest policy for what the unreadable one selects, as far as that can be read, and for its whole namespace otherwise: one
/// that denies everything, or demands mutual TLS; nothing that can be read is above it. `None` for other kinds, for what only audits, and for
/// a RequestAuthentication without targets, which holds nowhere.
pub(super) fn stand_in(kind: Kind, value: &Value) -> Option<Object> {
    let metadata: ObjectMeta = Deserialize::deserialize(value.get("metadata")?).ok()?;
    match kind {
        Kind::AuthorizationPolicy => {
            if value.pointer("/spec/action").is_some_and(|action| action == "AUDIT") {
                return None;
            }
            let spec = AuthorizationPolicySpec {
                selector: part(value, "/spec/selector"),
                target_refs: part(value, "/spec/targetRefs").unwrap_or_default(),
                target_ref: part(value, "/spec/targetRef"),
                action: PolicyAction::Deny,
                rules: vec![Rule::default()],
                ..AuthorizationPolicySpec::default()
            };
            let read = ["selector", "targetRefs", "targetRef"].iter().all(|field| {
                let written = value.pointer(&format!("/spec/{field}")).is_some_and(|field| !field.is_null());
                let known = match *field {
                    "selector" => spec.selector.is_some(),
                    "targetRefs" => !spec.target_refs.is_empty(),
                    _ => spec.target_ref.is_some(),
                };
                !written || known
            });
            let made = |spec| {
                Object::AuthorizationPolicy(Arc::new(AuthorizationPolicy { metadata: metadata.clone(), spec, status: None }))
            };
            let everything =
                AuthorizationPolicySpec { action: PolicyAction::Deny, rules: vec![Rule::default()], ..Default::default() };
            let narrow = made(spec);
            Some(if read && validate(&narrow).is_empty() { narrow } else { made(everything) })
        }
        Kind::PeerAuthentication => {
            let mtls = Some(MutualTls { mode: MtlsMode::Strict });
            let spec =
                PeerAuthenticationSpec { selector: part(value, "/spec/selector"), mtls, ..PeerAuthenticationSpec::default() };
            Some(Object::PeerAuthentication(Arc::new(PeerAuthentication { metadata, spec, status: None, stand_in: true })))
        }
        Kind::RequestAuthentication => {
            let written = |field: &str| {
                value.pointer(&format!("/spec/{field}")).is_some_and(|field| !field.is_null() && *field != json!([]))
            };
            if !written("targetRefs") && !written("targetRef") {
                return None;
            }
            let spec = RequestAuthenticationSpec {
                target_refs: part(value, "/spec/targetRefs").unwrap_or_default(),
                target_ref: part(value, "/spec/targetRef"),
                ..RequestAuthenticationSpec::default()
            };
            let read =
                (!written("targetRefs") || !spec.target_refs.is_empty()) && (!written("targetRef") || spec.target_ref.is_some());
            let made = |spec| {
                let policy = RequestAuthentication { metadata: metadata.clone(), spec, status: None, stand_in: true };
                Object::RequestAuthentication(Arc::new(policy))
            };
            let narrow = made(spec);
            Some(if read && validate(&narrow).is_empty() { narrow } else { made(RequestAuthenticationSpec::default()) })
        }
        _ => None,
    }
}

/// A part of an object, if it is there and fits its type with nothing left over that would narrow it.
fn part<T: DeserializeOwned>(value: &Value, pointer: &str) -> Option<T> {
    let mut unknown = false;
    let part = value.pointer(pointer)?;
    let read = serde_ignored::deserialize(part, |_| unknown = true).ok();
    read.filter(|_| !unknown)
}
