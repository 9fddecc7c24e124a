//! Why a request goes where it goes: the decisions that are made for each request, asked for in their order on a configuration in force, with
//! their grounds. Nothing is decided here, nothing is sent, and nobody's turn is taken: `terminate`, `http::select`, `authz` and `upstream`
//! are asked.
//!
//! An answer ends where the request leaves: what the proxy of an endpoint or the application makes of it is not known here.

mod endpoints;
mod forward;
mod page;
mod policies;
mod question;
mod words;

use std::sync::Arc;

use ambit_model::{
    Reason, Refusal,
    explain::{
        Stage, Step, Verdict,
        request::{HostConsidered, routing},
    },
    jwt::{Changed, Verified},
    route::{Action, Crossing, RequestView, Route, RouteTable},
};
use http::{StatusCode, Version};
use serde::Serialize;
use tracing::dispatcher::{Dispatch, with_default};

use crate::{
    authz,
    compiled::{AppProtocol, Chain, FirstBytes, Gate, HttpChain, Proxy, Routes, Snapshot, TcpChain},
    http::{
        arrived, client_certificate,
        select::{self, Tokens},
        sizes, view,
    },
    terminate::{self, Tunnel},
};

pub use endpoints::EndpointSaid;
pub use forward::ClusterSaid;
pub(crate) use page::answer;
pub use page::page;
pub use policies::PolicySaid;
pub(crate) use policies::decided;
pub use question::{Question, request};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Whether it is sent on, or answered here with success.
    pub verdict: Verdict,
    /// The reason code: `ok` when it is sent on, none when it depends on the cluster that is chosen.
    pub reason: Option<Reason>,
    /// The status, when it is answered here.
    pub status: Option<u16>,
    /// The policy that refused it, or came closest to allowing it.
    pub policy: Option<String>,
    /// The filter chain.
    pub chain: Option<Arc<str>>,
    /// The route.
    pub route: Option<Arc<str>>,
    /// Each virtual host of the route table, and each route that was looked at.
    pub hosts: Vec<HostConsidered>,
    /// Each rule that was asked, up to the rule set that refused.
    pub policies: Vec<PolicySaid>,
    /// The clusters that it may be sent to.
    pub clusters: Vec<ClusterSaid>,
    /// The decisions in their order.
    pub steps: Vec<Step>,
}

/// What is decided about a request by the configuration of `snapshot`.
#[must_use]
pub fn explain(snapshot: &Snapshot, question: &Question) -> Explanation {
    let mut told = Explanation {
        verdict: Verdict::Allowed,
        reason: Some(Reason::Ok),
        status: None,
        policy: None,
        chain: None,
        route: None,
        hosts: Vec::new(),
        policies: Vec::new(),
        clusters: Vec::new(),
        steps: Vec::new(),
    };
    // Whose ejection is over is seen when somebody looks, as the next request does.
    snapshot.clusters.values().for_each(|cluster| cluster.live.look(cluster));
    // What ends it has said so. Nothing is logged of a request that nobody has made.
    let _ended = with_default(&Dispatch::none(), || told.walk(snapshot, question));
    told
}

/// What goes with each decision after the route.
#[derive(Clone, Copy)]
struct Routed<'a> {
    snapshot: &'a Snapshot,
    tunnel: &'a Tunnel,
    chain: &'a Chain,
    http: &'a HttpChain,
    route: &'a Route,
    view: RequestView<'a>,
    version: Version,
}

impl Explanation {
    /// `None` where the request ends.
    fn walk(&mut self, snapshot: &Snapshot, question: &Question) -> Option<()> {
        let tunnel = question.tunnel();
        self.tunnel(snapshot, &tunnel)?;
        let (chain, http) = self.filter_chain(snapshot, &tunnel, question.protocol())?;
        let mut request = question.request.clone();
        arrived(&mut request, None);
        let target = match select::target(&request, &http) {
            Ok(target) => target,
            Err(refused) => {
                return self.refuse(Step::new(Stage::Admission, "the request is not taken"), Some(refused.0), refused.1);
            }
        };
        let taken_out = words::changes(question.request.headers(), request.headers());
        if !taken_out.is_empty() {
            let step = Step::new(Stage::Admission, "what concerns its connection alone is taken out first");
            self.steps.push(taken_out.into_iter().fold(step, |step, change| step.because(change)));
        }
        if client_certificate(request.headers_mut(), None) {
            self.steps.push(Step::new(Stage::Admission, "what the client writes of its own identity is taken out"));
        }
        client_certificate(request.headers_mut(), tunnel.peer.certificate.as_ref().filter(|_| http.tells_client));
        let sent = request.uri().path_and_query().map_or("", |sent| sent.as_str());
        if sent != target.path_and_query {
            let step = Step::new(Stage::Admission, format!("the path is read as {:?}", target.path_and_query));
            self.steps.push(step.because("paths are brought to their normal form before any rule sees them"));
        }
        let view = view(&request, &target);
        let (route, changed) = self.routed(snapshot, &tunnel, &chain, &http, view)?;
        // From here on it is what its tokens have made of it.
        let view = select::seen(view, changed.as_ref());
        let version = request.version();
        let routed = Routed { snapshot, tunnel: &tunnel, chain: &chain, http: &http, route: &route, view, version };
        self.act(routed)
    }

