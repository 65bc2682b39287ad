//! The spans of calls and attempts, by OpenTelemetry's semantic conventions for gRPC.

use hither_core::{Address, AddressKind, InstanceId};
use tonic::Code;
use tracing::Span;
use tracing::field::Empty;

use crate::code_name::code_name;

/// Returns the span of a call of `path`; `None` if it is of no interest, which costs no more than to look.
pub(super) fn call(service: &str, path: &str) -> Option<Span> {
    let method = path.strip_prefix('/').unwrap_or(path);
    let span = tracing::debug_span!(
        target: "hither_tonic::call",
        "grpc.call",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.type = Empty,
        server.address = service,
    );
    (!span.is_disabled()).then_some(span)
}

/// Returns the span of an attempt to `peer`.
pub(super) fn attempt(call: &Span, path: &str, instance: &InstanceId, peer: &Address) -> Span {
    let method = path.strip_prefix('/').unwrap_or(path);
    let span = tracing::debug_span!(
        target: "hither_tonic::call",
        parent: call,
        "grpc.attempt",
        otel.name = format_args!("Attempt.{method}"),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.type = Empty,
        server.address = Empty,
        server.port = Empty,
        hither.instance.id = instance.as_str(),
    );
    match peer.kind() {
        AddressKind::Socket(address) => {
            span.record("server.address", tracing::field::display(address.ip()));
            span.record("server.port", address.port());
        }
        AddressKind::Host { host, port } => {
            span.record("server.address", host);
            span.record("server.port", port);
        }
        AddressKind::Unix(path) => {
            span.record("server.address", tracing::field::display(path.display()));
        }
        _ => {
            span.record("server.address", tracing::field::display(peer));
        }
    }
    span
}

/// Records the status that a call or an attempt has ended with.
pub(super) fn ended(span: &Span, code: Code) {
    let name = code_name(code);
    span.record("rpc.response.status_code", name);
    if code != Code::Ok {
        span.record("error.type", name);
        span.record("otel.status_code", "ERROR");
    }
}
