//! What each program of the business does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::{Method, StatusCode};
use tonic::{Request, Response, Status};

use super::config::{DemoArgs, DownstreamArg, Role};
use super::downstream::Downstream;
use super::grpc::{self, GrpcDownstream};
use super::http::{self, Call, Reply, Signature};
use super::proto::notifications_server::{Notifications, NotificationsServer};
use super::proto::permissions_server::{Permissions, PermissionsServer};
use super::proto::{CheckRequest, CheckResponse, SendRequest, SendResponse};
use super::stats::Registry;
use super::{MARKER, load};
use crate::error::{Error, Result};

/// Records that storage keeps; older ones make room for newer ones.
const MAX_RECORDS: usize = 10_000;

struct Program {
    args: DemoArgs,
    registry: Arc<Registry>,
    started: Arc<AtomicBool>,
}

impl Program {
    fn to(&self, name: &str) -> Result<&DownstreamArg> {
        let found = self.args.downstreams.iter().find(|downstream| downstream.name == name);
        found.ok_or_else(|| Error::Invalid(format!("{} needs --downstream {name}=http://host:port", self.args.name())))
    }

    fn http(&self, name: &str) -> Result<Downstream> {
        Ok(Downstream::new(self.to(name)?, &self.registry))
    }

    fn grpc(&self, name: &str) -> Result<GrpcDownstream> {
        Ok(GrpcDownstream::new(self.to(name)?, &self.registry))
    }

    fn set_started(&self) {
        self.started.store(true, Ordering::Release);
        self.registry.set_started();
    }

    fn signature(&self) -> Signature {
        Signature { name: self.args.name(), version: self.args.version.clone() }
    }

    /// Serves HTTP, with `/readyz` answering once the downstreams have been seen.
    async fn serve<H, F>(&self, wait: impl Future<Output = ()>, handler: H) -> Result<()>
    where
        H: Fn(Call) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply>> + Send + 'static,
    {
        let started = self.started.clone();
        let serving = http::serve(self.args.listen, self.signature(), move |call: Call| {
            let readiness = (call.path == "/readyz").then(|| started.load(Ordering::Acquire));
            let reply = readiness.is_none().then(|| handler(call));
            async move {
                match (readiness, reply) {
                    (Some(true), _) => Reply::ok("ready".into()),
                    (_, None) => Reply::status(StatusCode::SERVICE_UNAVAILABLE, "starting"),
                    (_, Some(reply)) => {
                        reply.await.unwrap_or_else(|error| Reply::status(StatusCode::BAD_GATEWAY, error.to_string()))
                    }
                }
            }
        });
        self.after(wait, serving).await
    }

    async fn after(&self, wait: impl Future<Output = ()>, serving: impl Future<Output = Result<()>>) -> Result<()> {
        let start = async {
            wait.await;
            self.set_started();
            std::future::pending().await
        };
        tokio::select! {
            outcome = serving => outcome,
            outcome = start => outcome,
        }
    }
}

/// Runs the program that `args` asks for, with its statistics, until it is told to stop.
pub async fn run(args: DemoArgs) -> Result<()> {
    let registry = Registry::new(args.name(), args.version.clone());
    let (path, told) = (args.stats.clone(), registry.clone());
    let stats = async {
        match path {
            Some(path) => told.serve(path).await,
            None => told.print().await,
        }
    };
    let program = Program { args, registry, started: Arc::default() };
    let role = async {
        match program.args.role {
            Role::Client => client(&program).await,
            Role::Web => web(&program).await,
            Role::Api => api(&program).await,
            Role::Orders => orders(&program).await,
            Role::Billing => billing(&program).await,
            Role::Permissions => permissions(&program).await,
            Role::Notifications => notifications(&program).await,
            Role::Storage => storage(&program).await,
        }
    };
    tokio::select! {
        outcome = role => outcome,
        outcome = stats => outcome,
    }
}

async fn client(program: &Program) -> Result<()> {
    let web = program.http("web")?;
    let load = async {
        web.wait_started().await;
        program.set_started();
        load::run(web.clone(), program.args.rate).await;
    };
    tokio::select! {
        () = load => {}
        () = http::shutdown() => {}
    }
    Ok(())
}

async fn web(program: &Program) -> Result<()> {
    let api = program.http("api")?;
    let wait = api.clone();
    let handler = move |call: Call| {
        let api = api.clone();
        async move {
            let user = call.parameter("user").unwrap_or("nobody");
            let receipt =
                api.call(Method::POST, &format!("/checkout?user={user}"), format!("{{\"marker\":\"{MARKER}\"}}")).await?;
            Ok(Reply::ok(format!("<html><body><h1>Thank you, {user}</h1><pre>{}</pre>{MARKER}</body></html>", receipt.body)))
        }
    };
    program.serve(async move { wait.wait_started().await }, handler).await
}

async fn api(program: &Program) -> Result<()> {
    let (orders, billing) = (program.http("orders")?, program.http("billing")?);
    let (permissions, notifications) = (program.grpc("permissions")?, program.grpc("notifications")?);
    let wait = {
        let (orders, billing) = (orders.clone(), billing.clone());
        let (permissions, notifications) = (permissions.clone(), notifications.clone());
        async move {
            tokio::join!(orders.wait_started(), billing.wait_started(), permissions.wait_started(), notifications.wait_started());
        }
    };
    let handler = move |call: Call| {
        let (orders, billing) = (orders.clone(), billing.clone());
        let (permissions, notifications) = (permissions.clone(), notifications.clone());
        async move {
            let user = call.parameter("user").unwrap_or("nobody");
            if !permissions.check(user, "buy").await? {
                return Ok(Reply::status(StatusCode::PAYMENT_REQUIRED, format!("{user} may not buy")));
            }
            let order = orders.call(Method::POST, &format!("/orders?user={user}"), MARKER.into()).await?.body;
            let invoice = billing.call(Method::POST, &format!("/invoices/{order}"), MARKER.into()).await?.body;
            let message = notifications.send(user, format!("order {order} is on its way")).await?;
            let receipt = serde_json::json!({ "order": order, "invoice": invoice, "message": message, "marker": MARKER });
            Ok(Reply::ok(receipt.to_string()))
        }
    };
    Box::pin(program.serve(wait, handler)).await
}

