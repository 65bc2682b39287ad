//! Keys and values: by default those of Go's `naming/endpoints`. Everything that depends on a layout is here and below.

mod detect;
mod document;
mod go_micro;
mod go_zero;
mod json;
mod kitex;
mod kratos;
pub(crate) mod layout;
mod naming;
#[cfg(test)]
mod properties;
pub(crate) mod skipped;
mod tags;

use std::borrow::Cow;
use std::fmt;

use hither_core::{AddressKind, Error, ErrorKind, Instance, InstanceId, Result, ServiceName};

use crate::Layout;
use document::Document;

/// Encodes and decodes keys, `<prefix><service>/<id>`, and values, in the format of the layout.
#[derive(Debug, Clone)]
pub(crate) struct Codec {
    layout: Layout,
    prefix: String,
    nested_ids: bool,
}

/// Why a record is not an instance. Not an error: the record is skipped, counted and logged once.
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

/// The meaning of one key and value to one service.
#[derive(Debug, PartialEq)]
pub(crate) enum Reading {
    /// An instance of the service.
    Instance(Box<Instance>),
    /// A record of a deeper service.
    Elsewhere,
    /// A record that cannot be decoded.
    Undecodable(Undecodable),
}

/// A record of another framework.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The service that the record names, if it names one.
    pub(super) service: Option<String>,
    /// Its id is the address, until the key gives another.
    pub(super) instance: Instance,
}

/// A decoded value, of whichever framework.
enum DecodedRecord {
    Naming(naming::GoEndpoint),
    Foreign(Foreign),
}

impl DecodedRecord {
    /// The address text of the value; for another framework, the one that we would write.
    fn address(&self) -> Cow<'_, str> {
        match self {
            Self::Naming(record) => Cow::Borrowed(&record.address),
            Self::Foreign(foreign) => Cow::Owned(foreign.instance.address().to_string()),
        }
    }

    /// The service that the record names, if it names one.
    fn service(&self) -> Option<&str> {
        match self {
            Self::Naming(_) => None,
            Self::Foreign(foreign) => foreign.service.as_deref(),
        }
    }

    fn into_instance(self, id: InstanceId) -> std::result::Result<Instance, Undecodable> {
        match self {
            Self::Naming(record) => record.into_instance(id),
            Self::Foreign(foreign) => Ok(foreign.instance.with_id(id)),
        }
    }
}

impl Codec {
    pub(crate) fn new(layout: Layout, prefix: &str, nested_ids: bool) -> Self {
        let mut prefix = prefix.to_owned();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Self { layout, prefix, nested_ids }
    }

    /// The value of `instance`.
    ///
    /// # Errors
    /// `InvalidArgument` where the layout has no place for its address, `Unexpected` where it cannot be written as JSON.
    pub(crate) fn value(&self, service: &ServiceName, instance: &Instance) -> Result<String> {
        match self.layout {
            Layout::EtcdNaming => naming::encode(instance),
            Layout::Kratos => kratos::encode(service, instance, false),
            Layout::KratosTls => kratos::encode(service, instance, true),
            Layout::Kitex => Ok(kitex::encode(instance)),
            Layout::GoZero => match instance.address().kind() {
                AddressKind::Unix(_) => {
                    let address = instance.address();
                    let message = format!("the layout of go-zero has no place for {address}");
                    Err(Error::new(ErrorKind::InvalidArgument, message))
                }
                _ => Ok(instance.address().to_string()),
            },
        }
    }

    /// The address text of a value, if it can be decoded.
    pub(crate) fn address_text(&self, value: &[u8]) -> Option<String> {
        self.record(value).ok().map(|record| record.address().into_owned())
    }

    /// Decodes a value, of whichever framework it is. It is parsed once.
    fn record(&self, value: &[u8]) -> std::result::Result<DecodedRecord, Undecodable> {
        let why = match Document::parse(value) {
            Ok(document) if document.is_endpoint() => {
                return document.into_endpoint().map(DecodedRecord::Naming);
            }
            Ok(document) => match detect::decode(&document.members) {
                Some(foreign) => return foreign.map(DecodedRecord::Foreign),
                None => return document.into_endpoint().map(DecodedRecord::Naming),
            },
            Err(why) => why,
        };
        match go_zero::decode(value) {
            Some(bare) if self.layout == Layout::GoZero => Ok(DecodedRecord::Foreign(bare)),
            Some(_) => Err(Undecodable::new("the value is a bare address, as go-zero writes it")),
            None => Err(why),
        }
    }

    /// The key of one instance.
    pub(crate) fn key(&self, service: &ServiceName, id: &InstanceId) -> String {
        format!("{}{service}/{id}", self.prefix)
    }

    /// The prefix of every key of a service; the slash keeps `svc2` out of `svc`.
    pub(crate) fn service_prefix(&self, service: &ServiceName) -> String {
        format!("{}{service}/", self.prefix)
    }

