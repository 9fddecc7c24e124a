//! The control plane under measurement: its index, its push and its discovery server over TCP, fed by hand.

use std::{net::SocketAddr, sync::Arc};

use ambit_runtime::socket::{ListenOptions, listen};
use ambit_xds::{
    Node,
    server::{AdsServer, Authenticate, Cache, ServerConfig},
};
use istiod_lite::{
    Mesh,
    index::MeshConfig,
    push::{self, NODE_VIEW, Pusher, waypoint_view},
    source::{Event, NamespacedName, Problem, Source, SourceError},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{Status, metadata::MetadataMap, service::Routes};

/// What an API server would tell, told by hand.
struct Told(mpsc::Receiver<Vec<Event>>);

#[async_trait::async_trait]
impl Source for Told {
    async fn next(&mut self) -> Result<Vec<Event>, SourceError> {
        match self.0.recv().await {
            Some(events) => Ok(events),
            None => std::future::pending().await,
        }
    }

    fn problems(&self) -> Arc<Vec<Problem>> {
        Arc::default()
    }
}

/// Believes what a node says of itself: credentials are not what is measured.
struct Anyone;

impl Authenticate for Anyone {
    type Caller = ();

    async fn caller(&self, _: &MetadataMap, _: Option<SocketAddr>) -> Result<(), Status> {
        Ok(())
    }

    async fn view(&self, (): &(), node: &Node) -> Result<String, Status> {
        match node.id.split('~').collect::<Vec<_>>().as_slice() {
            ["waypoint", namespace, name] => Ok(waypoint_view(&NamespacedName::new(*namespace, *name))),
            _ => Ok(NODE_VIEW.to_owned()),
        }
    }
}

/// A control plane that serves.
pub struct Plane {
    /// Where.
    pub address: SocketAddr,
    /// What it serves.
    pub cache: Cache,
    /// Counts what was applied.
    pub generation: watch::Receiver<u64>,
    events: mpsc::Sender<Vec<Event>>,
    /// Its tasks, which end with it.
    _tasks: JoinSet<()>,
}

impl Plane {
    /// Starts one without objects, on a port of loopback.
    ///
    /// # Errors
    /// When it cannot listen, or the trust domain is none.
    pub async fn start() -> anyhow::Result<Self> {
        // As the program itself does: a thousand that come at once have to be let in.
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), &ListenOptions::default())?;
        let address = listener.local_addr()?;
        let cache = Cache::new();
        let mesh = Arc::new(Mesh::new(MeshConfig::new("cluster.local".parse()?, "Kubernetes")));
        let generation = mesh.generation();
        let (_, never) = watch::channel(false);
        let ads = AdsServer::new(cache.clone(), Anyone, ServerConfig::default(), never);
        let (events, told) = mpsc::channel(16);
        let (batches, received) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { _ = push::read(Told(told), batches).await });
        tasks.spawn(push::follow(mesh, Pusher::new(cache.clone()), received));
        let incoming = TcpListenerStream::new(listener).map(|stream| stream.inspect(|stream| _ = stream.set_nodelay(true)));
        tasks.spawn(ads.serve(incoming, Routes::default()));
        Ok(Self { address, cache, generation, events, _tasks: tasks })
    }

    /// Tells it of changes.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn tell(&self, events: Vec<Event>) -> anyhow::Result<()> {
        Ok(self.events.send(events).await?)
    }
}
