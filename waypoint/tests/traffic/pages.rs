//! The admin pages are Envoy's messages, of what was sent and of what goes on.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use ambit_api::{
    envoy::pb::{
        envoy::{
            admin::v3::{
                Certificates, ClusterStatus, Clusters, ClustersConfigDump, ConfigDump, EndpointsConfigDump, Listeners,
                ListenersConfigDump, RoutesConfigDump, SecretsConfigDump, ServerInfo, server_info::State,
            },
            config::{
                cluster::v3::{
                    Cluster,
                    cluster::{ClusterDiscoveryType, DiscoveryType},
                },
                core::v3::{Metadata, data_source::Specifier},
                endpoint::v3::ClusterLoadAssignment,
                listener::v3::{Listener, filter::ConfigType},
                route::v3::RouteConfiguration,
            },
            extensions::transport_sockets::tls::v3::{Secret, secret::Type},
        },
        google::protobuf::Any,
    },
    type_url,
};
use ambit_runtime::{
    drain::{self, Trigger},
    readiness::{Readiness, Task},
    telemetry::metrics_handle,
};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use waypoint::admin::Pages;

use super::{
    billing,
    support::{
        BILLING, Mesh, WEB,
        client::{get, http1, read},
        endpoint::HTTP,
        resources::{self, Ep},
    },
};

/// The admin pages of a mesh.
struct Admin {
    address: SocketAddr,
    stop: Trigger,
    starting: Option<Task>,
    _running: Trigger,
    _roots: tempfile::NamedTempFile,
    _connected: watch::Sender<bool>,
}

impl Admin {
    async fn of(mesh: &Mesh) -> Self {
        mesh.proxy.certificates.get(&mesh.proxy.identity).await.unwrap();
        let roots = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(roots.path(), mesh.authority.root_pem()).unwrap();
        let readiness = Readiness::new();
        let starting = Some(readiness.task("the test"));
        let ((stop, _), (running, watch)) = (drain::channel(), drain::channel());
        let connected = watch::Sender::new(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Pages {
            store: mesh.store.clone(),
            proxy: mesh.proxy.clone(),
            metrics: metrics_handle().unwrap(),
            node: ambit_xds::node("waypoint~127.0.0.1~waypoint.shop~shop.svc.cluster.local", &[("NAME", "waypoint")]),
            admin: address,
            hbone: mesh.address,
            roots: roots.path().to_owned(),
            readiness,
            connected: connected.subscribe(),
            started: Instant::now(),
            stop: stop.starter(),
            drain: mesh.trigger.starter(),
        };
        tokio::spawn(pages.server().run(listener, watch));
        Self { address, stop, starting, _running: running, _roots: roots, _connected: connected }
    }

    /// The status and the body of the answer to `GET /page`, or with another method.
    async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn text(&self, page: &str) -> String {
        let (status, body) = self.ask(&format!("GET {page}")).await;
        assert_eq!(status, 200, "{page}: {body}");
        body
    }

    async fn json(&self, page: &str) -> Value {
        serde_json::from_str(&self.text(page).await).unwrap()
    }

    /// The message that a page is.
    async fn message<M: Message + Name + Default>(&self, page: &str) -> M {
        of_json(self.json(page).await)
    }
}

fn descriptions() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(ambit_api::ENVOY_DESCRIPTORS).unwrap())
}

fn description<M: Name>() -> MessageDescriptor {
    descriptions().get_message_by_name(&M::full_name()).unwrap()
}

