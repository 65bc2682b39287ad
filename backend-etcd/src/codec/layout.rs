//! Whose format stands in etcd.

use std::fmt;
use std::str::FromStr;

use hither_core::{Error, ErrorKind, Result};

/// Whose format is written: that of the fleet which a service joins. For
/// [`EtcdConfig::with_layout`](crate::EtcdConfig::with_layout).
///
/// Keys are `<prefix>/<service>/<id>` in all of them, and the prefix is the one that the framework has by default, unless
/// [`with_prefix`](crate::EtcdConfig::with_prefix) names another.
///
/// | | prefix | value |
/// |---|---|---|
/// | `EtcdNaming` | none | `{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}` |
/// | `Kratos`, `KratosTls` | `/microservices` | `{"id":"…","name":"greeter","version":"","metadata":null,"endpoints":["grpc://10.0.0.1:80?isSecure=false"]}` |
/// | `GoZero` | none | `10.0.0.1:80` |
/// | `Kitex` | `kitex/registry-etcd` | `{"network":"tcp","address":"10.0.0.1:80","weight":10,"tags":null}` |
///
/// What is read does not depend on it: a record tells by itself whose it is, so the servers of several frameworks may
/// stand under one prefix, those of go-micro among them. Only bare addresses are read by `GoZero` alone, because
/// anything with a colon in it would be one.
///
/// # What a format has no place for
/// - `Kratos`: zone, state and a weight other than 1 are the metadata `zone`, `state` (`draining`) and `weight`,
///   which its own weighted balancers look at. A Unix socket is an endpoint that its own clients pass over. Whether a
///   server talks TLS is written, and not read: a channel talks it with all of them or with none.
/// - `Kitex`: zone, version and state are the tags `zone`, `version` and `state`, beside the metadata. Weights are kitex's,
///   where 10 is usual: an instance that states none is written, and read, with 10, and so is read a weight of 0, which
///   kitex does not know. Further addresses are left out.
/// - `GoZero`: everything but the address is left out. In a service all of whose servers are go-zero's, the id is what they
///   choose: the number of their lease. A Unix socket cannot be registered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Go's own `naming/endpoints`, and what hither writes by default.
    #[default]
    EtcdNaming,
    /// go-kratos, `contrib/registry/etcd`.
    Kratos,
    /// The same for servers that talk TLS: `grpcs://10.0.0.1:80?isSecure=true`. Kratos's clients that do look for no other.
    KratosTls,
    /// go-zero, `core/discov`.
    GoZero,
    /// kitex, `registry-etcd`.
    Kitex,
}

impl Layout {
    /// The prefix that its framework has by default.
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

/// `etcd`, `kratos`, `kratos-tls`, `go-zero` or `kitex`.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = Error;

    /// Reads what is printed.
    ///
    /// # Errors
    /// `InvalidArgument` for any other name.
    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::EtcdNaming, Self::Kratos, Self::KratosTls, Self::GoZero, Self::Kitex];
        all.into_iter().find(|layout| layout.name() == name).ok_or_else(|| {
            let message = format!("{name:?} is no layout (etcd, kratos, kratos-tls, go-zero or kitex)");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }
}
