//! The head of a call's request, for each of its attempts.

use http::header::USER_AGENT;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use tonic::Status;

use super::config::{CallConfig, CalledInstance, WaitForReady};
use super::deadline::Deadline;
use crate::client::transport::Connection;

/// The head of a request.
#[derive(Debug)]
pub(super) struct Head {
    method: Method,
    uri: Uri,
    /// Empty while an attempt has them.
    headers: HeaderMap,
    kept: KeptHeaders,
    pub(super) wait_for_ready: bool,
    pub(super) called: Option<CalledInstance>,
}

impl Head {
    pub(super) fn of(parts: Parts, config: &CallConfig) -> Self {
        let extensions = &parts.extensions;
        let wait_for_ready = extensions.get().map_or(config.wait_for_ready, |WaitForReady(wait)| *wait);
        let called = extensions.get().cloned();
        let kept = KeptHeaders::of(&parts.headers);
        let Parts { method, uri, headers, .. } = parts;
        Self { method, uri, headers, kept, wait_for_ready, called }
    }

    pub(super) fn path(&self) -> &str {
        self.uri.path()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the head for an attempt on this connection. `late`: the call has waited before.
    pub(super) fn request(
        &mut self,
        config: &CallConfig,
        connection: &Connection,
        deadline: Option<&Deadline>,
        late: bool,
    ) -> Result<Request<()>, Status> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(connection.scheme().clone());
        uri.authority = Some(config.authority.of(connection.address()));
        let path = self.uri.path_and_query().cloned();
        uri.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))?;
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        std::mem::swap(headers, &mut self.headers);
        if !headers.contains_key(USER_AGENT) {
            headers.insert(USER_AGENT, HeaderValue::from_static(THIS));
        }
        if let Some(deadline) = deadline {
            deadline.write(headers, late);
        }
        Ok(request)
    }

    /// Restores the headers for another attempt.
    pub(super) fn restore(&mut self) {
        self.headers = self.kept.restore();
    }
}

const THIS: &str = concat!("hither-tonic/", env!("CARGO_PKG_VERSION"));

/// A copy of headers, to send them again after the server has refused them. The few of nearly every call cost no
/// allocation and no hashing, as a clone of the map would.
#[derive(Debug)]
struct KeptHeaders {
    first: [Option<(HeaderName, HeaderValue)>; 4],
    more: Vec<(HeaderName, HeaderValue)>,
}

impl KeptHeaders {
    fn of(headers: &HeaderMap) -> Self {
        let mut all = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        Self { first: std::array::from_fn(|_| all.next()), more: all.collect() }
    }

    fn restore(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.first.len() + self.more.len());
        for (name, value) in self.first.iter().flatten().chain(&self.more) {
            headers.append(name.clone(), value.clone());
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_headers_are_restored_whole_and_in_order() {
        for count in 0..10 {
            let mut headers = HeaderMap::new();
            for i in 0..count {
                let name = HeaderName::try_from(format!("x-{}", i / 2)).unwrap();
                headers.append(name, HeaderValue::from(i));
            }
            assert_eq!(KeptHeaders::of(&headers).restore(), headers);
        }
    }
}
