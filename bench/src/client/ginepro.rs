//! ginepro's channel, which is one of an older tonic: a reference, and not a competitor on equal terms.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use ginepro::{LoadBalancedChannel, LookupService, ServiceDefinition};
use http::{Request, Response};
use old_tonic::transport::{Certificate, ClientTlsConfig};
use tonic::body::Body;
use tower_service::Service;

use super::Setup;
use crate::{Result, tls};

/// A channel that today's tonic can call: the body of a request is boxed once more.
#[derive(Debug, Clone)]
pub(crate) struct Ginepro(LoadBalancedChannel);

#[derive(Debug)]
struct Servers(HashSet<SocketAddr>);

impl Ginepro {
    pub(crate) async fn connect(setup: &Setup<'_>) -> Result<Self> {
        // The port is none of the servers', which the lookup returns.
        let service = ServiceDefinition::from_parts(tls::NAME, 1)?;
        let servers = Servers(setup.servers.iter().copied().collect());
        let mut builder = LoadBalancedChannel::builder(service).lookup_service(servers);
        if let Some(tls) = setup.tls {
            let authority = Certificate::from_pem(fs::read(tls.certificate())?);
            builder = builder.with_tls(ClientTlsConfig::new().ca_certificate(authority));
        }
        Ok(Self(builder.channel().await?))
    }
}

#[async_trait::async_trait]
impl LookupService for Servers {
    async fn resolve_service_endpoints(&self, _: &ServiceDefinition) -> anyhow::Result<HashSet<SocketAddr>> {
        Ok(self.0.clone())
    }
}

impl Service<Request<Body>> for Ginepro {
    type Response = Response<old_tonic::body::Body>;
    type Error = <LoadBalancedChannel as Service<Request<old_tonic::body::Body>>>::Error;
    type Future = <LoadBalancedChannel as Service<Request<old_tonic::body::Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request.map(old_tonic::body::Body::new))
    }
}
