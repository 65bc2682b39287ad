//! gRPC's test service on tonic.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use hither::memory::MemoryRegistry;
use hither::tonic::{Lifecycle, LifecycleBuilder};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use super::testing::test_service_server::{TestService, TestServiceServer};
use super::testing::{
    EchoStatus, Empty, Payload, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
    StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use crate::port::Port;

pub(super) const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
pub(super) const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";
/// Milliseconds before the answer to `EmptyCall`.
pub(super) const DELAY: &str = "x-delay";
/// `StreamingInputCall` fails at once, before any message has come.
pub(super) const REFUSE: &str = "x-refuse";

/// A server of `Lifecycle`, which is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: String,
    served: JoinHandle<()>,
    /// Reserves the port once it is killed.
    port: Option<Port>,
}

impl Upstream {
    pub(super) async fn start() -> Self {
        Self::built(|builder| builder).await
    }

    /// A server that is as `describe` has it.
    pub(super) async fn built(describe: impl FnOnce(LifecycleBuilder) -> LifecycleBuilder) -> Self {
        Self::at(Port::new(), describe).await
    }

    pub(super) async fn at(port: Port, describe: impl FnOnce(LifecycleBuilder) -> LifecycleBuilder) -> Self {
        let builder = describe(Lifecycle::builder(MemoryRegistry::new()).service("testing"));
        let lifecycle = builder.bind(port.endpoint()).await.unwrap();
        let address = port.endpoint();
        let served = tokio::spawn(async move {
            let serve = lifecycle.serve(|incoming, shutdown| {
                let router = Server::builder().add_service(TestServiceServer::new(Service));
                Ok(router.serve_with_incoming_shutdown(incoming, shutdown))
            });
            serve.await.unwrap();
        });
        Self { address, served, port: Some(port) }
    }

    /// Ends it with all its connections. Once this has returned it answers nothing any more, nor does anything else while its
    /// port is kept.
    pub(super) async fn kill(mut self) -> Port {
        self.served.abort();
        let ended = (&mut self.served).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it had ended before");
        self.port.take().expect("it is killed once")
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// Returns a request with this metadata.
pub(super) fn with<T: Default>(key: &'static str, value: &str) -> Request<T> {
    let mut request = Request::new(T::default());
    request.metadata_mut().insert(key, MetadataValue::try_from(value).unwrap());
    request
}

#[derive(Debug)]
struct Service;

type Responses = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TestService for Service {
    type StreamingOutputCallStream = Responses;
    type FullDuplexCallStream = Responses;

    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        if let Some(delay) = request.metadata().get(DELAY) {
            sleep(Duration::from_millis(delay.to_str().unwrap().parse().unwrap())).await;
        }
        Ok(echoed(request.metadata(), Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        asked_for(message.response_status)?;
        let response = SimpleResponse { payload: Some(payload(message.response_size)) };
        Ok(echoed(&metadata, response))
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Responses>, Status> {
        Ok(Response::new(responses(request.into_inner())))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        if request.metadata().contains_key(REFUSE) {
            return Err(Status::resource_exhausted("no more uploads"));
        }
        let mut messages = request.into_inner();
        let mut size = 0;
        while let Some(message) = messages.message().await? {
            size += message.payload.map_or(0, |payload| payload.body.len());
        }
        let aggregated_payload_size = i32::try_from(size).unwrap();
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size }))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (metadata, _, messages) = request.into_parts();
        let answers = messages.flat_map(|message| match message {
            Ok(message) => responses(message),
            Err(status) => Box::pin(stream::iter([Err(status)])),
        });
        let answers: Responses = Box::pin(answers);
        Ok(echoed(&metadata, answers))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("it is not implemented"))
    }
}

/// Returns the response with the metadata that the request asks for. tonic's services set no trailers of a call that
/// succeeds, so what is asked for there is among the headers.
fn echoed<T>(request: &MetadataMap, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(value) = request.get(ECHO_INITIAL) {
        response.metadata_mut().insert(ECHO_INITIAL, value.clone());
    }
    if let Some(value) = request.get_bin(ECHO_TRAILING) {
        response.metadata_mut().insert_bin(ECHO_TRAILING, value.clone());
    }
    response
}

fn asked_for(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => Err(Status::new(Code::from(status.code), status.message)),
        _ => Ok(()),
    }
}

fn payload(size: i32) -> Payload {
    Payload { body: vec![0; usize::try_from(size).unwrap_or_default()] }
}

fn responses(request: StreamingOutputCallRequest) -> Responses {
    if let Err(status) = asked_for(request.response_status) {
        return Box::pin(stream::iter([Err(status)]));
    }
    Box::pin(stream::iter(request.response_parameters).then(|parameters| async move {
        sleep(Duration::from_micros(u64::try_from(parameters.interval_us).unwrap_or_default())).await;
        Ok(StreamingOutputCallResponse { payload: Some(payload(parameters.size)) })
    }))
}
