//! A client of the test service, as a generated one would be.

use hither_tonic::DiscoveryChannel;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::{IntoRequest, Response, Status, Streaming};
use tonic_prost::ProstCodec;

#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) grpc: Grpc<DiscoveryChannel>,
}

type Codec = ProstCodec<String, String>;

impl Client {
    pub(crate) fn new(channel: &DiscoveryChannel) -> Self {
        Self { grpc: Grpc::new(channel.clone()) }
    }

    /// Returns the name of the server that answers.
    pub(crate) async fn name(&self) -> Result<String, Status> {
        self.call("Name", String::new()).await.map(Response::into_inner)
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        request: impl IntoRequest<String>,
    ) -> Result<Response<String>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        grpc.unary(request.into_request(), path(method), Codec::new()).await
    }

    pub(crate) async fn stream(
        &self,
        method: &str,
        request: impl IntoRequest<String>,
    ) -> Result<Streaming<String>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        let response = grpc.server_streaming(request.into_request(), path(method), Codec::new()).await?;
        Ok(response.into_inner())
    }
}

pub(crate) fn path(method: &str) -> PathAndQuery {
    format!("/test.Echo/{method}").parse().unwrap()
}
