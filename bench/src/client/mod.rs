//! The channels that are compared.

use std::net::SocketAddr;

use clap::ValueEnum;
use hither_core::{Discovery, StaticRegistry};
use hither_tonic::{DiscoveryChannel, LeastRequest, LoadBalancingPolicy, RoundRobin, Sticky};
use tonic::transport::{Channel, Endpoint};

use crate::Result;
use crate::calls::{self, Call};

/// A channel, by its name on the command line and in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// tonic's channel to the first of the servers.
    Direct,
    /// tonic's channel over a list of all servers.
    BalanceList,
    /// hither's channel with its default policy, `LeastRequest`.
    Hither,
    /// hither's channel with the policy `RoundRobin`.
    RoundRobin,
    /// hither's channel with the policy `Sticky`.
    Sticky,
}

/// A connected channel.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    Tonic(Channel),
    Hither(DiscoveryChannel),
}

impl Client {
    /// Connects to the servers, and returns when calls reach all of them.
    pub(crate) async fn connect(variant: Variant, servers: &[SocketAddr]) -> Result<Self> {
        match variant {
            Variant::Direct => {
                let server = servers.first().ok_or("there is no server")?;
                Ok(Self::Tonic(endpoint(*server)?.connect().await?))
            }
            Variant::BalanceList => {
                let endpoints = servers.iter().map(|server| endpoint(*server)).collect::<Result<Vec<_>>>()?;
                Ok(Self::Tonic(Channel::balance_list(endpoints.into_iter())))
            }
            Variant::Hither => hither(servers, LeastRequest::default()).await,
            Variant::RoundRobin => hither(servers, RoundRobin::default()).await,
            Variant::Sticky => hither(servers, Sticky::default()).await,
        }
    }

    /// Makes `calls` calls, divided among `callers`.
    pub(crate) async fn make(&self, call: &Call, callers: u64, calls: u64) -> Result<()> {
        match self {
            Self::Tonic(channel) => calls::make(channel, call, callers, calls).await,
            Self::Hither(channel) => calls::make(channel, call, callers, calls).await,
        }
    }
}

fn endpoint(server: SocketAddr) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{server}"))?)
}

async fn hither(servers: &[SocketAddr], policy: impl LoadBalancingPolicy) -> Result<Client> {
    let addresses: Vec<_> = servers.iter().map(SocketAddr::to_string).collect();
    let discovery = Discovery::new(StaticRegistry::parse(&addresses.join(","))?);
    let channel = DiscoveryChannel::builder(&discovery, "bench").policy(policy).connect().await?;
    Ok(Client::Hither(channel))
}