fn of_json<M: Message + Name + Default>(json: Value) -> M {
    let message = DynamicMessage::deserialize(description::<M>(), json).unwrap();
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

/// What was sent, with the fields of messages in envelopes in the order in which they are written when they were JSON.
fn normal<M: Message + Name + Default>(message: M) -> M {
    let message = DynamicMessage::decode(description::<M>(), message.encode_to_vec().as_slice()).unwrap();
    of_json(serde_json::to_value(&message).unwrap())
}

/// What is in an envelope.
fn opened<M: Message + Name + Default>(any: Option<&Any>) -> M {
    let any = any.unwrap();
    assert_eq!(any.type_url, M::type_url());
    M::decode(any.value.as_slice()).unwrap()
}

/// The section of a dump.
fn section<M: Message + Name + Default>(dump: &ConfigDump) -> M {
    opened(dump.configs.iter().find(|section| section.type_url == M::type_url()))
}

/// As they were sent, in the order of their names.
fn sorted<M: Message + Name + Default>(mut resources: Vec<(String, M)>) -> Vec<(String, M)> {
    resources.sort_by(|one, other| one.0.cmp(&other.0));
    resources.into_iter().map(|(name, resource)| (name, normal(resource))).collect()
}

#[tokio::test]
async fn the_configuration_is_shown_as_it_was_sent() {
    let (mesh, service, _) = billing(171).await;
    let admin = Admin::of(&mesh).await;
    let dump: ConfigDump = admin.message("/config_dump").await;
    let types: Vec<&str> = dump.configs.iter().filter_map(|section| section.type_url.rsplit('.').next()).collect();
    let sections = ["BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump", "SecretsConfigDump"];
    assert_eq!(types, sections);

    let services = std::slice::from_ref(&service);
    let listeners = section::<ListenersConfigDump>(&dump).dynamic_listeners;
    let shown = listeners.iter().map(|listener| {
        let state = listener.active_state.as_ref().unwrap();
        assert_eq!((state.version_info.as_str(), state.last_updated.is_some()), ("1", true));
        (listener.name.clone(), opened::<Listener>(state.listener.as_ref()))
    });
    assert_eq!(shown.collect::<Vec<_>>(), sorted(resources::listeners(services)));

    let clusters = section::<ClustersConfigDump>(&dump).dynamic_active_clusters;
    let shown = clusters.iter().map(|cluster| opened::<Cluster>(cluster.cluster.as_ref()));
    let sent: Vec<Cluster> = sorted(resources::clusters(services)).into_iter().map(|(_, cluster)| cluster).collect();
    assert_eq!(shown.collect::<Vec<_>>(), sent);

    let routes = section::<RoutesConfigDump>(&dump).dynamic_route_configs;
    let shown = routes.iter().map(|routes| opened::<RouteConfiguration>(routes.route_config.as_ref()));
    let sent =
        vec![resources::authorities(services), resources::routes(&service.chain(), vec![resources::to(&service.cluster())])];
    let sent: Vec<RouteConfiguration> = sorted(sent).into_iter().map(|(_, routes)| routes).collect();
    assert_eq!(shown.collect::<Vec<_>>(), sent);

    let dump: ConfigDump = admin.message("/config_dump?include_eds=on").await;
    let endpoints = section::<EndpointsConfigDump>(&dump).dynamic_endpoint_configs;
    let shown: ClusterLoadAssignment = opened(endpoints[0].endpoint_config.as_ref());
    let wanted = resources::assignment(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    assert_eq!(shown, normal(wanted.1));
    // What istioctl reads, under the names that Envoy has.
    let json = admin.json("/config_dump").await;
    let listener = &json["configs"][2]["dynamic_listeners"][0];
    assert_eq!(listener["active_state"]["listener"]["@type"], type_url::LISTENER, "{listener:#}");
    assert_eq!(json["configs"][0]["bootstrap"]["node"]["metadata"]["NAME"], "waypoint");
}

#[tokio::test]
async fn parts_of_the_configuration_can_be_asked_for() {
    let (mesh, service, _) = billing(172).await;
    let admin = Admin::of(&mesh).await;
    let names = |dump: &Value| -> Vec<String> {
        let configs = dump["configs"].as_array().unwrap().iter();
        configs.map(|config| config["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let dump = admin.json("/config_dump?resource=dynamic_listeners&anything=else").await;
    assert!(names(&dump).iter().any(|name| name == "main_internal") && names(&dump).len() > 1, "{dump:#}");
    let only = admin.json("/config_dump?resource=dynamic_listeners&name_regex=(main_%2Ba%3F|main).%2A").await;
    assert_eq!(names(&only), ["main_internal"]);
    let parts = admin.json("/config_dump?resource=dynamic_listeners&name_regex=main|internal").await;
    assert_eq!(parts.get("configs"), None, "of a name that is no match as a whole: {parts:#}");
    let dump = admin.json("/config_dump?resource=dynamic_active_clusters&mask=cluster.name%2Cversion_info").await;
    let cluster = dump["configs"].as_array().unwrap().iter().find(|one| one["cluster"]["name"] == service.cluster()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(cluster), ["@type", "cluster", "version_info"].map(str::to_owned).into(), "{cluster:#}");
    assert_eq!(keys(&cluster["cluster"]), ["@type", "name"].map(str::to_owned).into(), "{cluster:#}");
    let dump =
        admin.json("/config_dump?resource=dynamic_listeners&name_regex=main_internal&mask=active_state.listener.name").await;
    assert_eq!(dump["configs"][0]["active_state"]["listener"]["name"], "main_internal", "{dump:#}");
    assert_eq!(keys(&dump["configs"][0]["active_state"]["listener"]).len(), 2, "{dump:#}");
    // Of the sections those that have it.
    let dump = admin.json("/config_dump?mask=bootstrap.node.id").await;
    assert_eq!(dump["configs"].as_array().unwrap().len(), 1, "{dump:#}");
    assert_eq!(keys(&dump["configs"][0]["bootstrap"]["node"]), ["id".to_owned()].into(), "{dump:#}");
    assert_eq!(admin.json("/config_dump?mask=").await, admin.json("/config_dump").await);
    for (page, why) in [
        ("?mask=no_such", "it fits no section: envoy.admin.v3.BootstrapConfigDump has no field \"no_such\""),
        ("?mask=dynamic_listeners.name", "dynamic_listeners of envoy.admin.v3.ListenersConfigDump is repeated"),
        (
            "?resource=dynamic_listeners&mask=name.first",
            "name of envoy.admin.v3.ListenersConfigDump.DynamicListener has no fields",
        ),
        ("?resource=dynamic_active_clusters&mask=cluster.colour", "envoy.config.cluster.v3.Cluster has no field \"colour\""),
        ("?mask=%zz", "it is not percent-encoded text"),
    ] {
        let (status, body) = admin.ask(&format!("GET /config_dump{page}")).await;
        assert!(status == 400 && body.starts_with("mask: ") && body.contains(why), "{page}: {status} {body}");
    }
    let compiled = admin.text("/config_dump/compiled").await;
    assert!(compiled.contains(&service.chain()) && compiled.contains(BILLING), "{compiled}");
    for (page, status) in [
        ("/config_dump?resource=dynamic_gadgets", 404),
        ("/config_dump?name_regex=(", 400),
        ("/config_dump?name_regex=%zz", 400),
        ("/drain_listeners", 405),
        ("/reopen_logs", 405),
        ("/none", 404),
    ] {
        assert_eq!(admin.ask(&format!("GET {page}")).await.0, status, "{page}");
    }
}

#[tokio::test]
async fn what_was_refused_is_shown_beside_what_stays_in_force() {
    let (mesh, service, _) = billing(173).await;
    let admin = Admin::of(&mesh).await;
    let odd = Cluster {
        name: "odd".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns.into())),
        ..Default::default()
    };
    assert_eq!(mesh.offer(type_url::CLUSTER, vec![("odd".into(), odd.clone())]).len(), 1);
    let clusters: ClustersConfigDump = section(&admin.message("/config_dump").await);
    assert_eq!(clusters.dynamic_active_clusters.len(), resources::clusters(std::slice::from_ref(&service)).len());
    let [refused] = clusters.dynamic_warming_clusters.as_slice() else { panic!("{clusters:?}") };
    let error = refused.error_state.as_ref().unwrap();
    assert!(error.details.contains("LOGICAL_DNS is not implemented") && error.version_info == "1", "{error:?}");
    assert_eq!(opened::<Cluster>(error.failed_configuration.as_ref()), normal(odd));

    // Of a type that nobody describes.
    let listeners = resources::listeners(std::slice::from_ref(&service));
    let (_, sent) = listeners.into_iter().find(|(name, _)| name == "main_internal").unwrap();
    let mut strange = sent.clone();
    let any = Any { type_url: "type.googleapis.com/no.such.Filter".into(), value: vec![] };
    strange.filter_chains[0].filters[0].config_type = Some(ConfigType::TypedConfig(any));
    assert_eq!(mesh.offer(type_url::LISTENER, vec![("main_internal".into(), strange)]).len(), 1);
    let listeners: ListenersConfigDump = section(&admin.message("/config_dump").await);
    let listener = listeners.dynamic_listeners.iter().find(|listener| listener.name == "main_internal").unwrap();
    assert_eq!(opened::<Listener>(listener.active_state.as_ref().unwrap().listener.as_ref()), normal(sent));
    let failed: Listener = opened(listener.error_state.as_ref().unwrap().failed_configuration.as_ref());
    assert_eq!(failed, Listener { name: "main_internal".into(), ..Default::default() });
    let stats = admin.text("/stats?filter=%5C.lds%5C.").await;
    assert!(stats.contains("listener_manager.lds.update_rejected: 1\n"), "{stats}");
    assert!(stats.contains("listener_manager.lds.update_success: 1\n") && !stats.contains("cds"), "{stats}");
}

#[tokio::test]
async fn certificates_are_shown_without_their_keys() {
    let (mesh, ..) = billing(174).await;
    let admin = Admin::of(&mesh).await;
    let secrets: SecretsConfigDump = section(&admin.message("/config_dump").await);
    let of = |name: &str| -> Secret {
        let secret = secrets.dynamic_active_secrets.iter().find(|secret| secret.name == name).unwrap();
        opened(secret.secret.as_ref())
    };
    let Some(Type::TlsCertificate(own)) = of("default").r#type else { panic!("{secrets:?}") };
    assert_eq!(own.private_key.unwrap().specifier, Some(Specifier::InlineBytes(b"[redacted]".to_vec())));
    let Some(Specifier::InlineBytes(chain)) = own.certificate_chain.unwrap().specifier else { panic!("{secrets:?}") };
    let chain = String::from_utf8(chain).unwrap();
    let facts = ambit_tls::authority::certificates(&chain).unwrap();
    assert_eq!(facts[0].uris, [mesh.proxy.identity.to_string()]);
    let Some(Type::ValidationContext(roots)) = of("ROOTCA").r#type else { panic!("{secrets:?}") };
    let root = mesh.authority.root_pem().to_owned();
    assert_eq!(roots.trusted_ca.unwrap().specifier, Some(Specifier::InlineBytes(root.into_bytes())));
    assert!(!admin.text("/config_dump").await.contains("PRIVATE"));

    let Certificates { certificates } = admin.message("/certs").await;
    let [own] = certificates.as_slice() else { panic!("{certificates:?}") };
    assert_eq!(own.cert_chain[0].serial_number, facts[0].serial);
    let until = own.cert_chain[0].expiration_time.unwrap().seconds - own.cert_chain[0].valid_from.unwrap().seconds;
    assert!(until > 0 && own.ca_cert.len() == 1, "{own:?}");
    let json = admin.json("/certs").await;
    let name = &json["certificates"][0]["cert_chain"][0]["subject_alt_names"][0]["uri"];
    assert_eq!(*name, mesh.proxy.identity.to_string(), "{json:#}");
}

/// A number of an endpoint.
fn metric(status: &ClusterStatus, name: &str) -> u64 {
    status.host_statuses[0].stats.iter().find(|metric| metric.name == name).unwrap().value
}

#[tokio::test]
async fn endpoints_are_shown_with_what_goes_on_at_them() {
    let (mesh, service, _) = billing(175).await;
    let admin = Admin::of(&mesh).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    for _ in 0..3 {
        sender.ready().await.unwrap();
        assert_eq!(read(sender.send_request(get("/")).await.unwrap()).await.0, 200);
    }
    let Clusters { cluster_statuses } = admin.message("/clusters?format=json").await;
    let status = cluster_statuses.iter().find(|status| status.name == service.cluster()).unwrap();
    assert_eq!((metric(status, "rq_total"), metric(status, "rq_error")), (3, 0), "{status:?}");
    assert!(metric(status, "cx_active") >= 1 && status.added_via_api, "{status:?}");
    let json = admin.json("/clusters?format=json&filter=billing").await;
    let host = &json["cluster_statuses"][0]["host_statuses"][0];
    let address = &host["address"]["envoy_internal_address"];
    assert_eq!(address["server_listener_name"], "connect_originate", "{json:#}");
    assert_eq!(address["endpoint_id"], mesh.socket(1, HTTP).to_string(), "{json:#}");
    assert_eq!((&host["health_status"]["eds_health_status"], &host["weight"]), (&"HEALTHY".into(), &1.into()), "{json:#}");
    let text = admin.text("/clusters").await;
    let at = format!("{}::envoy://connect_originate/{}", service.cluster(), mesh.socket(1, HTTP));
    for line in [format!("{at}::rq_total::3\n"), format!("{at}::health_flags::healthy\n"), format!("{at}::weight::1\n")] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    let name = format!("cluster.{}.upstream_rq_total", service.cluster().replace(':', "_"));
    let stats = admin.json("/stats?format=json&usedonly&type=Counters").await;
    let found = stats["stats"].as_array().unwrap().iter().find(|stat| stat["name"] == *name).unwrap();
    assert_eq!(found["value"], 3, "{stats:#}");

    // Nobody is there.
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(9, HTTP), BILLING)]);
    sender.ready().await.unwrap();
    assert_eq!(read(sender.send_request(get("/")).await.unwrap()).await.0, 503);
    let Clusters { cluster_statuses } = admin.message("/clusters?format=json").await;
    let status = cluster_statuses.iter().find(|status| status.name == service.cluster()).unwrap();
    assert!(metric(status, "rq_error") >= 1, "{status:?}");
}

