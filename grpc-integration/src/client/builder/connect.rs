//! Makes the channel of its settings.

#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::ChannelBuilder;
use crate::client::call::CallConfig;
use crate::client::call_headers::CallAuthority;
use crate::client::channel::DiscoveryChannel;
#[cfg(feature = "tls")]
use crate::client::connector::Connector;
use crate::client::health::HealthCheck;
use crate::client::metrics::ChannelMetrics;
use crate::client::pool::{Dialer, Pool, Renewals, SubchannelConfig};
use crate::client::retry::Methods;
use crate::client::server_key::ServerKeys;
use crate::client::transport::KeepaliveConfig;
use crate::error::{Error, ErrorKind, Result};

impl ChannelBuilder {
    /// Makes the channel and waits until the first instance is ready.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for an invalid setting, such as a timeout of zero;
    /// [`NotReady`](ErrorKind::NotReady), with the reason, if no instance was ready within the
    /// [`ready_timeout`](Self::ready_timeout).
    ///
    /// # Cancellation
    /// Drops the channel.
    pub async fn connect(self) -> Result<DiscoveryChannel> {
        let within = self.ready_timeout;
        let channel = self.connect_lazy()?;
        channel.wait_ready(within).await?;
        Ok(channel)
    }

    /// Makes the channel, which connects in the background. Calls may be made at once: they wait while the
    /// service is being resolved and its instances are being connected to.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for an invalid setting, such as a timeout of zero;
    /// [`Unexpected`](ErrorKind::Unexpected) outside a Tokio runtime.
    pub fn connect_lazy(self) -> Result<DiscoveryChannel> {
        self.check()?;
        let service = self.service?;
        let authority = match self.authority {
            Some(authority) => CallAuthority::Fixed(authority?),
            None if self.listed.is_some() => CallAuthority::PerInstance,
            None => CallAuthority::Fixed(authority_of(service.as_str())?),
        };
        if Handle::try_current().is_err() {
            let message = "a channel can only be made inside a Tokio runtime";
            return Err(Error::new(ErrorKind::Unexpected, message));
        }
        // Before anything is started.
        let methods = Methods::new(self.methods).map_err(Error::invalid_argument)?.map(Box::new);
        let (connector, renewals, server_keys) = (self.connector, Renewals::never(), ServerKeys::default());
        #[cfg(feature = "tls")]
        let (connector, renewals, server_keys) = match &self.tls {
            Some(tls) => {
                let known = self.listed.unwrap_or_default();
                let tls = crate::client::tls::TlsConnector::new(connector, tls, &known)?;
                let renewals = Renewals::of(tls.changes());
                let server_keys = tls.server_keys();
                (Arc::new(tls) as Arc<dyn Connector>, renewals, server_keys)
            }
            None => (connector, renewals, server_keys),
        };
        let metrics = ChannelMetrics::new(self.target.as_deref().unwrap_or(service.as_str()));
        let health_check = self.health_check.map(|service| {
            HealthCheck::new(&service, authority.clone(), self.connect_timeout, self.backoff.clone())
        });
        let config = SubchannelConfig {
            server_keys,
            dialer: Dialer::new(connector, self.connect_timeout, self.transport),
            renewals,
            health_check,
            backoff: self.backoff,
            max_connections: self.max_connections,
            metrics: metrics.clone(),
        };
        let selection = watch::Sender::new(self.selection);
        let pool = Pool::start(
            self.discovery,
            service.clone(),
            self.policy,
            selection.subscribe(),
            self.outlier_detection,
            self.slow_start,
            config,
        );
        let call = CallConfig {
            authority,
            default_timeout: self.default_timeout,
            inherit_deadline: self.inherit_deadline,
            wait_for_ready: self.wait_for_ready,
            propagation: self.propagation,
            methods,
        };
        Ok(DiscoveryChannel::new(service, call, metrics, selection, pool))
    }

    /// Nothing could be done in no time, or over no connection. Settings with bounds in their docs are clamped there.
    fn check(&self) -> Result<()> {
        self.policy.check().map_err(Error::invalid_argument)?;
        self.selection.check()?;
        if let Some(detection) = &self.outlier_detection {
            detection.check()?;
        }
        if let Some(slow_start) = &self.slow_start {
            slow_start.check()?;
        }
        let is_zero = |duration: Option<Duration>| duration.is_some_and(|duration| duration.is_zero());
        let KeepaliveConfig { interval, timeout, .. } = self.transport.keepalive;
        for (invalid, setting) in [
            (is_zero(self.default_timeout), "default_timeout"),
            (is_zero(Some(self.connect_timeout)), "connect_timeout"),
            (is_zero(Some(self.ready_timeout)), "ready_timeout"),
            (is_zero(interval), "keepalive_interval"),
            (is_zero(Some(timeout)), "keepalive_timeout"),
            (self.max_connections == 0, "max_connections"),
        ] {
            if invalid {
                return Err(Error::invalid_argument(format!("{setting} is zero")));
            }
        }
        Ok(())
    }
}

/// The service's name as an authority, with what is not allowed there replaced.
fn authority_of(service: &str) -> Result<Authority> {
    if let Ok(authority) = service.parse::<Authority>()
        && !service.contains('@')
    {
        return Ok(authority);
    }
    let legal = service.chars().map(|c| match c {
        '/' => '.',
        c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') => c,
        _ => '-',
    });
    let authority = legal.collect::<String>().parse::<Authority>();
    authority.map_err(|error| Error::invalid_setting("the name of the service makes no authority", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_name_makes_an_authority() {
        for (service, expected) in [
            ("greeter", "greeter"),
            ("greeter:80", "greeter:80"),
            ("grpc-demo/grpc/discover-demo", "grpc-demo.grpc.discover-demo"),
            ("a b", "a-b"),
            ("user@host", "user-host"),
            ("a:b:c", "a-b-c"),
            ("100%", "100-"),
            ("例え", "--"),
            ("[", "-"),
        ] {
            assert_eq!(authority_of(service).unwrap().as_str(), expected);
        }
    }
}
