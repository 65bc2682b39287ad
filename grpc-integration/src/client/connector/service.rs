//! A `tower` service as a connector.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use hither_core::AddressKind;
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::{Connected, Connector, Destination};
use crate::error::BoxError;

/// Makes a [`Connector`] of a service from a URI to a byte stream: whatever tonic's `connect_with_connector` and
/// hyper-util's client take, such as hyper-rustls' `HttpsConnector` or a `tower::service_fn`.
///
/// The service is called with `http://host:port`, or with [another scheme](Self::with_scheme). Unix domain sockets
/// have no such URI, so instances at one cannot be reached. Host names are resolved by the service. It is cloned for
/// each attempt.
///
/// ```
/// # use std::task::{Context, Poll};
/// use hither_core::{Discovery, StaticRegistry};
/// use hither_tonic::{DiscoveryChannel, ServiceConnector};
///
/// # #[derive(Clone)]
/// # struct HttpsConnector;
/// # impl tower_service::Service<http::Uri> for HttpsConnector {
/// #     type Response = hyper_util::rt::TokioIo<tokio::net::TcpStream>;
/// #     type Error = std::io::Error;
/// #     type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
/// #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
/// #         Poll::Ready(Ok(()))
/// #     }
/// #     fn call(&mut self, _: http::Uri) -> Self::Future {
/// #         std::future::ready(Err(std::io::ErrorKind::Unsupported.into()))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_tonic::Result<()> {
/// # let registry = StaticRegistry::new([]);
/// # let tls = HttpsConnector;
/// let discovery = Discovery::new(registry);
/// let channel = DiscoveryChannel::builder(&discovery, "greeter")
///     .connector(ServiceConnector::new(tls).with_scheme(http::uri::Scheme::HTTPS))
///     .connect_lazy()?;
/// # Ok(())
/// # }
/// ```
pub struct ServiceConnector<S> {
    // A service need not be Sync.
    service: Mutex<S>,
    scheme: Scheme,
}

impl<S> ServiceConnector<S> {
    /// Returns a connector that calls `service` with URIs of the scheme `http`.
    pub fn new(service: S) -> Self {
        Self { service: Mutex::new(service), scheme: Scheme::HTTP }
    }

    /// Sets the scheme of the URIs, and the `:scheme` of requests: connectors with TLS use it for `https`.
    #[must_use]
    pub fn with_scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = scheme;
        self
    }
}

#[async_trait]
impl<S> Connector for ServiceConnector<S>
where
    S: Service<Uri> + Clone + Send + 'static,
    S::Response: Read + Write + Send + Unpin + 'static,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let address = destination.address();
        let authority = match address.kind() {
            AddressKind::Unix(_) => None,
            _ => Some(address.to_string()),
        };
        let uri = authority.and_then(|authority| {
            let uri = Uri::builder().scheme(self.scheme.clone()).authority(authority).path_and_query("/");
            uri.build().ok()
        });
        let Some(uri) = uri else {
            let error = format!("{address} has no URI");
            return Err(io::Error::new(io::ErrorKind::Unsupported, error));
        };
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(io_error)?;
        let io = service.call(uri).await.map_err(io_error)?;
        Ok(Connected::new(TokioIo::new(io)).with_scheme(self.scheme.clone()))
    }
}

/// The error itself if it is one of I/O: its kind is worth keeping.
fn io_error(error: impl Into<BoxError>) -> io::Error {
    match error.into().downcast::<io::Error>() {
        Ok(error) => *error,
        Err(error) => io::Error::other(hither_core::report(error.as_ref())),
    }
}

impl<S> fmt::Debug for ServiceConnector<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceConnector").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}