#[tokio::test]
async fn logs_that_were_renamed_are_opened_anew() {
    let (mesh, service, _) = billing(210).await;
    let admin = Admin::of(&mesh).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let mut ask = async |path: &str| {
        sender.ready().await.unwrap();
        assert_eq!(read(sender.send_request(get(path)).await.unwrap()).await.0, 200);
    };
    ask("/before").await;
    mesh.logged(&["/before"]).await;
    let (log, old) = (mesh.beside("access.log"), mesh.beside("access.log.1"));
    std::fs::rename(&log, &old).unwrap();
    ask("/between").await;
    assert_eq!(admin.ask("POST /reopen_logs").await, (200, "OK\n".to_owned()));
    ask("/after").await;
    mesh.logged(&["/after"]).await;
    let (log, old) = (std::fs::read_to_string(&log).unwrap(), std::fs::read_to_string(&old).unwrap());
    assert!(log.contains("/after") && !log.contains("/before"), "{log}");
    assert!(old.contains("/before") && !old.contains("/after"), "{old}");
    assert!((log + &old).contains("/between"), "a line is lost");
}

#[tokio::test]
async fn the_program_says_what_it_is_and_can_be_told_to_drain() {
    let (mesh, service, _) = billing(176).await;
    let mut admin = Admin::of(&mesh).await;
    assert_eq!(admin.ask("GET /ready").await, (503, "PRE_INITIALIZING\n".to_owned()));
    assert!(admin.text("/stats").await.contains("\nserver.state: 2\n"));
    drop(admin.starting.take());
    assert_eq!(admin.ask("GET /ready").await, (200, "LIVE\n".to_owned()));
    let info: ServerInfo = admin.message("/server_info").await;
    assert_eq!((info.state, info.node.unwrap().id.split('~').next()), (State::Live.into(), Some("waypoint")));
    assert_eq!(admin.json("/server_info").await["state"], "LIVE");
    let help = admin.text("/help").await;
    for page in ["/certs", "/clusters", "/config_dump", "/listeners", "/ready", "/server_info", "/stats", "/stats/prometheus"] {
        assert!(help.contains(&format!("\n  {page}")), "{page}");
        assert_eq!(admin.ask(&format!("GET {page}")).await.0, 200, "{page}");
    }

    let text = admin.text("/listeners").await;
    assert!(text.contains(&format!("connect_terminate::{}\n", mesh.address)), "{text}");
    assert!(text.contains("main_internal::envoy://main_internal/\n"), "{text}");
    let Listeners { listener_statuses } = admin.message("/listeners?format=json").await;
    assert!(listener_statuses.iter().any(|listener| listener.name == "main_internal"), "{listener_statuses:?}");

    let mut sender = http1(&mesh, WEB, service.vip).await;
    assert_eq!(admin.ask("POST /drain_listeners").await, (200, "OK\n".to_owned()));
    assert!(admin.stop.starter().has_begun() && !mesh.trigger.starter().has_begun());
    assert_eq!(admin.ask("POST /drain_listeners?graceful").await.0, 200);
    let (status, headers, _) = read(sender.send_request(get("/")).await.unwrap()).await;
    assert_eq!((status, &headers["connection"]), (200, &"close".parse().unwrap()));
    let begun = Instant::now();
    while TcpStream::connect(mesh.address).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "connections are accepted still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(admin.ask("GET /ready").await.0, 200, "the program stays");
}

