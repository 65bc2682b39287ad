//! From settings to a server that is bound: the end of the builder.

#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, Registration};
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};
use tokio::runtime::Handle;

use super::advertised::{self, Describe};
use super::age::MaxAge;
use super::registrations::Registrations;
use super::socket::{ListeningSocket, Socket};
#[cfg(unix)]
use super::socket_file::SocketFile;
use super::{Lifecycle, LifecycleBuilder};
use crate::error::{Error, ErrorKind, Result};

impl LifecycleBuilder {
    /// Binds the listening socket. Port 0 takes a free port.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an invalid setting of this builder, or a host name that cannot be
    /// resolved; [`ErrorKind::Bind`] when the address is in use, or does not belong to this machine.
    pub async fn bind(self, address: impl ToSocketAddrs) -> Result<Lifecycle> {
        let this = self.checked()?;
        let socket = Socket::Tcp(listen(address).await?);
        this.finish(socket).await
    }

    /// Binds a Unix domain socket. The file of a socket whose process has died is replaced. The file is removed when the
    /// server stops accepting; its permissions are those of the umask.
    ///
    /// What is advertised, unless [`advertise`](Self::advertise) says otherwise, is the path: `unix:///run/greeter.sock`,
    /// as gRPC writes it, which clients on this host can call. That is also the default id of the instance, so where
    /// several hosts share a registry, each needs an [id](hither_core::Instance::with_id) of its own. `Request::remote_addr` is `None`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an invalid setting of this builder, or a path that is not UTF-8;
    /// [`ErrorKind::Bind`] when another process listens there, the file is no socket, or the path is longer than the
    /// system allows (some 100 bytes).
    #[cfg(unix)]
    pub async fn bind_unix(self, path: impl AsRef<Path>) -> Result<Lifecycle> {
        let this = self.checked()?;
        let path = path.as_ref();
        let failed = |error| {
            let failed = Error::new(ErrorKind::Bind, format!("cannot listen on {}", path.display()));
            failed.with_source(error)
        };
        // Before anything is bound, because the address is what is advertised.
        let path = std::path::absolute(path).map_err(failed)?;
        let address = Address::unix(&path)?;
        match SocketFile::bind(&path).await {
            Ok((file, listener)) => this.finish(Socket::Unix { _file: Some(file), listener }).await,
            Err(error) => Err(failed(error).with_address(address)),
        }
    }

    /// Uses a socket that listens already, for one that was bound with options of its own, or that another process passed,
    /// as systemd does (socket activation). The file of a Unix socket is left to the process that made it.
    ///
    /// ```no_run
    /// use hither_tonic::{Lifecycle, LifecycleBuilder};
    ///
    /// # async fn example(builder: LifecycleBuilder) -> Result<Lifecycle, Box<dyn std::error::Error>> {
    /// // The crate listenfd reads LISTEN_FDS, and returns nothing if LISTEN_PID is that of another process.
    /// match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
    ///     Some(listener) => Ok(builder.listen(listener).await?),
    ///     None => Ok(builder.bind("127.0.0.1:50051").await?),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an invalid setting of this builder, or a Unix socket without an absolute path;
    /// [`ErrorKind::Bind`] when Tokio cannot use the socket.
    pub async fn listen(self, socket: impl Into<ListeningSocket>) -> Result<Lifecycle> {
        let this = self.checked()?;
        let socket = socket.into().into_socket().map_err(|error| {
            Error::new(ErrorKind::Bind, "the given socket cannot be used").with_source(error)
        })?;
        this.finish(socket).await
    }

    /// Returns the first invalid setting as the error.
    fn checked(mut self) -> Result<Self> {
        if let Some(error) = self.invalid.take() {
            return Err(error);
        }
        if self.services.is_empty() {
            return Err(Error::invalid_argument(
                "there is no service to register: name one with .service(..)",
            ));
        }
        if self.max_age == Some(Duration::ZERO) {
            return Err(Error::invalid_argument(
                "the maximum age of connections is zero: max_connection_age(..)",
            ));
        }
        if self.max_age.is_none() && self.max_age_grace.is_some() {
            return Err(Error::invalid_argument(
                "max_connection_age_grace(..) is the grace after max_connection_age(..), which is not set",
            ));
        }
        if self.config.require_registration == Some(Duration::ZERO) {
            return Err(Error::invalid_argument(
                "no server is registered in no time: require_registration(..) is zero",
            ));
        }
        let grace = self.max_age_grace;
        self.config.connections.max_age = self.max_age.map(|age| MaxAge { age, grace });
        if Handle::try_current().is_err() {
            return Err(Error::invalid_argument("a server can only be made inside a Tokio runtime"));
        }
        Ok(self)
    }

    async fn finish(self, socket: Socket) -> Result<Lifecycle> {
        #[cfg(feature = "tls")]
        let tls = self.tls.map(super::tls::ServerTls::start).transpose()?;
        let bound = socket.address().map_err(|error| {
            Error::invalid_argument("the address of the listening socket is not known").with_source(error)
        })?;
        let instance = advertised::instance(self.advertised, &bound).await?;
        let instance = self.describe.apply(instance);
        let registration = |(service, describe): (_, Describe)| {
            Registration::new(service, describe.apply(instance.clone()))?.with_ttl(self.config.ttl)
        };
        let registrations =
            self.services.into_iter().map(registration).collect::<hither_core::Result<_>>()?;
        let registrations = Arc::new(Registrations::new(registrations, self.config.registry_timeout));
        Ok(Lifecycle {
            config: self.config,
            listener: self.listener,
            signals: self.signals,
            #[cfg(feature = "tls")]
            tls,
            socket,
            bound,
            registrations,
        })
    }
}

async fn listen(address: impl ToSocketAddrs) -> Result<TcpListener> {
    let candidates = lookup_host(address).await.map_err(|error| {
        Error::invalid_argument("the address to listen on cannot be resolved").with_source(error)
    })?;
    let mut failed = Error::invalid_argument("the address to listen on has no IP address");
    for address in candidates {
        match TcpListener::bind(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                failed = Error::new(ErrorKind::Bind, format!("cannot listen on {address}"))
                    .with_address(address)
                    .with_source(error);
            }
        }
    }
    Err(failed)
}