async fn orders(program: &Program) -> Result<()> {
    let storage = program.http("storage")?;
    let wait = storage.clone();
    let next = Arc::new(AtomicU64::new(1));
    let handler = move |call: Call| {
        let (storage, next) = (storage.clone(), next.clone());
        async move {
            let order = format!("order-{}", next.fetch_add(1, Ordering::Relaxed));
            let user = call.parameter("user").unwrap_or("nobody");
            let record = serde_json::json!({ "user": user, "item": "a book", "price": 1200, "marker": MARKER });
            storage.call(Method::PUT, &format!("/records/{order}"), record.to_string()).await?;
            Ok(Reply::ok(order))
        }
    };
    program.serve(async move { wait.wait_started().await }, handler).await
}

async fn billing(program: &Program) -> Result<()> {
    let storage = program.http("storage")?;
    let wait = storage.clone();
    let version = program.args.version.clone();
    let handler = move |call: Call| {
        let (storage, version) = (storage.clone(), version.clone());
        async move {
            let Some(order) = call.path.strip_prefix("/invoices/") else {
                return Ok(Reply::status(StatusCode::NOT_FOUND, "no such page"));
            };
            let record = storage.call(Method::GET, &format!("/records/{order}"), String::new()).await?;
            let record: serde_json::Value = serde_json::from_str(&record.body).unwrap_or_default();
            let price = record.get("price").and_then(serde_json::Value::as_u64).unwrap_or(0);
            // The second version of the program is the one that knows about tax.
            let tax = if version == "v1" { 0 } else { price / 5 };
            Ok(Reply::ok(serde_json::json!({ "order": order, "total": price + tax, "marker": MARKER }).to_string()))
        }
    };
    program.serve(async move { wait.wait_started().await }, handler).await
}

struct PermissionsProgram {
    storage: Downstream,
    signature: Signature,
}

#[tonic::async_trait]
impl Permissions for PermissionsProgram {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let CheckRequest { user, action, .. } = request.into_inner();
        let path = format!("/records/banned-{user}-{action}");
        let banned = self.storage.call(Method::GET, &path, String::new()).await;
        let banned = banned.map_err(|error| Status::unavailable(error.to_string()))?;
        let Signature { name: served_by, version } = self.signature.clone();
        let allowed = banned.status == StatusCode::NOT_FOUND;
        Ok(Response::new(CheckResponse { allowed, served_by, version, note: MARKER.into() }))
    }
}

async fn permissions(program: &Program) -> Result<()> {
    let storage = program.http("storage")?;
    // Listens only once it has started, so that a caller sees no half-ready program.
    storage.wait_started().await;
    program.set_started();
    grpc::serve(program.args.listen, PermissionsServer::new(PermissionsProgram { storage, signature: program.signature() })).await
}

struct NotificationsProgram {
    storage: Downstream,
    signature: Signature,
    next: AtomicU64,
}

#[tonic::async_trait]
impl Notifications for NotificationsProgram {
    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let SendRequest { user, text, note } = request.into_inner();
        let id = format!("message-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let record = serde_json::json!({ "user": user, "text": text, "note": note }).to_string();
        let stored = self.storage.call(Method::PUT, &format!("/records/{id}"), record).await;
        stored.map_err(|error| Status::unavailable(error.to_string()))?;
        let Signature { name: served_by, version } = self.signature.clone();
        Ok(Response::new(SendResponse { id, served_by, version, note: MARKER.into() }))
    }
}

async fn notifications(program: &Program) -> Result<()> {
    let storage = program.http("storage")?;
    storage.wait_started().await;
    program.set_started();
    let service = NotificationsProgram { storage, signature: program.signature(), next: AtomicU64::new(1) };
    grpc::serve(program.args.listen, NotificationsServer::new(service)).await
}

#[derive(Default)]
struct Records {
    by_key: BTreeMap<String, String>,
    by_age: VecDeque<String>,
}

impl Records {
    fn put(&mut self, key: String, record: String) {
        if self.by_key.insert(key.clone(), record).is_none() {
            self.by_age.push_back(key);
        }
        if self.by_age.len() > MAX_RECORDS
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}

async fn storage(program: &Program) -> Result<()> {
    let records = Arc::new(Mutex::new(Records::default()));
    let handler = move |call: Call| {
        let records = records.clone();
        async move {
            let Some(key) = call.path.strip_prefix("/records/").map(str::to_owned) else {
                return Ok(Reply::status(StatusCode::NOT_FOUND, "no such page"));
            };
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            if call.method == Method::PUT {
                records.put(key, call.body);
                return Ok(Reply::ok(MARKER.into()));
            }
            let found = records.by_key.get(&key).cloned();
            Ok(found.map_or_else(|| Reply::status(StatusCode::NOT_FOUND, MARKER), Reply::ok))
        }
    };
    program.serve(async {}, handler).await
}