    /// Ends it with this refusal.
    fn refuse<T>(&mut self, step: Step, status: Option<StatusCode>, refusal: Refusal) -> Option<T> {
        self.verdict = Verdict::Refused;
        self.reason = Some(refusal.reason);
        self.status = status.map(|status| status.as_u16());
        self.policy = refusal.policy.as_ref().map(ToString::to_string);
        let because = refusal.to_string();
        let mut step = step.refused(refusal);
        step.because.insert(0, because);
        self.steps.push(step);
        None
    }

    /// Ends it with an answer that is no refusal.
    fn answer<T>(&mut self, step: Step, status: StatusCode) -> Option<T> {
        self.status = Some(status.as_u16());
        self.steps.push(step);
        None
    }

    fn tunnel(&mut self, snapshot: &Snapshot, tunnel: &Tunnel) -> Option<()> {
        if let Err(refusal) = terminate::known(snapshot, &tunnel.peer) {
            return self.refuse(Step::new(Stage::Identity, "the waypoint does not take the client's identity"), None, refusal);
        }
        let decided = terminate::decide(snapshot, tunnel);
        let verb = if decided.is_ok() { "takes" } else { "refuses" };
        let mut step = Step::new(Stage::Chain, format!("the waypoint {verb} a tunnel for {}", tunnel.destination));
        if let Some(host) = snapshot.authorities.as_ref().and_then(|authorities| authorities.get(tunnel.destination)) {
            step = step.because(format!("the listener connect_terminate knows the address as {}", host.name));
            let said = policies::told(&host.rbac, &authz::subject(tunnel, None, None));
            step = self.policies_said(step, said);
        }
        match decided {
            Ok(_) => {
                self.steps.push(step);
                Some(())
            }
            Err(refusal) => self.refuse(step, None, refusal),
        }
    }

    fn filter_chain(
        &mut self,
        snapshot: &Snapshot,
        tunnel: &Tunnel,
        protocol: AppProtocol,
    ) -> Option<(Arc<Chain>, Arc<HttpChain>)> {
        let seen: FirstBytes = protocol.into();
        let gate = |seen: Option<&FirstBytes>| snapshot.inbound.as_ref().map(|inbound| inbound.select(tunnel.destination, seen));
        let looked = matches!(gate(None), Some(Gate::NeedsProtocol | Gate::NeedsServerName));
        if let Some(Gate::Chain(chain)) = gate(Some(&seen))
            && let Proxy::Tcp(tcp) = &chain.proxy
        {
            return self.bytes(snapshot, tunnel, chain, tcp);
        }
        match select::chain(snapshot, tunnel, protocol) {
            Ok((chain, http)) => {
                let step = Step::new(Stage::Chain, format!("its requests are for the filter chain {}", chain.name));
                let by = if looked { "address, its port, and that HTTP is spoken" } else { "address and its port" };
                self.steps.push(step.because(format!("main_internal chooses by the destination's {by}")));
                self.chain = Some(chain.name.clone());
                Some((chain, http))
            }
            Err((status, refusal)) => {
                self.refuse(Step::new(Stage::Chain, "no filter chain takes its requests"), Some(status), refusal)
            }
        }
    }

    /// A connection that is not read: rules on requests do not hold for it.
    fn bytes<T>(&mut self, snapshot: &Snapshot, tunnel: &Tunnel, chain: &Chain, tcp: &TcpChain) -> Option<T> {
        self.chain = Some(chain.name.clone());
        let step = Step::new(Stage::Chain, format!("the filter chain {} carries the connection byte by byte", chain.name));
        self.steps.push(step.because("the port is not one of HTTP: routes, methods, paths and headers are not looked at"));
        let step = Step::new(Stage::Policy, "policies on the connection");
        let step = self.policies_said(step, policies::told(&chain.rbac, &authz::subject(tunnel, None, None)));
        if let Err(refusal) = authz::connection(&chain.rbac, tunnel) {
            return self.refuse(step, None, refusal);
        }
        self.steps.push(step);
        self.carried(snapshot, tunnel, chain, tcp);
        None
    }

