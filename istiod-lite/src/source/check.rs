//! What is wrong with YAML, said without a control plane that runs: everything at once, with file, line and field.

mod hazards;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::document::{Document, Parsed, parse};
use super::object::{Kind, NamespacedName, Object, ObjectKey};
use super::typed::{self, FieldError};
use super::validate::{validate, without_effect};
use super::{Problem, Severity};
use crate::index::{INGRESS_CLASS, INGRESS_CONTROLLER, ROOT_NAMESPACE};
use crate::validation::{AtEdge, Findings, beyond, concerns};

/// What the check of some files found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// How many objects there are of kinds that the mesh reads.
    pub objects: usize,
}

/// Checks files, given by their names and texts, by the rules of the control plane. Objects are looked at one by one: whether they fit together
/// is not said, but that one is given twice, and what of their times and retries could hurt. Routes of Gateways are looked at where these are given,
/// too, and are of the mesh's own class.
#[must_use]
pub fn check(files: &[(PathBuf, String)]) -> Checked {
    let mut checked = Checked::default();
    let mut seen: BTreeMap<ObjectKey, &PathBuf> = BTreeMap::new();
    let parsed: Vec<_> = files.iter().map(|(file, text)| (file, parse(file, text))).collect();
    let edges = at_edge(parsed.iter().flat_map(|(_, parsed)| &parsed.documents));
    let (mut objects, mut written) = (Vec::new(), Vec::new());
    for (file, Parsed { documents, problems }) in parsed {
        checked.problems.extend(problems);
        for document in documents {
            checked.objects += 1;
            if let Some(other) = seen.insert(document.key.clone(), file) {
                let reason = match other == file {
                    true => "the object is given twice in this file".to_owned(),
                    false => format!("the object is given in {} already", other.display()),
                };
                checked.problems.push(document.problem(file, "metadata.name", reason));
            }
            let (object, Findings { errors, warnings }) = findings(&document, &|name| edges.contains(name));
            checked.problems.extend(errors.into_iter().map(|error| document.problem(file, &error.path, error.reason)));
            checked.problems.extend(warnings.into_iter().map(|found| warning(&document, file, found)));
            if let Some(object) = object {
                objects.push(object);
                written.push((document, file));
            }
        }
    }
    for (at, found) in hazards::hazards(&objects, &|name| edges.contains(name)) {
        checked.problems.extend(written.get(at).map(|(document, file)| warning(document, file, found)));
    }
    checked.problems.sort();
    checked
}

/// The Gateways among these objects that are at the edge of the mesh.
fn at_edge<'a>(documents: impl Iterator<Item = &'a Document> + Clone) -> BTreeSet<NamespacedName> {
    let of = |kind: Kind| documents.clone().filter(move |document| document.key.kind == kind);
    let classes: BTreeMap<&str, bool> = of(Kind::GatewayClass)
        .map(|class| (&*class.key.name.name, said(class, "/spec/controllerName") == INGRESS_CONTROLLER))
        .collect();
    let is_ours = |class: &str| classes.get(class).copied().unwrap_or(class == INGRESS_CLASS);
    of(Kind::Gateway)
        .filter(|gateway| is_ours(said(gateway, "/spec/gatewayClassName")))
        .map(|gateway| gateway.key.name.clone())
        .collect()
}

fn said<'a>(document: &'a Document, path: &str) -> &'a str {
    document.value.pointer(path).and_then(|value| value.as_str()).unwrap_or_default()
}

fn warning(document: &Document, file: &Path, found: FieldError) -> Problem {
    Problem { severity: Severity::Warning, ..document.problem(file, &found.path, found.reason) }
}

