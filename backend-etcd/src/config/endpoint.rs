//! Validation of endpoints.

use std::borrow::Cow;

use hither_core::{Address, AddressKind, Result};

use super::invalid;

/// Returns `host:port` if `endpoint` is valid and agrees with whether TLS is configured.
pub(super) fn checked(endpoint: &str, is_secure: bool) -> Result<String> {
    if endpoint.contains('@') {
        return Err(invalid("an etcd endpoint contains an @: set the user apart (`with_user`)"));
    }
    let (secure, host) = scheme_and_host(endpoint);
    let Some(address) = address(host) else {
        let shown = shown(endpoint);
        let mut error = invalid(format!("{shown:?} is not an etcd endpoint (expected host:port)"));
        if shown == endpoint
            && let Err(why) = host.parse::<Address>()
        {
            error = error.with_source(why);
        }
        return Err(error);
    };
    if secure.is_some_and(|secure| secure != is_secure) {
        let hint = if is_secure { "TLS is configured" } else { "no TLS is configured (`with_tls`)" };
        return Err(invalid(format!("etcd endpoint {endpoint:?} contradicts the settings: {hint}")));
    }
    Ok(address)
}

/// Whether the endpoint asks for TLS, if it has a scheme, and the rest.
fn scheme_and_host(endpoint: &str) -> (Option<bool>, &str) {
    match endpoint.split_once("://") {
        Some(("https", host)) => (Some(true), host),
        Some(("http", host)) => (Some(false), host),
        _ => (None, endpoint),
    }
}

/// Returns `host:port` if `host` is that.
fn address(host: &str) -> Option<String> {
    let address: Address = host.trim_end_matches('/').parse().ok()?;
    let can_be_called = match address.kind() {
        AddressKind::Socket(_) => true,
        AddressKind::Host { host, .. } => is_name(host),
        _ => false,
    };
    can_be_called.then(|| address.to_string())
}

/// An endpoint as it may be printed. An invalid one may have a password in it, which may also be a number: `user:123456`
/// without a host. An IPv6 address has none, nor has an endpoint that is valid but for white space around it.
pub(super) fn shown(endpoint: &str) -> Cow<'_, str> {
    let host = scheme_and_host(endpoint).1;
    let is_ipv6 = host.contains("::") && host.chars().all(|c| c.is_ascii_hexdigit() || "[]:.".contains(c));
    match (address(host), host.find([':', '@', '%'])) {
        (None, Some(end)) if !is_ipv6 && address(host.trim()).is_none() => {
            Cow::Owned(format!("{}…", &endpoint[..endpoint.len() - host.len() + end]))
        }
        _ => Cow::Borrowed(endpoint),
    }
}

/// Whether it can be the name of a host. Anything else the client would refuse only when connecting.
fn is_name(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
