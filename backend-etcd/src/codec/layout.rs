//! The formats of records.

use std::fmt;
use std::str::FromStr;

use hither_core::{Error, ErrorKind, Result};

/// The format in which records are written: that of the fleet that a service joins. For
/// [`EtcdConfig::with_layout`](crate::EtcdConfig::with_layout).
///
/// Keys are `<prefix>/<service>/<id>` in all of them. The prefix is the default of the framework, unless
/// [`with_prefix`](crate::EtcdConfig::with_prefix) sets another.
///
/// | | prefix | value |
/// |---|---|---|
/// | `EtcdNaming` | none | `{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}` |
/// | `Kratos`, `KratosTls` | `/microservices` | `{"id":"…","name":"greeter","version":"","metadata":null,"endpoints":["grpc://10.0.0.1:80?isSecure=false"]}` |
/// | `GoZero` | none | `10.0.0.1:80` |
/// | `Kitex` | `kitex/registry-etcd` | `{"network":"tcp","address":"10.0.0.1:80","weight":10,"tags":null}` |
///
/// Reading does not depend on it: the format of a record is detected, so one prefix may have servers of several frameworks,
/// including go-micro. Only bare addresses are read by `GoZero` alone, because any text with a colon would be one.
///
/// # Fields that a format does not have
/// - `Kratos`: zone, state and a weight other than 1 are the metadata `zone`, `state` (`draining`) and `weight`,
///   which its own weighted balancers look at. A Unix socket is an endpoint that its own clients skip. Whether a
///   server uses TLS is written, and not read: a channel uses TLS for all of them or for none.
/// - `Kitex`: zone, version and state are the tags `zone`, `version` and `state`, beside the metadata. Weights are those of
///   kitex, whose default is 10: an instance without a weight is written and read with 10, and a weight of 0, which kitex
///   does not have, is read as 10. Further addresses are left out.
/// - `GoZero`: everything but the address is left out. The id of a go-zero server is the
///   number of its lease. A Unix socket cannot be registered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Go's own `naming/endpoints`. The default.
    #[default]
    EtcdNaming,
    /// go-kratos, `contrib/registry/etcd`.
    Kratos,
    /// The same for servers with TLS: `grpcs://10.0.0.1:80?isSecure=true`. Kratos clients with TLS look for no other.
    KratosTls,
    /// go-zero, `core/discov`.
    GoZero,
    /// kitex, `registry-etcd`.
    Kitex,
}

impl Layout {
    /// The default prefix of its framework.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::EtcdNaming | Self::GoZero => "",
            Self::Kratos | Self::KratosTls => "/microservices",
            Self::Kitex => "kitex/registry-etcd",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::EtcdNaming => "etcd",
            Self::Kratos => "kratos",
            Self::KratosTls => "kratos-tls",
            Self::GoZero => "go-zero",
            Self::Kitex => "kitex",
        }
    }
}

/// Prints `etcd`, `kratos`, `kratos-tls`, `go-zero` or `kitex`.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = Error;

    /// Parses what [`Display`](fmt::Display) prints.
    ///
    /// # Errors
    /// `InvalidArgument` for any other name.
    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::EtcdNaming, Self::Kratos, Self::KratosTls, Self::GoZero, Self::Kitex];
        all.into_iter().find(|layout| layout.name() == name).ok_or_else(|| {
            let message =
                format!("layout {name:?} is not known (expected etcd, kratos, kratos-tls, go-zero or kitex)");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }
}