/// The object, if it can be read, and what the validating webhook would find, and fields that an API server would leave out without a word.
fn findings(document: &Document, at_edge: AtEdge<'_>) -> (Option<Object>, Findings) {
    let object = match typed::read(document.key.kind, document.value.clone()) {
        Ok(object) => object,
        Err(errors) => return (None, Findings { errors, warnings: Vec::new() }),
    };
    let mut findings = Findings { errors: validate(&object), warnings: without_effect(&object) };
    if concerns(document.key.kind, &document.key.name.namespace, &document.value, at_edge) {
        findings.add(beyond(&object, ROOT_NAMESPACE));
    }
    (Some(object), findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(file, text)| (PathBuf::from(file), (*text).to_owned())).collect();
        check(&files).problems.iter().map(Problem::to_string).collect()
    }

    const SERVICE: &str =
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n  - port: 0\n    protocol: ICMP\n";

    #[test]
    fn everything_that_is_wrong_is_said_at_once_with_its_line() {
        let text =
            format!("{SERVICE}---\nkind: [\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: b}}\nspec: {{containrs: []}}\n");
        let found = found(&[("a.yaml", &text)]);
        for (position, part) in
            ["a.yaml:7: Service default/a: spec.ports[0].port: 0 is not a port", "a.yaml:8: Service default/a", "a.yaml:1"]
                .iter()
                .enumerate()
        {
            assert!(found[position].starts_with(part), "{part}: {found:#?}");
        }
        assert!(found.iter().any(|problem| problem.contains("not valid YAML")), "{found:#?}");
        assert!(found.iter().any(|problem| problem.starts_with("a.yaml:15: Pod default/b: spec.containrs")), "{found:#?}");
    }

    #[test]
    fn what_the_webhook_refuses_is_wrong_here_too_and_what_it_warns_of_is_a_warning() {
        let policy = |spec: &str| {
            format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\nspec:\n  {spec}\n")
        };
        let levels = |text: &str| {
            let files = [(PathBuf::from("a.yaml"), text.to_owned())];
            check(&files).problems.iter().map(|problem| (problem.is_error(), problem.to_string())).collect::<Vec<_>>()
        };
        let found = levels(&policy("action: AUDIT"));
        assert!(
            found.len() == 1
                && found[0].0
                && found[0].1.starts_with("a.yaml:5: AuthorizationPolicy default/a: spec.action: AUDIT"),
            "{found:?}"
        );
        let found = levels(&policy("rules: [{to: [{operation: {paths: [/a]}}]}]"));
        assert!(found.len() == 1 && !found[0].0 && found[0].1.contains("paths is not known at L4"), "{found:?}");
        // What another controller's Gateway makes of a filter is its business.
        let route = |parent: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec:\n  parentRefs: [{{{parent}, name: a}}]\n  rules: [{{filters: [{{type: ExternalAuth, externalAuth: {{protocol: HTTP, backendRef: {{name: b, port: 80}}}}}}]}}]\n"
            )
        };
        assert!(levels(&route("kind: Gateway")).is_empty());
        let gateway = |class: &str| {
            format!(
                "{}---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: a}}\nspec: {{gatewayClassName: {class}, listeners: [{{name: a, port: 80, protocol: HTTP}}]}}\n",
                route("kind: Gateway")
            )
        };
        assert!(levels(&gateway("nginx")).is_empty());
        let found = levels(&gateway("ambit"));
        assert!(found.len() == 1 && found[0].0 && found[0].1.contains("filter ExternalAuth is not supported"), "{found:?}");
        let found = levels(&route("group: '', kind: Service"));
        assert!(found.len() == 1 && found[0].0 && found[0].1.contains("filter ExternalAuth is not supported"), "{found:?}");
    }

    #[test]
    fn an_object_that_is_given_twice_is_wrong_in_one_file_and_in_two() {
        let good = SERVICE.replace("port: 0", "port: 80").replace("ICMP", "TCP");
        assert_eq!(found(&[("a.yaml", &good)]), [""; 0]);
        let two = found(&[("a.yaml", &good), ("b.yaml", &good)]);
        assert_eq!(two, ["b.yaml:4: Service default/a: metadata.name: the object is given in a.yaml already"]);
        let twice = found(&[("a.yaml", &format!("{good}---\n{good}"))]);
        assert_eq!(twice, ["a.yaml:13: Service default/a: metadata.name: the object is given twice in this file"]);
    }
}
