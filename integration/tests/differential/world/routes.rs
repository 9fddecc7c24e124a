//! Routes of a service.

use serde_json::{Value, json};

use super::filters;
use super::matches::Match;
use crate::dice::Dice;

/// A route, and what requests need to know of it.
#[derive(Debug, Clone)]
pub struct Route {
    pub object: Value,
    pub grpc: bool,
    /// The namespace for whose clients alone it is.
    pub consumer: Option<&'static str>,
    pub rules: Vec<Rule>,
}

/// What requests need to know of a rule.
#[derive(Debug, Clone)]
pub struct Rule {
    pub matches: Vec<Match>,
    /// It is sent again when it fails.
    pub retries: bool,
    /// It is given up soon.
    pub hurries: bool,
    /// It knows other origins.
    pub crosses: bool,
}

/// Its routes: none, or some of its namespace and at times one of another.
pub fn of_service(dice: &mut Dice, service: &str) -> Vec<Route> {
    if dice.one_in(12) {
        return Vec::new();
    }
    let grpc = dice.one_in(6);
    let mut routes = vec![route(dice, service, 0, grpc, None)];
    if dice.one_in(2) {
        let other = dice.one_in(6);
        routes.push(route(dice, service, 1, grpc != other, None));
    }
    if dice.one_in(4) {
        let namespace = dice.of(&["tests", "tests", "strangers"]);
        routes.push(route(dice, service, 2, grpc, Some(namespace)));
    }
    routes
}

fn route(dice: &mut Dice, service: &str, number: usize, grpc: bool, consumer: Option<&'static str>) -> Route {
    let rules: Vec<(Rule, Value)> = dice.some(4, |dice| rule(dice, service, grpc, consumer.is_some()));
    let mut parent = json!({"group": "", "kind": "Service", "name": service, "namespace": "shop"});
    match dice.below(15) {
        0..=6 => parent["port"] = 80.into(),
        7..=8 => parent["sectionName"] = "http".into(),
        9 => parent["port"] = 81.into(),
        _ => {}
    }
    let mut metadata = json!({"name": format!("{service}-{number}"), "namespace": consumer.unwrap_or("shop")});
    if let Some(created) = dice.of(&[None, Some("2024-01-01T00:00:00Z"), Some("2024-01-02T00:00:00Z")]) {
        metadata["creationTimestamp"] = created.into();
    }
    let kind = if grpc { "GRPCRoute" } else { "HTTPRoute" };
    let (rules, written): (Vec<Rule>, Vec<Value>) = rules.into_iter().unzip();
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata,
        "spec": {"parentRefs": [parent], "rules": written},
    });
    Route { object, grpc, consumer, rules }
}

fn rule(dice: &mut Dice, service: &str, grpc: bool, foreign: bool) -> (Rule, Value) {
    let by_prefix = !grpc && dice.one_in(3);
    let matches = match (grpc, by_prefix) {
        (_, true) => vec![Match::prefix(dice)],
        _ if dice.one_in(12) => Vec::new(),
        (true, _) => dice.some(3, Match::grpc),
        (false, _) => dice.some(3, Match::http),
    };
    let mut rule = Rule { matches, retries: false, hurries: false, crosses: false };
    let mut written = json!({});
    if !rule.matches.is_empty() {
        written["matches"] = rule.matches.iter().map(Match::object).collect();
    }
    if !grpc && dice.one_in(8) {
        written["filters"] = json!([filters::redirect(dice, by_prefix)]);
        return (rule, written);
    }
    let filters = filters::of_rule(dice, grpc, by_prefix);
    rule.crosses = filters.iter().any(|filter| filter["type"] == "CORS");
    if !filters.is_empty() {
        written["filters"] = filters.into();
    }
    written["backendRefs"] = backends(dice, service, foreign).into();
    if !grpc && dice.one_in(5) {
        rule.retries = true;
        written["retry"] = retry(dice);
    }
    if !grpc && dice.one_in(6) {
        rule.hurries = dice.one_in(2);
        written["timeouts"] = match (rule.hurries, rule.retries && dice.one_in(2)) {
            (true, true) => json!({"request": "2s", "backendRequest": "700ms"}),
            (true, false) => json!({"request": "700ms"}),
            (false, true) => json!({"request": "30s", "backendRequest": "20s"}),
            (false, false) => json!({"request": dice.of(&["0s", "30s", "1h"])}),
        };
    }
    (rule, written)
}

fn retry(dice: &mut Dice) -> Value {
    let mut retry = json!({"attempts": dice.below(4), "backoff": "10ms"});
    if !dice.one_in(4) {
        retry["codes"] = dice.few(&[500, 503, 504, 429], 2).into();
    }
    retry
}

/// Mostly one that answers.
fn backends(dice: &mut Dice, service: &str, foreign: bool) -> Vec<Value> {
    let to = |name: &str, more: Value| {
        let mut reference = json!({"name": name, "port": 80});
        if foreign {
            reference["namespace"] = "shop".into();
        }
        for (name, value) in more.as_object().into_iter().flatten() {
            reference[name.as_str()] = value.clone();
        }
        reference
    };
    let one = dice.of(&["b0", "b1", "b2"]);
    match dice.below(24) {
        0..=10 => vec![to(one, json!({}))],
        11..=13 => vec![to(one, json!({"filters": filters::of_backend(dice)}))],
        14..=15 => vec![to("b0", json!({"weight": 1})), to("b1", json!({"weight": 0}))],
        16 => vec![to("b1", json!({})), to("b2", json!({"weight": 2}))],
        17 => vec![to("missing", json!({}))],
        18 => vec![to("b0", json!({"port": 81}))],
        19 => vec![to("b0", json!({"kind": "Secret"}))],
        20 => vec![to("empty", json!({}))],
        21 => vec![to("closed", json!({}))],
        22 => Vec::new(),
        _ => vec![to(service, json!({}))],
    }
}