#[tokio::test]
async fn routes_within_a_listener_are_shown_as_static_ones() {
    let mesh = Mesh::start(177).await;
    let (listeners, table, mut cluster) = resources::direct(mesh.socket(1, HTTP), BILLING);
    mesh.deliver(type_url::CLUSTER, vec![("direct".into(), cluster.clone())]);
    mesh.deliver(type_url::LISTENER, listeners);
    mesh.deliver(type_url::ROUTE, vec![(table.name.clone(), table)]);
    let admin = Admin::of(&mesh).await;
    let dump: ConfigDump = admin.message("/config_dump?include_eds").await;
    let routes: RoutesConfigDump = section(&dump);
    let shown: RouteConfiguration = opened(routes.static_route_configs[0].route_config.as_ref());
    assert_eq!(shown, normal(resources::routes(&format!("direct-http|{BILLING}"), vec![resources::to("direct")]).1));
    let endpoints: EndpointsConfigDump = section(&dump);
    let shown: ClusterLoadAssignment = opened(endpoints.static_endpoint_configs[0].endpoint_config.as_ref());
    assert_eq!(shown.cluster_name, "direct");

    // What has no effect is in force even if nobody describes it.
    let unknown = Any { type_url: "type.googleapis.com/no.such.Hint".into(), value: vec![] };
    let hint = Metadata { typed_filter_metadata: [("hint".to_owned(), unknown)].into(), ..Default::default() };
    cluster.load_assignment.as_mut().unwrap().endpoints[0].metadata = Some(hint);
    mesh.deliver(type_url::CLUSTER, vec![("direct".into(), cluster)]);
    let endpoints: EndpointsConfigDump = section(&admin.message("/config_dump?include_eds").await);
    let shown: ClusterLoadAssignment = opened(endpoints.static_endpoint_configs[0].endpoint_config.as_ref());
    assert_eq!(shown, ClusterLoadAssignment { cluster_name: "direct".into(), ..Default::default() });
}

#[test]
fn every_message_that_the_documentation_names_can_be_shown() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/envoy.md")).unwrap();
    let named = |word: &str| -> Option<String> {
        let (package, rest) = word.split_once(".v3.")?;
        let is_type = |part: &&str| part.starts_with(|first: char| first.is_ascii_uppercase());
        let types: Vec<&str> = rest.split('.').take_while(is_type).collect();
        let is_one = !types.is_empty() && (package.starts_with("envoy.") || package.starts_with("xds."));
        is_one.then(|| format!("{package}.v3.{}", types.join(".")))
    };
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || ['.', '_'].contains(&letter)));
    let named: BTreeSet<String> = words.filter_map(named).collect();
    let unknown: Vec<&String> = named.iter().filter(|name| descriptions().get_message_by_name(name).is_none()).collect();
    assert!(named.len() > 100 && unknown.is_empty(), "{} are named, and not described: {unknown:?}", named.len());
}
