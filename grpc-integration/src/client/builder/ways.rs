//! The ways to a builder, and to a channel.

use hither_core::{Address, Discovery, Registries, ServiceName, Target};

use super::ChannelBuilder;
use crate::client::channel::DiscoveryChannel;
use crate::error::{BoxError, Error, Result};

impl DiscoveryChannel {
    /// Returns a builder for a channel to `service`, as `discovery` finds it.
    ///
    /// Make one [`Discovery`] for each registry and give it to every channel, as a reference or a clone: the channels
    /// share one watch per service.
    ///
    /// ```
    /// use hither_core::{Discovery, StaticRegistry};
    /// use hither_tonic::DiscoveryChannel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let registry = StaticRegistry::new([]);
    /// let discovery = Discovery::new(registry);
    /// let reads = DiscoveryChannel::builder(&discovery, "greeter").connect_lazy()?;
    /// let writes = DiscoveryChannel::builder(&discovery, "greeter").connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder<S>(discovery: impl Into<Discovery>, service: S) -> ChannelBuilder
    where
        S: TryInto<ServiceName>,
        S::Error: Into<BoxError>,
    {
        let service = service
            .try_into()
            .map_err(|error| Error::invalid_setting("the name of the service is invalid", error));
        ChannelBuilder::new(discovery.into(), service)
    }

    /// Returns a builder for a channel to a target such as `etcd:///greeter`, whose registry is looked up among
    /// `registries`.
    ///
    /// ```
    /// use hither_core::{Discovery, Registries, StaticRegistry};
    /// use hither_tonic::{DiscoveryChannel, RoundRobin};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let registry = StaticRegistry::new([]);
    /// let registries = Registries::new().with("etcd", Discovery::new(registry));
    /// let channel = DiscoveryChannel::for_target("etcd:///greeter", &registries)?
    ///     .policy(RoundRobin::default())
    ///     .connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for a target that cannot be parsed, or that names a registry which is not among
    /// `registries`.
    pub fn for_target(target: impl AsRef<str>, registries: &Registries) -> Result<ChannelBuilder> {
        let target: Target = target.as_ref().parse()?;
        let (discovery, service) = registries.resolve(&target)?;
        let mut builder = ChannelBuilder::new(discovery, Ok(service));
        builder.listed = address_list(&target);
        builder.target = Some(target.to_string());
        Ok(builder)
    }

    /// Connects to a target such as `etcd:///greeter`: short for [`for_target`](Self::for_target) with all
    /// defaults, and [`connect`](ChannelBuilder::connect).
    ///
    /// ```
    /// use hither_core::Registries;
    /// use hither_tonic::DiscoveryChannel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = DiscoveryChannel::dial("etcd:///greeter", &Registries::new()).await.unwrap_err();
    /// assert!(error.to_string().contains("names a registry that was not added"));
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`for_target`](Self::for_target) and of [`connect`](ChannelBuilder::connect).
    pub async fn dial(target: impl AsRef<str>, registries: &Registries) -> Result<Self> {
        Self::for_target(target, registries)?.connect().await
    }
}

/// The addresses of `static:///host:port,host:port`, which names them and no service.
fn address_list(target: &Target) -> Option<Vec<Address>> {
    let addresses = target.endpoint().split(',').map(|text| text.trim().parse().ok());
    (target.scheme() == "static").then(|| addresses.collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_static_target_of_addresses_is_an_address_list() {
        for (target, expected) in [
            ("static:///10.0.0.1:80,[::1]:81", true),
            ("static:///greeter.internal:80, unix:///run/b", true),
            ("static:///greeter", false),
            ("etcd:///10.0.0.1:80", false),
        ] {
            assert_eq!(address_list(&target.parse().unwrap()).is_some(), expected, "{target}");
        }
    }
}