    /// The prefix of every key: empty by default.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Decodes a record whose key is the service's prefix and then `suffix`.
    pub(crate) fn read(&self, service: &ServiceName, suffix: &[u8], value: &[u8]) -> Reading {
        match std::str::from_utf8(suffix) {
            Ok(suffix) => self.interpret(service, suffix, self.record(value)),
            Err(_) => Reading::Undecodable(Undecodable::new("the key is not UTF-8")),
        }
    }

    /// What a decoded record means to `service`.
    fn interpret(
        &self,
        service: &ServiceName,
        suffix: &str,
        record: std::result::Result<DecodedRecord, Undecodable>,
    ) -> Reading {
        // If the record names its service, that decides.
        let named = record.as_ref().ok().and_then(DecodedRecord::service);
        if let Some(of) = named.filter(|of| *of != service.as_str()) {
            return match suffix.contains('/') {
                true => Reading::Elsewhere,
                false => {
                    Reading::Undecodable(Undecodable::new(format!("the value names the service {of:?}")))
                }
            };
        }
        // `svc/a/b` may be instance `b` of service `svc/a`, or an instance of `svc` whose id is its address
        // (grpc-proxy registers URLs, others Unix sockets). Only the address
        // decides.
        if suffix.contains('/') && !self.nested_ids && named.is_none() {
            match &record {
                Ok(record) if record.address() == suffix => {}
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
        let record = self.record(value).ok()?;
        let named = record
            .service()
            .filter(|named| path.strip_prefix(named).is_some_and(|rest| rest.starts_with('/')));
        let by_address = path.strip_suffix(&*record.address()).and_then(|rest| rest.strip_suffix('/'));
        let service = match named.or(by_address) {
            Some(service) => service,
            None => path.rsplit_once('/')?.0,
        };
        let suffix = path.get(service.len() + 1..)?;
        let service = ServiceName::new(service).ok()?;
        match self.interpret(&service, suffix, Ok(record)) {
            Reading::Instance(_) => Some(service),
            Reading::Elsewhere | Reading::Undecodable(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svc() -> ServiceName {
        "svc".parse().unwrap()
    }

    fn value(address: &str) -> Vec<u8> {
        format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#).into_bytes()
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let service: ServiceName = "a/b".parse().unwrap();
        assert_eq!(Codec::new(Layout::EtcdNaming, "", false).service_prefix(&service), "a/b/");
        assert_eq!(Codec::new(Layout::EtcdNaming, "prod", false).service_prefix(&service), "prod/a/b/");
        assert_eq!(Codec::new(Layout::EtcdNaming, "/prod/", false).service_prefix(&service), "/prod/a/b/");
    }

    #[test]
    fn a_suffix_with_a_slash_belongs_to_the_service_only_if_it_is_the_address() {
        let codec = Codec::new(Layout::EtcdNaming, "", false);
        let address = "unix:///run/a.sock";
        assert!(matches!(codec.read(&svc(), address.as_bytes(), &value(address)), Reading::Instance(_)));
        assert_eq!(codec.read(&svc(), b"deeper/10.0.0.1:80", &value("10.0.0.1:80")), Reading::Elsewhere);
        assert_eq!(
            codec.read(&svc(), b"deeper/x", b"no json"),
            Reading::Elsewhere,
            "the deeper service counts it"
        );

        let go = Codec::new(Layout::EtcdNaming, "", true);
        let Reading::Instance(instance) = go.read(&svc(), b"deeper/10.0.0.1:80", &value("10.0.0.1:80"))
        else {
            panic!("Go lists deeper keys too");
        };
        assert_eq!(instance.id().as_str(), "deeper/10.0.0.1:80");
    }

    #[test]
    fn an_empty_or_broken_id_is_undecodable() {
        let codec = Codec::new(Layout::EtcdNaming, "", false);
        for suffix in [&b""[..], b"a\nb", b"\xff"] {
            assert!(
                matches!(codec.read(&svc(), suffix, &value("h:1")), Reading::Undecodable(_)),
                "{suffix:?}"
            );
        }
    }

    #[test]
    fn the_service_of_a_key_is_the_part_before_the_id() {
        let codec = Codec::new(Layout::EtcdNaming, "p/", false);
        let service = |key: &str, address: &str| codec.service_of(key.as_bytes(), &value(address));
        assert_eq!(service("p/a/b/10.0.0.1:80", "10.0.0.1:80"), Some("a/b".parse().unwrap()));
        assert_eq!(service("p/a/id-1", "10.0.0.1:80"), Some("a".parse().unwrap()));
        assert_eq!(service("p/a/unix:///run/a.sock", "unix:///run/a.sock"), Some("a".parse().unwrap()));
        assert_eq!(service("p/a", "10.0.0.1:80"), None, "no service");
        assert_eq!(service("q/a/b", "10.0.0.1:80"), None, "another prefix");
        assert_eq!(codec.service_of(b"p/a/b", b"{}"), None, "no instance");
    }
}
