//! Checking endpoints.

use std::borrow::Cow;

use hither_core::{Address, AddressKind, Result};

use super::invalid;

/// `host:port`, if `endpoint` is that and agrees with `secure`.
pub(super) fn checked(endpoint: &str, is_secure: bool) -> Result<String> {
    if endpoint.contains('@') {
        return Err(invalid("an etcd endpoint has an @ in it: the user is given apart (`with_user`)"));
    }
    let (secure, host) = scheme_and_host(endpoint);
    let Some(address) = address(host) else {
        let shown = shown(endpoint);
        return Err(invalid(format!("{shown:?} is not an etcd endpoint (expected host:port)")));
    };
    if secure.is_some_and(|secure| secure != is_secure) {
        let hint = if is_secure { "and TLS is configured" } else { "and no TLS is configured (`with_tls`)" };
        return Err(invalid(format!("etcd endpoint {endpoint:?} says otherwise {hint}")));
    }
    Ok(address)
}

/// Whether TLS is asked for, if the endpoint says so, and what follows.
fn scheme_and_host(endpoint: &str) -> (Option<bool>, &str) {
    match endpoint.split_once("://") {
        Some(("https", host)) => (Some(true), host),
        Some(("http", host)) => (Some(false), host),
        _ => (None, endpoint),
    }
}

/// `host:port`, if it is that.
fn address(host: &str) -> Option<String> {
    let address: Address = host.trim_end_matches('/').parse().ok()?;
    let can_be_called = match address.kind() {
        AddressKind::Socket(_) => true,
        AddressKind::Host { host, .. } => is_name(host),
        _ => false,
    };
    can_be_called.then(|| address.to_string())
}

/// An endpoint as it may be printed: what is none may have a password in it.
pub(super) fn shown(endpoint: &str) -> Cow<'_, str> {
    let host = scheme_and_host(endpoint).1;
    match (address(host), host.find([':', '@', '%'])) {
        (None, Some(end)) => Cow::Owned(format!("{}…", &endpoint[..endpoint.len() - host.len() + end])),
        _ => Cow::Borrowed(endpoint),
    }
}

/// Whether it can be the name of a host: nothing else may reach the client, who would refuse it only when connecting.
fn is_name(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
