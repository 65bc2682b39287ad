//! TLS of a server.

mod config;
mod connection;
mod handshakes;
mod incoming;
mod verifier;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

pub use connection::TlsConnection;
pub(super) use handshakes::Handshakes;
pub use incoming::TlsIncoming;

use crate::tls::{Identity, Pem, SpiffeIds};
use config::Origin;

/// The TLS of a server, for [`LifecycleBuilder::tls`](crate::LifecycleBuilder::tls): its identity, and whether its clients
/// need one. Feature `tls`; by rustls with ring, TLS 1.2 and 1.3, with `h2` by ALPN.
///
/// ```no_run
/// use hither_tonic::{Lifecycle, ServerTls};
///
/// # async fn example() -> hither_tonic::Result<()> {
/// # let registry = hither_memory::MemoryRegistry::new();
/// let tls = ServerTls::from_files("/etc/tls/tls.crt", "/etc/tls/tls.key")
///     .with_client_ca_file("/etc/tls/ca.crt"); // mutual TLS
/// let server = Lifecycle::builder(registry).service("greeter").tls(tls).bind("127.0.0.1:0").await?;
/// # Ok(())
/// # }
/// ```
///
/// # Handshakes
/// Each is a task of its own, so that none keeps others waiting, with a [timeout](Self::with_handshake_timeout); beyond
/// [so many](Self::with_max_handshakes) pending ones no further connection is accepted until one ends. One that fails is
/// logged at DEBUG, and at WARN one in half a minute at most, with a count; connections that close before they have sent
/// anything, as health checks of load balancers do, are not warned about. A client that offers no protocol by ALPN is
/// served; one that offers others alone is refused.
///
/// # Files
/// Certificates and keys are PEM, as bytes or as files. All are checked by [`bind`](crate::LifecycleBuilder::bind). Files
/// are read again at an [interval](Self::with_reload_interval), and new ones are used for new connections, while open
/// connections and their calls go on. Files that are incomplete or invalid are logged at WARN, and the previous ones stay
/// in use.
///
/// # Errors
/// Invalid settings are an `InvalidArgument` of [`bind`](crate::LifecycleBuilder::bind).
#[derive(Debug, Clone)]
#[must_use = "nothing happens until it is given to a server's builder"]
pub struct ServerTls {
    origin: Origin,
    client_ca: Option<Pem>,
    optional_client_certificates: bool,
    spiffe: SpiffeIds,
    handshake_timeout: Duration,
    max_handshakes: usize,
    reload_interval: Duration,
}

impl ServerTls {
    /// Identifies the server by a certificate, with those that lead to its authority, and its key, in PEM.
    pub fn new(certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self::of(Origin::Pem(Identity { certificate: Pem::text(certificate), key: Pem::text(key) }))
    }

    /// Identifies the server by a certificate and a key in files; see [`new`](Self::new).
    pub fn from_files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::of(Origin::Pem(Identity {
            certificate: Pem::File(certificate.into()),
            key: Pem::File(key.into()),
        }))
    }

    /// Uses a configuration of rustls as it is, with its own identity, verifier and crypto provider. A client's CA or
    /// SPIFFE id beside it is an `InvalidArgument`.
    ///
    /// `h2` is selected by ALPN if the configuration has no protocols; one that has others alone is an
    /// `InvalidArgument`.
    pub fn rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self::of(Origin::Rustls(config.into()))
    }

    fn of(origin: Origin) -> Self {
        Self {
            origin,
            client_ca: None,
            optional_client_certificates: false,
            spiffe: SpiffeIds::default(),
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 1024,
            reload_interval: Duration::from_secs(10),
        }
    }

    /// Requires of clients a certificate that was signed by one of the authorities in `ca`, in PEM (mutual TLS).
    pub fn with_client_ca(mut self, ca: impl Into<Vec<u8>>) -> Self {
        self.client_ca = Some(Pem::text(ca));
        self
    }

    /// Sets the file of the authorities of clients; see [`with_client_ca`](Self::with_client_ca).
    pub fn with_client_ca_file(mut self, ca: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(Pem::File(ca.into()));
        self
    }

    /// Serves clients without a certificate too. One that is sent must still be good. Needs
    /// [`with_client_ca`](Self::with_client_ca).
    pub fn with_optional_client_certificates(mut self) -> Self {
        self.optional_client_certificates = true;
        self
    }

    /// Adds a SPIFFE id that clients may have, such as `spiffe://prod.example.com/frontend`. With one or more ids or
    /// [trust domains](Self::with_client_spiffe_trust_domain) the certificate of a client must have a SPIFFE id that is
    /// allowed. Needs [`with_client_ca`](Self::with_client_ca).
    pub fn with_client_spiffe_id(mut self, id: impl Into<String>) -> Self {
        self.spiffe.allow_id(id.into());
        self
    }

    /// Adds a trust domain, such as `prod.example.com`, all of whose SPIFFE ids clients may have; see
    /// [`with_client_spiffe_id`](Self::with_client_spiffe_id).
    pub fn with_client_spiffe_trust_domain(mut self, domain: impl Into<String>) -> Self {
        self.spiffe.allow_trust_domain(domain.into());
        self
    }

    /// Sets how long a handshake may take. Not zero; default 10 s.
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how many handshakes may be pending at a time; further connections wait until they are accepted. At least 1,
    /// default 1,024.
    pub fn with_max_handshakes(mut self, most: usize) -> Self {
        self.max_handshakes = most.max(1);
        self
    }

    /// Sets how often files are read again. At least 10 ms, default 10 s. What has changed is read once more, after a
    /// second at most, before it is used, because certificate and key are seldom replaced at once.
    pub fn with_reload_interval(mut self, interval: Duration) -> Self {
        self.reload_interval = interval.max(Duration::from_millis(10));
        self
    }
}
