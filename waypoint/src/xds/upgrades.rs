//! What routes say of upgrades (`envoy.config.route.v3.RouteAction.UpgradeConfig`).

use std::mem::take;

use ambit_api::envoy::pb::envoy::config::route::v3::route_action::UpgradeConfig;
use ambit_model::route::UpgradeRule;

use super::read::{Compiled, Problem, Under, boolean, finish};

/// Which upgrades are passed on, whatever the chain says of them. Envoy takes no type twice, however it is spelled.
pub fn rules(said: Vec<UpgradeConfig>) -> Compiled<Vec<UpgradeRule>> {
    let mut rules: Vec<UpgradeRule> = Vec::with_capacity(said.len());
    for mut upgrade in said {
        let name = name(&take(&mut upgrade.upgrade_type))?;
        let enabled = boolean(upgrade.enabled.take(), true);
        finish(&upgrade).under(format!("[{name}]"))?;
        if rules.iter().any(|rule| rule.name == name) {
            return Err(Problem::new(format!("upgrade {name:?} is said twice")));
        }
        rules.push(UpgradeRule { name, enabled });
    }
    Ok(rules)
}

/// What an upgrade is called, in lower case.
pub fn name(said: &str) -> Compiled<String> {
    let name = said.to_ascii_lowercase();
    // A tunnel, or datagrams: what a client asks for in this way is no stream of bytes.
    if name.is_empty() || name == "connect" || name.starts_with("connect-") {
        return Err(Problem::new(format!("upgrade {name:?} is not implemented here")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::{
        envoy::config::route::v3::route_action::upgrade_config::ConnectConfig, google::protobuf::BoolValue,
    };

    use super::*;

    fn said(name: &str, enabled: Option<bool>) -> UpgradeConfig {
        UpgradeConfig { upgrade_type: name.into(), enabled: enabled.map(|value| BoolValue { value }), ..Default::default() }
    }

    #[test]
    fn a_route_says_of_each_upgrade_once_whether_it_is_passed_on() {
        let rule = |name: &str, enabled| UpgradeRule { name: name.into(), enabled };
        let read = rules(vec![said("IRC/6.9", None), said("websocket", Some(false)), said("b", Some(true))]).unwrap();
        assert_eq!(read, [rule("irc/6.9", true), rule("websocket", false), rule("b", true)]);
        for refused in
            [vec![said("a", None), said("A", Some(false))], vec![said("CONNECT", None)], vec![said("connect-udp", None)]]
        {
            assert!(rules(refused.clone()).is_err(), "{refused:?}");
        }
        let tunnel = UpgradeConfig { connect_config: Some(ConnectConfig::default()), ..said("a", None) };
        let problem = rules(vec![tunnel]).unwrap_err().to_string();
        assert!(problem.contains("connect_config is not implemented"), "{problem}");
    }
}
