//! What rules do to requests and answers.

use serde_json::{Value, json};

use super::{HEADERS, VALUES, path};
use crate::dice::Dice;

const NEW: [&str; 4] = ["x-one", "X-New", "accept", "x-forwarded-for"];
const ANSWERED: [&str; 6] = ["x-answer", "X-Remove-Me", "server", "cache-control", "set-cookie", "content-type"];
const HOSTS: [&str; 3] = ["new.example", "b0.shop", "a.new.example"];
const ORIGINS: [&str; 4] = ["https://a.example", "http://*.a.example", "https://b.example:8443", "http://a.example"];

/// Filters of a rule that sends on. `by_prefix`: its one match is by the prefix of a path.
pub fn of_rule(dice: &mut Dice, grpc: bool, by_prefix: bool) -> Vec<Value> {
    let mut filters = Vec::new();
    if dice.one_in(3) {
        filters.push(request(dice));
    }
    if dice.one_in(3) {
        filters.push(response(dice));
    }
    if !grpc && dice.one_in(4) {
        filters.push(json!({"type": "URLRewrite", "urlRewrite": rewrite(dice, by_prefix)}));
    }
    if dice.one_in(8) {
        let to = dice.of(&["b3", "b3", "b3", "missing", "empty"]);
        filters.push(json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": to, "port": 80}}}));
    }
    if !grpc && dice.one_in(6) {
        filters.push(json!({"type": "CORS", "cors": cors(dice)}));
    }
    filters
}

/// Filters of one backend.
pub fn of_backend(dice: &mut Dice) -> Vec<Value> {
    if dice.one_in(2) { vec![request(dice)] } else { vec![response(dice), request(dice)] }
}

/// A redirect.
pub fn redirect(dice: &mut Dice, by_prefix: bool) -> Value {
    let mut redirect = json!({});
    if dice.one_in(2) {
        redirect["scheme"] = dice.of(&["http", "https"]).into();
    }
    if dice.one_in(2) {
        redirect["hostname"] = dice.of(&HOSTS).into();
    }
    if dice.one_in(3) {
        redirect["port"] = dice.of(&[80, 443, 8080]).into();
    }
    if dice.one_in(2) {
        redirect["path"] = change(dice, by_prefix);
    }
    if dice.one_in(2) {
        redirect["statusCode"] = dice.of(&[301, 302, 303, 307, 308]).into();
    }
    json!({"type": "RequestRedirect", "requestRedirect": redirect})
}

fn rewrite(dice: &mut Dice, by_prefix: bool) -> Value {
    let mut rewrite = json!({});
    if dice.one_in(2) {
        rewrite["hostname"] = dice.of(&HOSTS).into();
    }
    if rewrite["hostname"].is_null() || dice.one_in(2) {
        rewrite["path"] = change(dice, by_prefix);
    }
    rewrite
}

fn change(dice: &mut Dice, by_prefix: bool) -> Value {
    let new = if dice.one_in(4) { dice.of(&["/", "/x/", "/x%20y", "/a\\1"]).to_owned() } else { path(dice) };
    if by_prefix && !dice.one_in(4) {
        return json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": new});
    }
    json!({"type": "ReplaceFullPath", "replaceFullPath": new})
}

fn request(dice: &mut Dice) -> Value {
    let mut modifier = headers(dice, &[&HEADERS[..], &NEW].concat());
    if dice.one_in(8) {
        modifier["set"] = json!([{"name": "Host", "value": dice.of(&HOSTS)}]);
    }
    json!({"type": "RequestHeaderModifier", "requestHeaderModifier": modifier})
}

fn response(dice: &mut Dice) -> Value {
    json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": headers(dice, &ANSWERED)})
}

/// Each header is set, added or removed, at most once.
fn headers(dice: &mut Dice, names: &[&str]) -> Value {
    let (mut set, mut add, mut remove) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let values = [&VALUES[..], &["%REQ(x-one)%", "%%", "\"quoted\"", "%DOWNSTREAM_REMOTE_ADDRESS%"]].concat();
        match dice.below(9) {
            0 => set.push(json!({"name": name, "value": dice.of(&values)})),
            1 => add.push(json!({"name": name, "value": dice.of(&values)})),
            2 => remove.push(json!(name)),
            _ => {}
        }
    }
    json!({"set": set, "add": add, "remove": remove})
}

fn cors(dice: &mut Dice) -> Value {
    let origins = if dice.one_in(5) { vec!["*"] } else { dice.some(2, |dice| dice.of(&ORIGINS)) };
    let mut cors = json!({"allowOrigins": origins});
    if dice.one_in(2) {
        cors["allowMethods"] = if dice.one_in(3) { json!(["*"]) } else { json!(["GET", "PUT"]) };
    }
    if dice.one_in(2) {
        cors["allowHeaders"] = if dice.one_in(3) { json!(["*"]) } else { json!(["x-one", "content-type"]) };
    }
    if dice.one_in(3) {
        cors["exposeHeaders"] = if dice.one_in(3) { json!(["*"]) } else { json!(["x-answer"]) };
    }
    if dice.one_in(2) {
        cors["allowCredentials"] = dice.one_in(2).into();
    }
    if dice.one_in(2) {
        cors["maxAge"] = dice.of(&[1, 600]).into();
    }
    cors
}
