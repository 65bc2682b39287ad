//! The service that the examples call: its answers name the server.

use tonic::{Request, Response, Status};

/// Generated from `proto/discover.proto` by `build.rs`.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("discover");

    /// The proto itself, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/discover.bin"));
}

pub use proto::discover_demo_client::DiscoverDemoClient;
use proto::discover_demo_server::DiscoverDemo;
pub use proto::discover_demo_server::{DiscoverDemoServer, SERVICE_NAME};

/// Answers every call with the name of the server.
#[derive(Debug, Clone)]
pub struct Demo {
    server: String,
}

impl Demo {
    /// The service, ready for tonic; `server` is the name in its answers.
    pub fn service(server: impl Into<String>) -> DiscoverDemoServer<Self> {
        DiscoverDemoServer::new(Self { server: server.into() })
    }
}

#[tonic::async_trait]
impl DiscoverDemo for Demo {
    async fn discover(&self, request: Request<proto::Request>) -> Result<Response<proto::Response>, Status> {
        let name = request.into_inner().name;
        let content = format!("request content from {} => {name}", self.server);
        Ok(Response::new(proto::Response { content }))
    }
}
