//! How instances stand in etcd: the keys and values of Go's `naming/endpoints`.
//!
//! Everything that knows the layout is here and below; another layout would be another [`Format`].

mod decode;
mod encode;
#[cfg(test)]
mod properties;

use std::borrow::Cow;
use std::fmt;

use hither_core::{Instance, InstanceId, ServiceName};

pub(crate) use decode::address_text;
pub(crate) use encode::encode;

/// Key `<prefix><service>/<id>`, value `{"Op":0,"Addr":"…","Metadata":null}`.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    prefix: String,
    nested_ids: bool,
}

/// Why a record is no instance. Not an error: the record is skipped, counted and logged once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undecodable(Cow<'static, str>);

impl Undecodable {
    fn new(why: impl Into<Cow<'static, str>>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one key and value mean to one service.
#[derive(Debug, PartialEq)]
pub(crate) enum Reading {
    /// An instance of the service.
    Instance(Box<Instance>),
    /// A record of some deeper service.
    Elsewhere,
    /// A record that nobody can use.
    Undecodable(Undecodable),
}

impl Format {
    pub(crate) fn new(prefix: &str, nested_ids: bool) -> Self {
        let mut prefix = prefix.to_owned();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Self { prefix, nested_ids }
    }

    /// The key of one instance.
    pub(crate) fn key(&self, service: &ServiceName, id: &InstanceId) -> String {
        format!("{}{service}/{id}", self.prefix)
    }

    /// What every key of a service begins with; the slash keeps `svc2` out of `svc`.
    pub(crate) fn service_prefix(&self, service: &ServiceName) -> String {
        format!("{}{service}/", self.prefix)
    }

    /// What every key of this layout begins with: nothing, by default.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Reads a record whose key is the service's prefix and then `suffix`.
    pub(crate) fn read(&self, suffix: &[u8], value: &[u8]) -> Reading {
        let Ok(suffix) = std::str::from_utf8(suffix) else {
            return Reading::Undecodable(Undecodable::new("the key is not UTF-8"));
        };
        let record = decode::record(value);
        // `svc/a/b` may be instance `b` of service `svc/a`, or an instance of `svc` whose id is its address
        // (grpc-proxy registers URLs, others Unix sockets). Only the address can tell.
        if suffix.contains('/') && !self.nested_ids {
            match &record {
                Ok(record) if record.address == suffix => {}
                _ => return Reading::Elsewhere,
            }
        }
        let instance = record.and_then(|record| {
            let id =
                InstanceId::nested(suffix).map_err(|error| Undecodable::new(error.message().to_owned()))?;
            record.into_instance(id)
        });
        match instance {
            Ok(instance) => Reading::Instance(Box::new(instance)),
            Err(why) => Reading::Undecodable(why),
        }
    }

    /// The service that the record under `key` belongs to, if it is an instance of any.
    pub(crate) fn service_of(&self, key: &[u8], value: &[u8]) -> Option<ServiceName> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let record = decode::record(value).ok()?;
        let service = match path.strip_suffix(&record.address).and_then(|rest| rest.strip_suffix('/')) {
            Some(service) => service,
            None => path.rsplit_once('/')?.0,
        };
        let suffix = path.get(service.len() + 1..)?;
        match self.read(suffix.as_bytes(), value) {
            Reading::Instance(_) => ServiceName::new(service).ok(),
            Reading::Elsewhere | Reading::Undecodable(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(address: &str) -> Vec<u8> {
        format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#).into_bytes()
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let service: ServiceName = "a/b".parse().unwrap();
        assert_eq!(Format::new("", false).service_prefix(&service), "a/b/");
        assert_eq!(Format::new("prod", false).service_prefix(&service), "prod/a/b/");
        assert_eq!(Format::new("/prod/", false).service_prefix(&service), "/prod/a/b/");
    }

    #[test]
    fn a_suffix_with_a_slash_belongs_to_the_service_only_if_it_is_the_address() {
        let format = Format::new("", false);
        let address = "unix:///run/a.sock";
        assert!(matches!(format.read(address.as_bytes(), &value(address)), Reading::Instance(_)));
        assert_eq!(format.read(b"deeper/10.0.0.1:80", &value("10.0.0.1:80")), Reading::Elsewhere);
        assert_eq!(format.read(b"deeper/x", b"no json"), Reading::Elsewhere, "the deeper service counts it");

        let go = Format::new("", true);
        let Reading::Instance(instance) = go.read(b"deeper/10.0.0.1:80", &value("10.0.0.1:80")) else {
            panic!("Go lists deeper keys too");
        };
        assert_eq!(instance.id().as_str(), "deeper/10.0.0.1:80");
    }

    #[test]
    fn an_empty_or_broken_id_is_undecodable() {
        let format = Format::new("", false);
        for suffix in [&b""[..], b"a\nb", b"\xff"] {
            assert!(matches!(format.read(suffix, &value("h:1")), Reading::Undecodable(_)), "{suffix:?}");
        }
    }

    #[test]
    fn the_service_of_a_key_is_what_stands_before_the_id() {
        let format = Format::new("p/", false);
        let service = |key: &str, address: &str| format.service_of(key.as_bytes(), &value(address));
        assert_eq!(service("p/a/b/10.0.0.1:80", "10.0.0.1:80"), Some("a/b".parse().unwrap()));
        assert_eq!(service("p/a/id-1", "10.0.0.1:80"), Some("a".parse().unwrap()));
        assert_eq!(service("p/a/unix:///run/a.sock", "unix:///run/a.sock"), Some("a".parse().unwrap()));
        assert_eq!(service("p/a", "10.0.0.1:80"), None, "no service");
        assert_eq!(service("q/a/b", "10.0.0.1:80"), None, "another prefix");
        assert_eq!(format.service_of(b"p/a/b", b"{}"), None, "no instance");
    }
}
