//! What becomes of the first packet of a connection. Only what is certain and allowed goes directly. Everything else is captured as ever,
//! and what there is to refuse is refused and logged there.

use std::sync::Arc;

use ambit_model::{
    admit::Target,
    plan::{self, Hbone, Plan},
    workload::Workload,
};
use ambit_runtime::telemetry::{Direction, Security};

use super::{
    Switch,
    flow::{Flow, Records},
    rules::DIRECT,
    segment::Segment,
};
use crate::{
    inbound::hbone,
    local::{Neighbour, certain},
    proxy::Proxy,
};

/// What to do with a first packet.
pub(super) enum Decision {
    /// Let it go directly.
    Direct(Box<Flow>),
    /// Let it be captured.
    Capture,
    /// Let it be captured, and all others to its address.
    Far,
}

impl Switch {
    /// Decides about a connection that `client` opens.
    pub(super) fn decide(&self, client: &Arc<Neighbour>, first: Segment) -> Decision {
        let proxy = &self.proxy;
        let changes = proxy.state.changes();
        let known = changes.knowledge();
        if !known.can_plan() || !known.can_authorize() || client.watch.is_draining() || !client.holds(first.from.ip()) {
            return Decision::Capture;
        }
        let Some(source) = proxy.state.read(|mesh| proxy.workload_of(mesh, &client.pod)) else { return Decision::Capture };
        let random = fastrand::u64(..);
        let observed = proxy.endpoints.seen_by(&client.pod.standings);
        let request = plan::Request { source: &source, destination: first.to, random, avoid: &[], observed: &observed };
        let (plan, near) = proxy.state.read(|mesh| {
            let plan = plan::plan(mesh, request);
            let is_near = |workload: &Arc<Workload>| proxy.near.get(workload).is_some();
            let near = match &plan {
                Plan::Hbone(plan) => {
                    // Only when the chosen one is far are the others looked at: one of them may be chosen next time.
                    let service = || plan.target.service.as_ref();
                    plan.target.workload.as_ref().is_some_and(is_near)
                        || service().is_some_and(|service| mesh.endpoints(&service.key).any(is_near))
                }
                _ => false,
            };
            (plan, near)
        });
        let plan = match plan {
            Plan::Hbone(plan) if near => plan,
            _ => return Decision::Far,
        };
        let chosen = plan.target.service.is_some();
        let flow = certain(proxy, &source, first.from, &plan).and_then(|server| self.flow(client, server, first, &plan, &source));
        match flow {
            Some(flow) => Decision::Direct(Box::new(flow)),
            None => {
                if chosen {
                    // The captured connection shall go where this one would have: else near endpoints were picked twice as often.
                    proxy.near.remember((first.from, first.to), random);
                }
                Decision::Capture
            }
        }
    }

    /// The connection to `server`, if it is allowed. Its records exist only then.
    fn flow(
        &self,
        client: &Arc<Neighbour>,
        server: Arc<Neighbour>,
        first: Segment,
        plan: &Hbone,
        source: &Arc<Workload>,
    ) -> Option<Flow> {
        let proxy: &Proxy = &self.proxy;
        let itself = Arc::ptr_eq(&client.pod, &server.pod) || client.pod.netns == server.pod.netns;
        let (id, answers) = (&client.pod.identity, &server.pod.identity);
        if itself
            || !self.serves(&server.pod)
            || proxy.certificates.current(id).is_none()
            || proxy.certificates.current(answers).is_none()
        {
            return None;
        }
        let mark = if first.to == plan.authority { DIRECT } else { self.endpoint_mark(&client.pod, plan.authority)? };
        let workload = proxy.state.read(|mesh| proxy.workload_of(mesh, &server.pod))?;
        let target = Target::Address(plan.authority);
        let connection = ambit_model::authorize::Connection {
            source: Some(id.clone()),
            source_ip: first.from.ip(),
            destination: plan.authority,
        };
        let admitted = ambit_model::arrive::tunnelled(&workload, &target).ok()?;
        if admitted.upstream != plan.authority {
            return None;
        }
        if crate::inbound::again(&proxy.state, &workload, &connection).is_err() {
            return None;
        }
        let places = [proxy.place(&client.pod).ok()?, proxy.place_from(&server.pod, first.from.ip()).ok()?];
        let mut outbound = proxy.telemetry.begin(Direction::Outbound, first.from, first.to);
        outbound.learn(|facts| facts.kind.source_workload = Some(Arc::clone(source)));
        outbound.towards(&plan.target, Some(plan.authority));
        let mut inbound = proxy.telemetry.begin(Direction::Inbound, first.from, plan.authority);
        let trace = outbound.traced().next();
        inbound.learn(|facts| facts.trace = Some(trace));
        for record in [&mut outbound, &mut inbound] {
            record.from_identity(id);
            record.secured(Security::NodeLocal, Some(answers));
        }
        let records = Records::new(outbound, inbound);
        let mut flow = Flow::new(first, mark, plan.authority, (Arc::clone(client), server), workload, records, places);
        // Decided as the inbound side does, which also notes who connects and by which policy. If it is denied by what came just now, so it
        // is when the packet arrives, which is where it is cut and logged.
        let _decided_again =
            hbone::decide((proxy, &flow.server.pod), &flow.workload, (id, first.from), &target, &mut flow.records.inbound);
        Some(flow)
    }
}
