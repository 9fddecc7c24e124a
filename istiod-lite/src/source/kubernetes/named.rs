//! Which Secrets are asked for: those that Gateways at the edge of the mesh name and may name, each by its name, so that no other one leaves the API
//! server and no key is held that nobody asks for. One of another namespace needs a ReferenceGrant before it is read at all. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::referencegrants::ReferenceGrant;

use crate::index::{INGRESS_CLASS, INGRESS_CONTROLLER, grants_secret, named_secrets};
use crate::source::{Event, Kind, NamespacedName, Object};

/// What Gateways name, and what permits it.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Whether Gateways of a class are at the edge of the mesh.
    classes: BTreeMap<String, bool>,
    /// By Gateway its class, and the Secrets that it names.
    gateways: BTreeMap<NamespacedName, (String, BTreeSet<NamespacedName>)>,
    /// The ReferenceGrants that are for Secrets.
    grants: BTreeMap<NamespacedName, Arc<ReferenceGrant>>,
}

impl Named {
    /// Takes in what has become of an object. Whether that can change what is named.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Upsert(Object::Gateway(gateway)) => {
                let secrets: BTreeSet<NamespacedName> = named_secrets(gateway).filter(can_be).collect();
                let said = (gateway.spec.gateway_class_name.clone(), secrets);
                let before = self.gateways.insert(NamespacedName::of(&gateway.metadata), said.clone());
                before != Some(said)
            }
            Event::Upsert(Object::GatewayClass(class)) => {
                let ours = class.spec.controller_name == INGRESS_CONTROLLER;
                self.classes.insert(class.metadata.name.clone().unwrap_or_default(), ours) != Some(ours)
            }
            Event::Upsert(Object::ReferenceGrant(grant)) => {
                let name = NamespacedName::of(&grant.metadata);
                // Most are for routes and Services.
                let before = match grant.spec.to.iter().any(|to| to.kind == "Secret") {
                    true => self.grants.insert(name.clone(), grant.clone()),
                    false => self.grants.remove(&name),
                };
                before.as_ref().map(|before| &before.spec) != self.grants.get(&name).map(|grant| &grant.spec)
            }
            Event::Delete(key) if key.kind == Kind::ReferenceGrant => self.grants.remove(&key.name).is_some(),
            Event::Delete(key) if key.kind == Kind::Gateway => self.gateways.remove(&key.name).is_some(),
            Event::Delete(key) if key.kind == Kind::GatewayClass => self.classes.remove(&*key.name.name).is_some(),
            Event::Upsert(_) | Event::Delete(_) => false,
        }
    }

    /// The Secrets that are named now, and may be.
    pub(super) fn secrets(&self) -> BTreeSet<NamespacedName> {
        // As the index sees it: the class `ambit` may be there without an object.
        let at_edge = |class: &str| self.classes.get(class).copied().unwrap_or(class == INGRESS_CLASS);
        let gateways = self.gateways.iter().filter(|(_, (class, _))| at_edge(class));
        let named = gateways.flat_map(|(gateway, (_, secrets))| secrets.iter().map(move |secret| (gateway, secret)));
        named.filter(|(gateway, secret)| self.may_name(gateway, secret)).map(|(_, secret)| secret.clone()).collect()
    }

    /// As the index sees it: a Secret of the Gateway's own namespace needs no permission.
    fn may_name(&self, gateway: &NamespacedName, secret: &NamespacedName) -> bool {
        let granted = |(name, grant): (&NamespacedName, &Arc<ReferenceGrant>)| {
            name.namespace == secret.namespace && grants_secret(grant, &gateway.namespace, secret)
        };
        gateway.namespace == secret.namespace || self.grants.iter().any(granted)
    }
}

