//! Rules on the address that a client asks for.

use ambit_api::{
    envoy::pb::{
        envoy::config::{
            core::v3::CidrRange,
            rbac::v3::{Permission, permission::Rule, rbac::Action},
        },
        google::protobuf::UInt32Value,
    },
    type_url,
};

use super::{
    billing,
    support::{
        WEB,
        client::{get, once},
        resources,
    },
};

#[tokio::test]
async fn a_rule_on_the_destination_goes_by_the_address_that_the_tunnel_is_for() {
    let (mesh, mut service, seen) = billing(142).await;
    let own = service.vip.ip().to_string();
    let within = |address: &str, length| {
        Rule::DestinationIp(CidrRange { address_prefix: address.into(), prefix_len: Some(UInt32Value { value: length }) })
    };
    let not = |rule| Rule::NotRule(Box::new(Permission { rule: Some(rule) }));
    for (rule, denied) in [
        (within(&own, 32), true),
        (within("192.0.2.1", 32), false),
        (not(within(&own, 32)), false),
        (not(within("192.0.2.0", 24)), true),
        (within("0.0.0.0", 0), true),
        (within("::", 0), false),
    ] {
        let what = format!("{rule:?}");
        service.rbac = vec![resources::rules(Action::Deny, "ns[shop]-policy[address]-rule[0]", rule, WEB)];
        mesh.deliver(type_url::LISTENER, resources::listeners(std::slice::from_ref(&service)));
        let before = seen.requests();
        let (status, _, _) = once(&mesh, WEB, service.vip, get("/")).await;
        assert_eq!((status, seen.requests() - before), if denied { (403, 0) } else { (200, 1) }, "{what}");
    }
}
