//! gRPC's interop test cases, as its interop-test-descriptions.md has them, against grpc-go's server and tonic's.
//!
//! Left out are the cases of Google's credentials (compute_engine_creds, jwt_token_creds, oauth2_auth_token,
//! per_rpc_creds), of load reports (orca) and of a caching proxy (cacheable_unary): a channel has no part in them; and those
//! of compression, which tonic's codec does above the channel for whole calls and never for single messages.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use hither::tonic::DiscoveryChannel;
use tokio::time::timeout;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use super::certificate::{client_tls, server_tls};
use super::load::{exchange, requests, zeros};
use super::peer::Peer;
use super::testing::unimplemented_service_client::UnimplementedServiceClient;
use super::testing::{
    EchoStatus, Empty, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use super::upstream::{ECHO_INITIAL, ECHO_TRAILING, Upstream};
use super::{Client, LONG, builder};

/// Runs each case against both servers, without TLS and with it.
macro_rules! cases {
    ($($case:ident)*) => {
        cases!(on_grpc_go: Peer::go_server(&[]), false; $($case)*);
        cases!(on_grpc_go_over_tls: Peer::go_server_over_tls(), true; $($case)*);
        cases!(on_tonic: Upstream::start(), false; $($case)*);
        cases!(on_tonic_over_tls: Upstream::built(|builder| builder.tls(server_tls())), true; $($case)*);
    };
    ($module:ident: $server:expr, $tls:literal; $($case:ident)*) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let server = $server.await;
                    let builder = builder(&[&server.address]);
                    let builder = if $tls { builder.tls(client_tls()) } else { builder };
                    super::$case(builder.connect().await.unwrap()).await;
                }
            )*
        }
    };
}

cases! {
    empty_unary
    large_unary
    concurrent_large_unary
    client_streaming
    server_streaming
    ping_pong
    empty_stream
    custom_metadata
    status_code_and_message
    special_status_message
    unimplemented_method
    unimplemented_service
    cancel_after_begin
    cancel_after_first_response
    timeout_on_sleeping_server
}

async fn empty_unary(channel: DiscoveryChannel) {
    Client::new(channel).empty_call(Empty {}).await.unwrap();
}

async fn large_unary(channel: DiscoveryChannel) {
    let response = Client::new(channel).unary_call(large()).await.unwrap().into_inner();
    assert_eq!(response.payload.unwrap().body, vec![0; 314_159]);
}

/// gRPC's has 1,000 calls at the same time.
async fn concurrent_large_unary(channel: DiscoveryChannel) {
    let calls = (0..100).map(|_| large_unary(channel.clone()));
    let done = stream::iter(calls).buffer_unordered(100).count();
    assert_eq!(timeout(LONG, done).await.unwrap(), 100);
}

async fn client_streaming(channel: DiscoveryChannel) {
    let messages =
        [27_182, 8, 1828, 45_904].map(|size| StreamingInputCallRequest { payload: Some(zeros(size)) });
    let response = Client::new(channel).streaming_input_call(stream::iter(messages)).await.unwrap();
    assert_eq!(response.into_inner().aggregated_payload_size, 74_922);
}

async fn server_streaming(channel: DiscoveryChannel) {
    let sizes = [31_415, 9, 2653, 58_979];
    let response_parameters = sizes.map(|size| ResponseParameters { size, interval_us: 0 }).to_vec();
    let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
    let messages = Client::new(channel).streaming_output_call(request).await.unwrap().into_inner();
    let received: Vec<_> = messages.map(|message| size(&message.unwrap())).collect().await;
    assert_eq!(received, [31_415, 9, 2653, 58_979]);
}

async fn ping_pong(channel: DiscoveryChannel) {
    let (sender, requests) = requests();
    // grpc-go's server sends its headers with the first response.
    sender.send(exchange(31_415, 27_182)).await.unwrap();
    let mut responses = Client::new(channel).full_duplex_call(requests).await.unwrap().into_inner();
    assert_eq!(size(&responses.message().await.unwrap().unwrap()), 31_415);
    for (asked, sent) in [(9, 8), (2653, 1828), (58_979, 45_904)] {
        sender.send(exchange(asked, sent)).await.unwrap();
        assert_eq!(size(&responses.message().await.unwrap().unwrap()), usize::try_from(asked).unwrap());
    }
    drop(sender);
    assert!(responses.message().await.unwrap().is_none());
}