    fn routed(
        &mut self,
        snapshot: &Snapshot,
        tunnel: &Tunnel,
        chain: &Chain,
        http: &HttpChain,
        view: RequestView<'_>,
    ) -> Option<(Arc<Route>, Option<Changed>)> {
        let decided = select::route(snapshot, tunnel, chain, http, view);
        let by_policy = |refusal: &Refusal| !matches!(refusal.reason, Reason::RouteNotFound | Reason::ConfigurationInvalid);
        let denied = decided.as_ref().err().is_some_and(|(_, refusal)| by_policy(refusal));
        let connection = authz::subject(tunnel, None, None);
        let mut said = policies::told(&chain.rbac, &connection);
        // What refuses comes before what is not asked any more: rules on the connection, then tokens, then rules on requests.
        let tokens = policies::let_pass(&chain.rbac, &connection).then(|| select::tokens(http, &view));
        if let Some(Ok(Tokens { verified, changed })) = &tokens {
            let seen = select::seen(view, changed.as_ref());
            let metadata = verified.as_ref().and_then(Verified::metadata);
            let subject = authz::subject(tunnel, Some(seen), metadata);
            // For what nobody takes nobody is asked.
            if denied || decided.is_ok() {
                self.steps.extend(policies::asked(&http.asks, &subject));
            }
            said.extend(policies::told(&http.rbac, &subject));
        }
        let says = match (denied, said.is_empty()) {
            (true, _) if matches!(tokens, Some(Err(_))) => "its token is not believed",
            (true, _) => "policies refuse it",
            (false, true) => "no policy holds here",
            (false, false) => "policies let it pass",
        };
        let step = self.policies_said(Step::new(Stage::Policy, says), said);
        let decided = match decided {
            Err((status, refusal)) if denied => return self.refuse(step, Some(status), refusal),
            decided => decided,
        };
        self.steps.push(step);
        let table: Option<&RouteTable> = match &http.routes {
            Routes::Inline(table) => Some(table),
            Routes::Named(name) => snapshot.routes.get(name).map(|table| &**table),
        };
        let considered = table.map(|table| routing(table, &view, tunnel.peer.uri.as_deref()).hosts).unwrap_or_default();
        let says = match &decided {
            Ok((route, _)) => format!("the route {} takes it", words::named(&route.name)),
            Err(_) => "no route takes it".to_owned(),
        };
        let step = words::considered(Step::new(Stage::Route, says), table.map(|table| table.name.as_str()), &considered);
        self.hosts = considered;
        match decided {
            Ok((route, changed)) => {
                self.route = Some(route.name.clone());
                self.steps.push(step);
                Some((route, changed))
            }
            Err((status, refusal)) => self.refuse(step, Some(status), refusal),
        }
    }

    fn policies_said(&mut self, step: Step, said: Vec<PolicySaid>) -> Step {
        let step = policies::grounds(step, &said);
        self.policies.extend(said);
        step
    }

    fn act(&mut self, routed: Routed<'_>) -> Option<()> {
        let Routed { route, view, http, .. } = routed;
        let crossing = route.filters().cors.as_ref().filter(|_| http.cors).map(|policy| policy.decide(&view));
        if matches!(crossing, Some(Crossing::Answered(_))) {
            let step = Step::new(Stage::Action, "the waypoint answers the preflight itself");
            return self.answer(step.because("it asks what a page of another origin may do (CORS)"), StatusCode::OK);
        }
        if let Some(step) = words::ahead(http, route, routed.tunnel, view) {
            self.steps.push(step);
        }
        if matches!(route.action, Action::Forward(_)) {
            self.steps.extend(words::limiters(http, route, routed.tunnel, view));
        }
        if let Some(step) = words::sized(http, route) {
            if let Some((status, refusal)) = sizes::refused(http, route, &view, sizes::said_length(&view)) {
                return self.refuse(step, Some(status), refusal);
            }
            self.steps.push(step);
        }
        self.steps.extend(words::processed(http, route));
        self.steps.extend(words::admitted(http, view));
        match &route.action {
            Action::Forward(forwarding) => {
                self.forwarded(routed, forwarding, crossing);
                Some(())
            }
            Action::Redirect(redirect) => {
                let location = redirect.location(&view, &route.when.path);
                let step = Step::new(Stage::Action, format!("the waypoint sends the client to {location}"));
                self.answer(step, StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND))
            }
            Action::Direct(direct) => {
                let status = StatusCode::from_u16(direct.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let step = Step::new(Stage::Action, format!("the route answers by itself, with {}", status.as_u16()));
                if status.as_u16() < 400 {
                    self.reason = Some(Reason::RouteDirectResponse);
                    return self.answer(step, status);
                }
                self.refuse(step, Some(status), Refusal::new(Reason::RouteDirectResponse, direct.body.clone()))
            }
        }
    }
}
