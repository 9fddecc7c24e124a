//! Which Secrets are asked for: those that Gateways at the edge of the mesh name, each by its name, so that no other one leaves the API server and
//! no key is held that nobody asks for. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::{INGRESS_CLASS, INGRESS_CONTROLLER, named_secrets};
use crate::source::{Event, Kind, NamespacedName, Object};

/// What Gateways name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Whether Gateways of a class are at the edge of the mesh.
    classes: BTreeMap<String, bool>,
    /// By Gateway its class, and the Secrets that it names.
    gateways: BTreeMap<NamespacedName, (String, BTreeSet<NamespacedName>)>,
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
            Event::Delete(key) if key.kind == Kind::Gateway => self.gateways.remove(&key.name).is_some(),
            Event::Delete(key) if key.kind == Kind::GatewayClass => self.classes.remove(&*key.name.name).is_some(),
            Event::Upsert(_) | Event::Delete(_) => false,
        }
    }

    /// The Secrets that are named now.
    pub(super) fn secrets(&self) -> BTreeSet<NamespacedName> {
        // As the index sees it: the class `ambit` may be there without an object.
        let at_edge = |class: &str| self.classes.get(class).copied().unwrap_or(class == INGRESS_CLASS);
        let gateways = self.gateways.values().filter(|(class, _)| at_edge(class));
        gateways.flat_map(|(_, secrets)| secrets).cloned().collect()
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

    #[test]
    fn secrets_are_named_by_gateways_of_the_mesh_s_own_classes_alone() {
        let mut named = Named::default();
        let secrets = |named: &Named| named.secrets().iter().map(ToString::to_string).collect::<Vec<_>>();
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
            assert_eq!(named.secrets().iter().map(ToString::to_string).collect::<Vec<_>>(), ["keys/far"], "{name}");
        }
        let mut named = Named::default();
        take(&mut named, &gateway("one", "ambit", "cert.example-1"));
        assert_eq!(named.secrets().len(), 2);
    }
}