async fn empty_stream(channel: DiscoveryChannel) {
    let mut responses = Client::new(channel).full_duplex_call(stream::empty()).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().is_none());
}

async fn custom_metadata(channel: DiscoveryChannel) {
    let mut client = Client::new(channel);
    let response = client.unary_call(with_metadata(large())).await.unwrap();
    // tonic's client has the trailers among the metadata.
    is_echoed(response.metadata());

    let request = with_metadata(stream::iter([exchange(314_159, 271_828)]));
    let response = client.full_duplex_call(request).await.unwrap();
    let (mut metadata, mut messages, _) = response.into_parts();
    assert_eq!(size(&messages.message().await.unwrap().unwrap()), 314_159);
    assert!(messages.message().await.unwrap().is_none());
    if let Some(trailers) = messages.trailers().await.unwrap() {
        metadata = [metadata, trailers].into_iter().map(MetadataMap::into_headers).fold(
            MetadataMap::new(),
            |all, one| {
                let mut all = all.into_headers();
                all.extend(one);
                MetadataMap::from_headers(all)
            },
        );
    }
    is_echoed(&metadata);
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(ECHO_INITIAL, MetadataValue::from_static("test_initial_metadata_value"));
    request.metadata_mut().insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(&[0xab; 3]));
    request
}

fn is_echoed(metadata: &MetadataMap) {
    assert_eq!(metadata.get(ECHO_INITIAL).unwrap(), "test_initial_metadata_value");
    assert_eq!(metadata.get_bin(ECHO_TRAILING).unwrap().to_bytes().unwrap()[..], [0xab; 3]);
}

async fn status_code_and_message(channel: DiscoveryChannel) {
    returns_status(channel, Code::Unknown, "test status message").await;
}

async fn special_status_message(channel: DiscoveryChannel) {
    let message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
    returns_status(channel, Code::Unknown, message).await;
}

async fn returns_status(channel: DiscoveryChannel, code: Code, message: &str) {
    let response_status = Some(EchoStatus { code: code.into(), message: message.to_owned() });
    let mut client = Client::new(channel);
    let request = SimpleRequest { response_status: response_status.clone(), ..Default::default() };
    is_status(&client.unary_call(request).await.unwrap_err(), code, message);

    let request = StreamingOutputCallRequest { response_status, ..Default::default() };
    let status = match client.full_duplex_call(stream::iter([request])).await {
        Ok(response) => response.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    is_status(&status, code, message);
}

fn is_status(status: &Status, code: Code, message: &str) {
    assert_eq!((status.code(), status.message()), (code, message));
}

async fn unimplemented_method(channel: DiscoveryChannel) {
    let status = Client::new(channel).unimplemented_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
}

async fn unimplemented_service(channel: DiscoveryChannel) {
    let status = UnimplementedServiceClient::new(channel).unimplemented_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
}

/// A call is cancelled by dropping it, so nothing is left that could have a status: what is left to check is that the
/// channel goes on.
async fn cancel_after_begin(channel: DiscoveryChannel) {
    let mut client = Client::new(channel.clone());
    let call = client.streaming_input_call(stream::pending());
    assert!(timeout(Duration::from_millis(50), call).await.is_err(), "the call has ended");
    large_unary(channel).await;
}

async fn cancel_after_first_response(channel: DiscoveryChannel) {
    let (sender, requests) = requests();
    sender.send(exchange(31_415, 27_182)).await.unwrap();
    let mut responses = Client::new(channel.clone()).full_duplex_call(requests).await.unwrap().into_inner();
    assert_eq!(size(&responses.message().await.unwrap().unwrap()), 31_415);
    drop(responses);
    timeout(LONG, sender.closed()).await.expect("the request stream is dropped with the call");
    large_unary(channel).await;
}

async fn timeout_on_sleeping_server(channel: DiscoveryChannel) {
    let (sender, requests) = requests();
    let mut request = Request::new(requests);
    request.set_timeout(Duration::from_millis(1));
    sender
        .send(StreamingOutputCallRequest { payload: Some(zeros(27_182)), ..Default::default() })
        .await
        .unwrap();
    let status = match Client::new(channel).full_duplex_call(request).await {
        Ok(response) => response.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

fn large() -> SimpleRequest {
    SimpleRequest { response_size: 314_159, payload: Some(zeros(271_828)), ..Default::default() }
}

fn size(response: &StreamingOutputCallResponse) -> usize {
    response.payload.as_ref().map_or(0, |payload| payload.body.len())
}
