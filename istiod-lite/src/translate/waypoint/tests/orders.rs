//! Which of several routes comes first: when they were made decides only where nothing else does.

use super::{kinds, of_waypoint, render};

/// What the routes are attached to.
const AROUND: &str = with_waypoint!(
    r#"
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: billing}, ports: [{name: http, port: 80}]}
"#
);

/// Names and matches of routes, the first that applies first; the last two match the same. By name they come in the other order.
const ROUTES: [(&str, &str); 5] = [
    ("e", "{path: {type: Exact, value: /api/orders}}"),
    ("d", "{path: {type: PathPrefix, value: /api/orders}}"),
    ("c", "{path: {type: PathPrefix, value: /api}, headers: [{name: x-version, value: two}]}"),
    ("b", "{path: {type: PathPrefix, value: /api}}"),
    ("a", "{path: {type: PathPrefix, value: /api}}"),
];

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let with = |order: &[usize], next: usize, at: usize| [&order[..at], &[next], &order[at..]].concat();
    (0..count).fold(vec![Vec::new()], |all, next| {
        all.iter().flat_map(|order| (0..=order.len()).map(|at| with(order, next, at))).collect()
    })
}

/// The routes' names in the order in which they are tried, when they were made in this one, a second apart.
fn tried(made: &[usize]) -> Vec<String> {
    let mut yaml = AROUND.to_owned();
    for (second, at) in made.iter().enumerate() {
        let (name, matched) = ROUTES[*at];
        yaml.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: billing}}]\n  \
             rules: [{{matches: [{matched}], backendRefs: [{{name: billing, port: 80}}]}}]\n"
        ));
    }
    let resources = of_waypoint(&yaml);
    let (_, of_kind) = kinds(&resources).into_iter().find(|(kind, _)| *kind == "routes").unwrap();
    let (_, routes) = of_kind.iter().find(|(name, _)| name == "inbound-vip|80|http|billing.shop.svc.cluster.local").unwrap();
    let routes = render(routes);
    let routes = routes["virtual_hosts"][0]["routes"].as_array().unwrap();
    routes.iter().map(|route| route["name"].as_str().unwrap().split('/').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn precedence_is_the_same_in_all_orders_of_creation_and_the_oldest_comes_first_of_those_that_match_the_same() {
    let orders = orders(ROUTES.len());
    assert_eq!(orders.len(), 120);
    for made in orders {
        let place = |route| made.iter().position(|at| *at == route).unwrap();
        let twins = if place(3) < place(4) { ["b", "a"] } else { ["a", "b"] };
        assert_eq!(tried(&made), [["e", "d", "c"].as_slice(), &twins].concat(), "made in the order {made:?}");
    }
}
