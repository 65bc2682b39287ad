//! TLS of a channel.

mod config;
mod connector;
mod name;
mod stream;
mod verifier;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

pub(super) use connector::TlsConnector;

use crate::tls::{Identity, Pem, SpiffeIds};
use config::Trust;
use name::Names;

/// The TLS of a channel, for [`ChannelBuilder::tls`](crate::ChannelBuilder::tls): whom it trusts, who it is, and which
/// name the certificate of a server must be valid for. Feature `tls`; by rustls with ring, TLS 1.2 and 1.3.
///
/// ```
/// use hither_core::{Discovery, StaticRegistry};
/// use hither_tonic::{ClientTls, DiscoveryChannel};
///
/// # async fn example() -> hither_tonic::Result<()> {
/// # let registry = StaticRegistry::new([]);
/// let tls = ClientTls::from_file("/etc/tls/ca.pem")
///     .with_identity_files("/etc/tls/client.pem", "/etc/tls/client-key.pem")
///     .with_server_name("greeter.internal");
/// let discovery = Discovery::new(registry);
/// let channel = DiscoveryChannel::builder(&discovery, "greeter").tls(tls).connect().await?;
/// # Ok(())
/// # }
/// ```
///
/// # The name
/// A server's certificate must be valid for one name, the first of these that there is:
///
/// 1. the value that its instance has in its metadata ([`with_server_name_from_metadata`]);
/// 2. [`with_server_name`], the same for all instances;
/// 3. the host of the address that it is registered with. An IP address is a name only
///    [if you say so](Self::with_ip_addresses), because few certificates have one.
///
/// Without any name no connection is made. For a `static:///` target, whose addresses are known, that is an error of
/// [`connect`](crate::ChannelBuilder::connect); the addresses of a registry are known later, so there the attempt to
/// connect fails, with an error that names these settings. With a [SPIFFE id](Self::with_spiffe_id) and none of the name
/// settings only the id is checked.
///
/// # Files
/// Certificates and keys are PEM, as bytes or as files. All are checked when the channel is made. Files are read again at
/// an [interval](Self::with_reload_interval), and new ones are used for new connections, while open connections and their
/// calls go on. New files end the backoff of instances that could not be connected to: each is tried again at once,
/// within a second if files change all the time. Files that are incomplete or invalid are logged at WARN, and the
/// previous ones stay in use.
///
/// # Errors
/// Invalid settings are an `InvalidArgument` of [`connect`](crate::ChannelBuilder::connect) and
/// [`connect_lazy`](crate::ChannelBuilder::connect_lazy). A handshake that fails is a failed attempt to connect, with
/// [backoff](crate::ChannelBuilder::backoff), which new files end; its reason, such as `the server's certificate is not valid for greeter.internal, only for …`, is in the status
/// of calls that find no ready instance. The handshake is a part of the
/// [`connect_timeout`](crate::ChannelBuilder::connect_timeout). A server that does not select `h2` by ALPN is refused.
///
/// [`with_server_name`]: Self::with_server_name
/// [`with_server_name_from_metadata`]: Self::with_server_name_from_metadata
#[derive(Debug, Clone)]
#[must_use = "nothing happens until it is given to a channel's builder"]
pub struct ClientTls {
    trust: Trust,
    identity: Option<Identity>,
    names: Names,
    spiffe: SpiffeIds,
    reload_interval: Duration,
}

impl ClientTls {
    /// Trusts servers whose certificate was signed by one of the authorities in `ca`, PEM with one or more certificates,
    /// and no other server.
    pub fn new(ca: impl Into<Vec<u8>>) -> Self {
        Self::of(Trust::Ca(Pem::text(ca)))
    }

    /// Trusts servers whose certificate was signed by one of the authorities in the file `ca`, and no other server.
    pub fn from_file(ca: impl Into<PathBuf>) -> Self {
        Self::of(Trust::Ca(Pem::File(ca.into())))
    }

    /// Trusts the authorities that the operating system does, or those in the file and directory that the environment
    /// variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name. They are read once for each channel.
    pub fn platform() -> Self {
        Self::of(Trust::Platform)
    }

    /// Trusts the authorities that Mozilla does, as they were when webpki-roots was released. Feature
    /// `tls-webpki-roots`.
    #[cfg(feature = "tls-webpki-roots")]
    pub fn webpki() -> Self {
        Self::of(Trust::Webpki)
    }

    /// Uses a configuration of rustls as it is, with its own roots, verifier, identity and crypto provider. Of the
    /// settings of this type those of the name apply; an identity or a SPIFFE id beside it is an `InvalidArgument`.
    ///
    /// `h2` is offered by ALPN if the configuration offers nothing; one that offers other protocols alone is an
    /// `InvalidArgument`.
    pub fn rustls(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self::of(Trust::Rustls(config.into()))
    }

    fn of(trust: Trust) -> Self {
        Self {
            trust,
            identity: None,
            names: Names::default(),
            spiffe: SpiffeIds::default(),
            reload_interval: Duration::from_secs(10),
        }
    }

    /// Sets the client certificate, with those that lead to its authority, and its key (mutual TLS), in PEM.
    pub fn with_identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some(Identity { certificate: Pem::text(certificate), key: Pem::text(key) });
        self
    }

    /// Sets the files of the client certificate and its key; see [`with_identity`](Self::with_identity).
    pub fn with_identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity =
            Some(Identity { certificate: Pem::File(certificate.into()), key: Pem::File(key.into()) });
        self
    }

    /// Sets the name, or the IP address, that the certificate of every server must be valid for. It is sent to the server
    /// as SNI.
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.names.fixed = Some(name.into());
        self
    }

    /// Takes the name for each instance from its metadata under `key`. An instance without that key is treated as if this
    /// was not set; one whose value is no name is not connected to.
    ///
    /// Instances that have one address and several names are several servers, each with connections of its own, as behind a
    /// gateway that routes by SNI.
    ///
    /// The registry then decides which names are good: the authorities to trust should be your own.
    pub fn with_server_name_from_metadata(mut self, key: impl Into<String>) -> Self {
        self.names.metadata_key = Some(key.into());
        self
    }

    /// Accepts the IP address of an instance as the name that its certificate must be valid for, where there is no other
    /// name. The certificate must have that address among its subject alternative names.
    pub fn with_ip_addresses(mut self) -> Self {
        self.names.ip_addresses = true;
        self
    }

    /// Adds a SPIFFE id that servers may have, such as `spiffe://prod.example.com/greeter`. With one or more ids or
    /// [trust domains](Self::with_spiffe_trust_domain) the certificate of a server must have a SPIFFE id that is allowed.
    /// Its name is then checked only if a setting says which it is.
    pub fn with_spiffe_id(mut self, id: impl Into<String>) -> Self {
        self.spiffe.allow_id(id.into());
        self
    }

    /// Adds a trust domain, such as `prod.example.com`, all of whose SPIFFE ids servers may have; see
    /// [`with_spiffe_id`](Self::with_spiffe_id).
    pub fn with_spiffe_trust_domain(mut self, domain: impl Into<String>) -> Self {
        self.spiffe.allow_trust_domain(domain.into());
        self
    }

    /// Sets how often files are read again. At least 10 ms, default 10 s. What has changed is read once more, after a
    /// second at most, before it is used, because certificate and key are seldom replaced at once.
    pub fn with_reload_interval(mut self, interval: Duration) -> Self {
        self.reload_interval = interval.max(Duration::from_millis(10));
        self
    }
}
