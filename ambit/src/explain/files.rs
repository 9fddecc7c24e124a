//! The mesh that a directory of YAML describes: read and translated as the control plane does, taken as a node proxy does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ambit_api::type_url;
use ambit_model::explain::{self, Question, StateAlone};
use ambit_xds::client::Handler;
use ambit_xds::{Any, Resource};
use istiod_lite::index::{ChangedKey, Index, MeshConfig};
use istiod_lite::source::{Directory, Event, Problem, Source};
use istiod_lite::translate::{authorization, external, workload};
use prost::Message;
use ztunnel::state::{self, Shared};

use super::args::ConnectionArgs;
use super::{Answer, assumed};
use crate::error::{Error, Result};

/// Answers from the files of `directory`.
///
/// # Errors
/// When they cannot be read, or one of them has an error: then what it would say is not known, and no answer is better than a wrong one.
pub(super) async fn answer(args: &ConnectionArgs, directory: &Path) -> Result<Answer> {
    if !directory.is_dir() {
        return Err(Error::Invalid(format!("{} is not a directory", directory.display())));
    }
    let question = Question::new(&args.from, &args.to).map_err(|error| Error::Invalid(error.to_string()))?;
    let beside = tempfile::tempdir().map_err(|cause| Error::io("making a temporary directory", cause))?;
    let assumed = assumed::complete(read(vec![directory.to_owned()]).await?, beside.path().to_owned())?;
    let events = read(vec![directory.to_owned(), beside.path().to_owned()]).await?;
    let shared = taken(events, MeshConfig::new(args.trust_domain.clone(), args.cluster_id.clone()));
    let explained = shared.read(|mesh| explain::connection(mesh, &StateAlone, &question));
    let mut explained = explained.map_err(|error| Error::Invalid(error.to_string()))?;
    explained.assumed = assumed;
    let explanation = serde_json::to_value(&explained).map_err(|error| Error::part("writing the answer", error))?;
    Ok(Answer { explanation, text: explained.to_string() })
}

async fn read(directories: Vec<PathBuf>) -> Result<Vec<Event>> {
    let unreadable = |error: istiod_lite::source::SourceError| Error::part("reading the files", error);
    let mut source = Directory::new(directories).map_err(unreadable)?;
    let events = source.next().await.map_err(unreadable)?;
    let problems = source.problems();
    let wrong: Vec<String> = problems.iter().filter(|problem| problem.is_error()).map(Problem::to_string).collect();
    if wrong.is_empty() { Ok(events) } else { Err(Error::Invalid(wrong.join("\n"))) }
}

/// What a node proxy makes of the resources that follow from these objects.
fn taken(events: Vec<Event>, config: MeshConfig) -> Arc<Shared> {
    let mut index = Index::new(config);
    let changed: BTreeSet<ChangedKey> = events.into_iter().flat_map(|event| index.apply(event)).collect();
    let (mut addresses, mut policies) = (Vec::new(), Vec::new());
    for key in changed {
        match key {
            ChangedKey::Workload(name) => {
                let made = workload::workload(&index, &name);
                addresses.extend(made.map(|made| resource(index.config().pod_uid(&name), type_url::ADDRESS, &made)));
            }
            ChangedKey::Service(name) => {
                let made = workload::service(&index, &name);
                addresses.extend(made.map(|made| resource(index.config().service_key(&name), type_url::ADDRESS, &made)));
            }
            ChangedKey::Policy(name) => {
                let made = authorization::policy(&index, &name);
                policies.extend(made.map(|made| resource(name.to_string(), type_url::AUTHORIZATION, &made)));
            }
            ChangedKey::External(key) => {
                let made = external::workload(&index, &key);
                addresses.extend(made.map(|made| resource(key.uid(index.config()), type_url::ADDRESS, &made)));
            }
            ChangedKey::Host(host) => {
                let made = external::host(&index, &host);
                addresses
                    .extend(made.map(|made| resource(format!("{}/{}", host.namespace, host.name), type_url::ADDRESS, &made)));
            }
            ChangedKey::Waypoint(_) | ChangedKey::Endpoints { .. } | ChangedKey::Clients(_) => {}
        }
    }
    let shared = Arc::new(Shared::default());
    // What cannot be taken refuses, as it does in a node proxy.
    let _rejected = state::policies(Arc::clone(&shared)).apply(policies, Vec::new());
    let _rejected = state::addresses(Arc::clone(&shared)).apply(addresses, Vec::new());
    shared
}

fn resource(name: String, type_url: &str, message: &impl Message) -> Resource {
    Resource { name, version: String::new(), body: Any { type_url: type_url.to_owned(), value: message.encode_to_vec() } }
}
