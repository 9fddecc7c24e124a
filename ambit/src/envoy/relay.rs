//! Envoy's way to the control plane: each of its discovery streams becomes one to there, with the token as it is then.

use ambit_api::envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_api::envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use ambit_api::envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use ambit_tls::control_plane::Credentials;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// The relay.
pub struct Relay {
    channel: Channel,
    credentials: Credentials,
}

impl Relay {
    pub fn new(channel: Channel, credentials: Credentials) -> Self {
        Self { channel, credentials }
    }

    fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// A call with our credentials and what Envoy sends.
    async fn call<T: Send + 'static>(
        &self,
        requests: Request<Streaming<T>>,
    ) -> Result<Request<impl Stream<Item = T> + Send + 'static>, Status> {
        // An error on Envoy's side ends its stream, and with it ours.
        let requests = stream::unfold(requests.into_inner(), |mut requests| async {
            requests.message().await.ok().flatten().map(|request| (request, requests))
        });
        let mut call = Request::new(requests);
        self.credentials.apply(call.metadata_mut()).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(call)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        requests: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let responses = self.client().stream_aggregated_resources(self.call(requests).await?).await?;
        Ok(Response::new(responses.into_inner().boxed()))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let responses = self.client().delta_aggregated_resources(self.call(requests).await?).await?;
        Ok(Response::new(responses.into_inner().boxed()))
    }
}
