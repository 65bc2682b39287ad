//! The settings of methods.

use std::time::Duration;

use hither_tonic::{ErrorKind, HedgingPolicy, MethodConfig, RetryBudget, RetryThrottling, WaitForReady};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{connect, policy, retrying};
use crate::SECOND;
use crate::scripted::{Fleet, Reply, Script};
use crate::support::Client;

#[tokio::test(start_paused = true)]
async fn settings_are_those_of_the_method_and_the_channel_limits_attempts() {
    let fleet = Fleet::of(1, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let many = RetryBudget::default().with_ratio(10.0);
    let builder = || {
        let (policy, three) = (policy().with_max_attempts(9), policy().with_max_attempts(3));
        let (all, service) = (retrying(policy), retrying(three));
        fleet
            .channel()
            .method("", all)
            .method("test.Echo", service)
            .method("test.Echo/Once", MethodConfig::default())
            .retry_budget(many)
    };
    let client = connect(&fleet, builder()).await;
    let attempts = async |client: &Client, path: &'static str| {
        let mut grpc = client.grpc.clone();
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<String, String>::new();
        let outcome = grpc.unary(Request::new(String::new()), path.parse().unwrap(), codec).await;
        let outcome: Result<Response<String>, Status> = outcome;
        outcome.unwrap_err();
        fleet.script.take().len()
    };
    assert_eq!(attempts(&client, "/test.Echo/Name").await, 3);
    assert_eq!(attempts(&client, "/test.Echo/Once").await, 1);
    for (most, expected) in [(1, 1), (2, 2), (100, 3)] {
        let client = connect(&fleet, builder().max_attempts(most)).await;
        assert_eq!(attempts(&client, "/test.Echo/Name").await, expected);
    }
    let all = |most| {
        fleet
            .channel()
            .retry_budget(many)
            .method("", retrying(policy().with_max_attempts(9)))
            .max_attempts(most)
    };
    assert_eq!(attempts(&connect(&fleet, all(5)).await, "/test.Echo/Name").await, 5);
    assert_eq!(attempts(&connect(&fleet, all(100)).await, "/test.Echo/Name").await, 9);
}

#[tokio::test(start_paused = true)]
async fn timeout_and_wait_for_ready_of_a_method_take_the_place_of_the_channels() {
    let fleet = Fleet::of(1, Script::default()).await;
    fleet.script.then(Reply::Silence);
    let patient = MethodConfig::default().with_timeout(3 * SECOND).with_wait_for_ready(true);
    let builder = fleet.channel().default_timeout(SECOND).method("test.Echo/Patient", patient);
    let client = connect(&fleet, builder).await;
    let elapsed = async |method: &str, timeout: Option<Duration>, wait: Option<bool>| {
        let mut request = Request::new(String::new());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        if let Some(wait) = wait {
            request.extensions_mut().insert(WaitForReady(wait));
        }
        let began = Instant::now();
        client.call(method, request).await.unwrap_err();
        began.elapsed().as_secs_f64().round()
    };
    assert_eq!(elapsed("Name", None, None).await, 1.0);
    assert_eq!(elapsed("Patient", None, None).await, 3.0);
    assert_eq!(elapsed("Patient", Some(2 * SECOND), None).await, 2.0);
    assert_eq!(elapsed("Patient", Some(9 * SECOND), None).await, 3.0, "the smaller of the two, as in gRPC");
    fleet.servers.into_iter().for_each(|server| server.kill());
    sleep(SECOND).await;
    assert_eq!(elapsed("Name", None, None).await, 0.0);
    assert_eq!(elapsed("Name", None, Some(true)).await, 1.0);
    assert_eq!(elapsed("Patient", None, None).await, 3.0);
    assert_eq!(elapsed("Patient", None, Some(false)).await, 0.0);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_errors_that_name_them() {
    let fleet = Fleet::of(1, Script::default()).await;
    let hedging = HedgingPolicy::after(Duration::ZERO);
    for (builder, expected) in [
        (
            fleet.channel().method("a.S/M", retrying(policy()).with_hedging(hedging)),
            "method \"a.S/M\": it has both a retry policy and a hedging policy",
        ),
        (
            fleet.channel().method("/a.S/M", retrying(policy())),
            "method \"/a.S/M\": write package.Service/Method, package.Service, or nothing for all methods",
        ),
        (fleet.channel().max_attempts(0), "max_attempts is zero"),
        (
            fleet.channel().retry_budget(RetryBudget::default().with_ratio(-1.0)),
            "ratio of retry_budget is -1, not 0 to 1000",
        ),
        (
            fleet.channel().retry_throttling(RetryThrottling::new(0, 0.1)),
            "max_tokens of retry_throttling is 0, not 1 to 1000",
        ),
    ] {
        let error = builder.connect_lazy().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidArgument, expected));
    }
}