/// Whether there can be an object of this name. The API server refuses to look for one of another, so that it would be waited for in vain.
fn can_be(secret: &NamespacedName) -> bool {
    let written = |text: &str| text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    let is = |text: &str| {
        let ends = text.bytes().next().into_iter().chain(text.bytes().last());
        (1..=253).contains(&text.len()) && written(text) && ends.into_iter().all(|byte| byte.is_ascii_alphanumeric())
    };
    is(&secret.namespace) && is(&secret.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ObjectKey;
    use crate::source::testing::objects;

    fn take(named: &mut Named, text: &str) -> bool {
        let mut other = false;
        for object in objects(text) {
            other |= named.take(&Event::Upsert(object));
        }
        other
    }

    fn gateway(name: &str, class: &str, secret: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{gatewayClassName: {class}, listeners: [{{name: a, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: {secret}}}, {{name: far, namespace: keys}}]}}}}]}}\n"
        )
    }

    const GRANT: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: far, namespace: keys}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Secret, name: far}]}\n";

    fn secrets(named: &Named) -> Vec<String> {
        named.secrets().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_secret_of_another_namespace_is_not_asked_for_before_it_may_be_named() {
        let mut named = Named::default();
        take(&mut named, &gateway("one", "ambit", "cert"));
        assert_eq!(secrets(&named), ["shop/cert"]);
        for other in [
            GRANT.replace("kind: Gateway", "kind: HTTPRoute"),
            GRANT.replace("namespace: shop", "namespace: else"),
            GRANT.replace("namespace: keys", "namespace: else"),
            GRANT.replace("name: far}]", "name: near}]"),
            GRANT.replace("kind: Secret", "kind: Service"),
        ] {
            let mut named = Named::default();
            take(&mut named, &gateway("one", "ambit", "cert"));
            take(&mut named, &other);
            assert_eq!(secrets(&named), ["shop/cert"], "{other}");
        }
        assert!(take(&mut named, GRANT));
        assert!(!take(&mut named, GRANT), "nothing is new");
        assert_eq!(secrets(&named), ["keys/far", "shop/cert"]);
        assert!(take(&mut named, &GRANT.replace("kind: Secret", "kind: Service")));
        assert_eq!(secrets(&named), ["shop/cert"], "it was taken back");
        assert!(take(&mut named, &GRANT.replace(", name: far}]", "}]")), "all of that namespace");
        assert_eq!(secrets(&named), ["keys/far", "shop/cert"]);
        let gone = ObjectKey { kind: Kind::ReferenceGrant, name: NamespacedName::new("keys", "far") };
        assert!(named.take(&Event::Delete(gone.clone())));
        assert!(!named.take(&Event::Delete(gone)));
        assert_eq!(secrets(&named), ["shop/cert"]);
    }

    #[test]
    fn secrets_are_named_by_gateways_of_the_mesh_s_own_classes_alone() {
        let mut named = Named::default();
        assert!(take(&mut named, GRANT));
        assert!(take(&mut named, &gateway("one", "ambit", "cert")));
        assert!(!take(&mut named, &gateway("one", "ambit", "cert")), "nothing is new");
        assert!(take(&mut named, &gateway("two", "other", "stranger")));
        assert_eq!(secrets(&named), ["keys/far", "shop/cert"]);
        let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: other}\nspec: {controllerName: ambit.dev/gateway-controller}\n";
        assert!(take(&mut named, class));
        assert_eq!(secrets(&named), ["keys/far", "shop/cert", "shop/stranger"]);
        assert!(take(&mut named, &class.replace("ambit.dev", "example.com").replace("name: other", "name: ambit")));
        assert_eq!(secrets(&named), ["keys/far", "shop/stranger"], "somebody else's class of that name");
        let gone = |kind, name: NamespacedName| Event::Delete(ObjectKey { kind, name });
        assert!(named.take(&gone(Kind::Gateway, NamespacedName::new("shop", "two"))));
        assert!(!named.take(&gone(Kind::TlsSecret, NamespacedName::new("shop", "cert"))));
        assert!(named.secrets().is_empty());
        assert!(named.take(&gone(Kind::GatewayClass, NamespacedName::new("", "ambit"))));
        assert_eq!(secrets(&named), ["keys/far", "shop/cert"]);
    }

    #[test]
    fn a_name_that_no_secret_can_have_is_not_asked_for() {
        for name in ["Cert", "a/b", "'..'", "'a,b'", "-a", "a-", "''"] {
            let mut named = Named::default();
            take(&mut named, &gateway("one", "ambit", name));
            assert_eq!(secrets(&named), [""; 0], "{name}");
        }
        let mut named = Named::default();
        take(&mut named, &gateway("one", "ambit", "cert.example-1"));
        assert_eq!(secrets(&named), ["shop/cert.example-1"]);
    }
}
