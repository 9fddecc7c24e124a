//! All connections that the kernel carries by itself.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use ambit_model::{Reason, Refusal};

use super::{
    ends::Socked,
    flow::{Flow, Key, Side},
    queue::Verdict,
    segment::Segment,
};
use crate::{config::Limits, endpoints::Endpoints, proxy::Pod, state::Shared};

/// By what they are called at either end.
#[derive(Default)]
pub(super) struct Flows {
    by_client: HashMap<Key, Flow>,
    /// From the client's address and the endpoint's.
    by_server: HashMap<(SocketAddr, SocketAddr), Key>,
}

impl Flows {
    /// What becomes of a packet that opens a connection between the addresses and ports of a known one: when it is the same that came
    /// before, what became of that; else nothing as long as the known one is there, which is not to be forgotten for it.
    pub(super) fn known(&mut self, first: &Segment) -> Option<Verdict> {
        let flow = self.by_client.get_mut(&(first.from, first.to))?;
        if flow.first.sequence == first.sequence {
            flow.first.hops = first.hops;
            return Some(Verdict::Accept(flow.mark));
        }
        flow.is_live().then_some(Verdict::Drop)
    }

    /// Takes a connection, in place of an earlier one between the same ports.
    pub(super) fn begin(&mut self, flow: Flow) {
        let key = flow.key();
        self.finish(&key);
        self.by_server.insert((flow.first.from, flow.endpoint), key);
        self.by_client.insert(key, flow);
    }

    /// The connection whose first packet arrives at its server's pod: it must be the very one that was let go, by its sequence number.
    pub(super) fn arriving(&mut self, first: &Segment, pod: &Arc<Pod>) -> Option<&mut Flow> {
        let key = self.by_server.get(&(first.from, first.to))?;
        let flow = self.by_client.get_mut(key)?;
        (flow.is_of(Side::Server, pod) && flow.first.sequence == first.sequence).then_some(flow)
    }

    /// The connection that this is the first packet of, though it came with other addresses or ports than it left with.
    pub(super) fn changed_on_its_way(&self, first: &Segment) -> Option<Key> {
        let same = |flow: &&Flow| !flow.arrived && flow.endpoint == first.to && flow.first.sequence == first.sequence;
        self.by_client.values().find(same).map(Flow::key)
    }

    /// The connection that this socket of `pod` is an end of.
    fn of_socket(&mut self, pod: &Arc<Pod>, local: SocketAddr, remote: SocketAddr) -> Option<(Side, &mut Flow)> {
        let client = self.by_client.get(&(local, remote)).is_some_and(|flow| flow.is_of(Side::Client, pod));
        let (side, key) =
            if client { (Side::Client, (local, remote)) } else { (Side::Server, *self.by_server.get(&(remote, local))?) };
        let flow = self.by_client.get_mut(&key)?;
        flow.is_of(side, pod).then_some((side, flow))
    }

    /// A socket of `pod` has ended.
    pub(super) fn ended(&mut self, pod: &Arc<Pod>, socket: Socked) {
        if let Some((side, flow)) = self.of_socket(pod, socket.local, socket.remote) {
            flow.end(side, socket.carried);
            let over = flow.is_over().then(|| flow.key());
            over.inspect(|key| self.finish(key));
        }
    }

    /// `pod` sends a reset.
    pub(super) fn reset(&mut self, pod: &Arc<Pod>, segment: &Segment) {
        if let Some((side, flow)) = self.of_socket(pod, segment.from, segment.to) {
            flow.reset(side);
        }
    }

    /// Cuts one connection.
    pub(super) fn cut(&mut self, key: &Key, inbound: Refusal, outbound: Refusal) {
        if let Some(flow) = self.by_client.get_mut(key)
            && flow.cut(inbound, outbound)
        {
            self.finish(key);
        }
    }

    /// All of them, by what they are called.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.by_client.keys().copied().collect()
    }

    /// Cuts those of these that policy no longer allows. Only those are decided about again that a change may concern.
    pub(super) fn decide_again(&mut self, state: &Shared, keys: &[Key]) {
        for key in keys {
            let denied = self.by_client.get_mut(key).and_then(|flow| flow.no_longer(state));
            if let Some(refusal) = denied {
                let outbound = Refusal::new(Reason::UpstreamReset, refusal.to_string());
                self.cut(key, refusal, outbound);
            }
        }
    }

    /// Cuts the connections of a pod whose time is over.
    pub(super) fn cut_all_of(&mut self, pod: &Arc<Pod>) {
        let draining = || Refusal::new(Reason::Draining, "cut while the proxy or the pod went away");
        let of = |flow: &Flow| {
            let server = flow.is_of(Side::Server, pod);
            (server || flow.is_of(Side::Client, pod)).then(|| (flow.key(), server))
        };
        let cut: Vec<_> = self.by_client.values().filter_map(of).collect();
        for (key, server) in cut {
            let (inbound, outbound) = match server {
                true => (draining(), Refusal::new(Reason::UpstreamReset, draining().to_string())),
                false => (Refusal::new(Reason::ClientReset, "its proxy ended it"), draining()),
            };
            self.cut(&key, inbound, outbound);
        }
    }

    /// Looks after what nothing was heard of, and ends what has been quiet for longer than the limits. Returns connections that stand and never
    /// arrived where they should.
    pub(super) fn look_after(&mut self, limits: &Limits, endpoints: &Endpoints) -> Vec<Key> {
        let (mut over, mut strays) = (Vec::new(), Vec::new());
        for (key, flow) in &mut self.by_client {
            match flow.look_after(limits, endpoints) {
                _ if flow.has_strayed() => strays.push(*key),
                true => over.push(*key),
                false => {}
            }
        }
        over.iter().for_each(|key| self.finish(key));
        strays
    }

    fn finish(&mut self, key: &Key) {
        let Some(flow) = self.by_client.remove(key) else { return };
        let server = (flow.first.from, flow.endpoint);
        if self.by_server.get(&server) == Some(key) {
            self.by_server.remove(&server);
        }
        flow.finish();
    }
}
