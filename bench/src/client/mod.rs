//! The channels that are compared.

#[cfg(feature = "ginepro")]
mod ginepro;
mod grpc_go;
mod hither;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use hither_tonic::DiscoveryChannel;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::calls::{self, Amount, Call};
use crate::cell::Cell;
use crate::tls::Identity;
use crate::{Result, tls};
use grpc_go::GrpcGo;
pub(crate) use hither::Feature;

/// A channel, by its name on the command line and in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// tonic's channel to the first of the servers.
    Direct,
    /// The same once more, for the noise.
    DirectAgain,
    /// tonic's channel over a list of all servers.
    BalanceList,
    /// ginepro's channel, on an older tonic.
    #[cfg(feature = "ginepro")]
    Ginepro,
    /// hither's channel with its default policy, `LeastRequest`.
    Hither,
    /// hither's channel with the policy `RoundRobin`.
    RoundRobin,
    /// hither's channel with the policy `Sticky`.
    Sticky,
    /// grpc-go's `round_robin`, in a process of its own.
    GrpcGo,
}

/// A connected channel.
#[derive(Debug)]
pub(crate) enum Client {
    Tonic(Channel),
    #[cfg(feature = "ginepro")]
    Ginepro(ginepro::Ginepro),
    Hither(DiscoveryChannel),
    GrpcGo(GrpcGo),
}

/// What a channel is connected with.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) servers: &'a [SocketAddr],
    pub(crate) cell: &'a Cell,
    pub(crate) tls: Option<&'a Identity>,
    /// What hither's channel has beside its defaults.
    pub(crate) features: &'a [Feature],
    /// The program that `bench/go` is compiled to.
    pub(crate) grpc_go: Option<&'a PathBuf>,
}

impl Client {
    /// Connects, and returns when calls can be made; further servers may still be being connected to.
    pub(crate) async fn connect(variant: Variant, setup: &Setup<'_>) -> Result<Self> {
        let servers = setup.servers;
        match variant {
            Variant::Direct | Variant::DirectAgain => {
                let server = servers.first().ok_or("there is no server")?;
                Ok(Self::Tonic(endpoint(server, setup)?.connect().await?))
            }
            Variant::BalanceList => {
                let endpoints =
                    servers.iter().map(|server| endpoint(server, setup)).collect::<Result<Vec<_>>>()?;
                Ok(Self::Tonic(Channel::balance_list(endpoints.into_iter())))
            }
            #[cfg(feature = "ginepro")]
            Variant::Ginepro => Ok(Self::Ginepro(ginepro::Ginepro::connect(setup).await?)),
            Variant::Hither => Ok(Self::Hither(hither::connect(setup, setup.features).await?)),
            Variant::RoundRobin => Ok(Self::Hither(hither::connect(setup, &[Feature::RoundRobin]).await?)),
            Variant::Sticky => Ok(Self::Hither(hither::connect(setup, &[Feature::Sticky]).await?)),
            Variant::GrpcGo => {
                let program = setup.grpc_go.ok_or("grpc-go needs its program: --grpc-go")?;
                GrpcGo::start(program, setup).map(Self::GrpcGo)
            }
        }
    }

    /// Makes calls, and returns how many.
    pub(crate) async fn make(&mut self, call: &Call, callers: u64, amount: Amount) -> Result<u64> {
        match self {
            Self::Tonic(channel) => calls::make(channel, call, callers, amount).await,
            #[cfg(feature = "ginepro")]
            Self::Ginepro(channel) => calls::make(channel, call, callers, amount).await,
            Self::Hither(channel) => calls::make(channel, call, callers, amount).await,
            // It has the call and the callers since it was started.
            Self::GrpcGo(client) => client.make(amount),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "tonic `Channel`",
            Self::DirectAgain => "the same again",
            Self::BalanceList => "`balance_list`",
            #[cfg(feature = "ginepro")]
            Self::Ginepro => "ginepro",
            Self::Hither => "hither `LeastRequest`",
            Self::RoundRobin => "hither `RoundRobin`",
            Self::Sticky => "hither `Sticky`",
            Self::GrpcGo => "grpc-go `round_robin`",
        })
    }
}

fn endpoint(server: &SocketAddr, setup: &Setup<'_>) -> Result<Endpoint> {
    let Some(tls) = setup.tls else { return Ok(Endpoint::from_shared(format!("http://{server}"))?) };
    let authority = Certificate::from_pem(fs::read(tls.certificate())?);
    let config = ClientTlsConfig::new().ca_certificate(authority).domain_name(tls::NAME);
    Ok(Endpoint::from_shared(format!("https://{server}"))?.tls_config(config)?)
}
