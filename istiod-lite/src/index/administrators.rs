//! Who may have waypoints tell what becomes of requests of theirs.

use std::collections::BTreeSet;

use ambit_identity::SpiffeId;

use super::Index;
use crate::source::NamespacedName;
use crate::source::crd::mesh;

impl Index {
    /// The identities of the administrators that the configuration of the mesh names; nobody where it names none.
    pub fn administrators(&self) -> BTreeSet<SpiffeId> {
        let config = self.config();
        let key = NamespacedName::new(config.root_namespace.as_str(), mesh::NAME);
        let settings = self.objects().mesh_settings.get(&key);
        let named = settings.into_iter().flat_map(|settings| &settings.administrators.named);
        named.map(|administrator| administrator.identity(&config.trust_domain)).collect()
    }
}
