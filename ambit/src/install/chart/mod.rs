//! The Helm chart, as it is carried in the program, and the objects that it becomes.
//!
//! | module | purpose |
//! |---|---|
//! | `files` | the files of `manifests/chart/` and `manifests/crds/` |
//! | [`values`] | the user's settings over the chart's |
//! | `schema` | whether they are settings that the chart has |

mod files;
mod schema;
#[cfg(test)]
mod tests;
pub mod values;

use serde_json::{Value, json};

pub use files::CRDS;

use super::template::{TemplateError, Templates};
use values::Settings;

/// Where the mesh is installed when nothing else is said; proxies of other vendors look for its control plane there.
pub const NAMESPACE: &str = "istio-system";
/// The name of the installation, in labels.
pub const NAME: &str = "ambit";
/// Who manages objects that this program wrote, in the label `app.kubernetes.io/managed-by`; Helm writes its own name.
pub const MANAGER: &str = "ambit";

/// Why the chart cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// A template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A rendered file is no YAML, or no object.
    #[error("{file} becomes what is no Kubernetes object: {reason}")]
    Object {
        /// The template.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Settings that the chart does not have.
    #[error("{}", .0.join("\n"))]
    Settings(Vec<String>),
}

/// One installation of the chart.
#[derive(Debug, Clone)]
pub struct Release {
    /// The namespace.
    pub namespace: String,
    /// Who installs: [`MANAGER`], or `Helm` to see what Helm would.
    pub service: String,
}

impl Release {
    /// By this program, into a namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), service: MANAGER.to_owned() }
    }
}

/// A file that was rendered.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// The template, from the chart's directory on.
    pub file: &'static str,
    /// Its text.
    pub text: String,
}

/// Renders all templates with settings that were checked against the schema, in the order of their names.
///
/// # Errors
/// When the settings are not those of the chart, or a template says so.
pub fn render(release: &Release, settings: &Settings) -> Result<Vec<Rendered>, ChartError> {
    let values = settings.over(&values::defaults()?)?;
    let metadata = yaml("Chart.yaml", files::METADATA)?;
    let field = |name: &str| metadata.get(name).cloned().unwrap_or_default();
    let data = json!({
        "Values": values,
        "Release": { "Name": NAME, "Namespace": release.namespace, "Service": release.service },
        "Chart": { "Name": field("name"), "Version": field("version"), "AppVersion": field("appVersion") },
        "Files": {},
    });
    let mut templates = Templates::default();
    for (file, text) in files::TEMPLATES {
        templates.add(file, text)?;
    }
    let read = |path: &str| files::OTHERS.iter().find(|(file, _)| *file == path).map(|(_, text)| (*text).to_owned());
    let shown = files::TEMPLATES.iter().map(|(file, _)| *file).filter(|file| file.ends_with(".yaml"));
    shown.map(|file| Ok(Rendered { file, text: templates.render(file, &data, &read)? })).collect()
}

/// The objects of an installation, without CRDs and the namespace.
///
/// # Errors
/// As [`render`], and when a template becomes what is no object.
pub fn objects(release: &Release, settings: &Settings) -> Result<Vec<Value>, ChartError> {
    let mut objects = Vec::new();
    for Rendered { file, text } in render(release, settings)? {
        objects.extend(documents(file, &text)?);
    }
    Ok(objects)
}

/// The CRDs of the kinds of others that the mesh reads.
///
/// # Errors
/// When one of the files is no YAML.
pub fn crds() -> Result<Vec<Value>, ChartError> {
    let all = CRDS.iter().map(|(file, text)| documents(file, text)).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// The namespace of the installation: pods in it may have what the node proxy needs.
#[must_use]
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/part-of": NAME,
                "app.kubernetes.io/managed-by": MANAGER,
                "pod-security.kubernetes.io/enforce": "privileged",
            },
        },
    })
}

/// All that `kubectl apply` needs, as one text with the comments of the templates: `manifests/ambit.yaml`.
///
/// # Errors
/// As [`objects`].
pub fn plain(release: &Release, settings: &Settings) -> Result<String, ChartError> {
    let mut text =
        "# Ambit without Helm, as `ambit install --dry-run` prints it: kubectl apply --server-side -f FILE\n---\n".to_owned();
    text.push_str(&super::template::to_yaml(&namespace(&release.namespace)));
    let rendered = render(release, settings)?;
    let rendered = rendered.iter().map(|rendered| rendered.text.as_str());
    for part in CRDS.iter().map(|(_, text)| *text).chain(rendered) {
        let part = part.trim().trim_start_matches("---").trim();
        if !part.is_empty() {
            text.push_str("\n---\n");
            text.push_str(part);
        }
    }
    text.push('\n');
    Ok(text)
}

/// The objects of a text with several documents; those with nothing in them are left out.
pub(crate) fn documents(file: &str, text: &str) -> Result<Vec<Value>, ChartError> {
    let error = |reason: String| ChartError::Object { file: file.to_owned(), reason };
    let mut found = Vec::new();
    for part in split(text) {
        let value = yaml(file, part)?;
        if value.is_null() {
            continue;
        }
        if value.get("kind").is_none_or(|kind| !kind.is_string()) || value.pointer("/metadata/name").is_none() {
            return Err(error("it has no kind or no name".to_owned()));
        }
        found.push(value);
    }
    Ok(found)
}

/// The documents of a text; a line that begins with `---` begins one.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut position) = (0, 0);
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" {
            parts.push(&text[start..position]);
            start = position + line.len();
        }
        position += line.len();
    }
    parts.push(&text[start..]);
    parts
}

fn yaml(file: &str, text: &str) -> Result<Value, ChartError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let read = serde_saphyr::from_str_with_options(text, options);
    read.map_err(|error: serde_saphyr::Error| ChartError::Object { file: file.to_owned(), reason: error.to_string() })
}
