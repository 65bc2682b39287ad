//! Calls that a server has refused or reset: where they go next, and what policies and metrics are told of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use h2::Reason;
use hither_core::{Backoff, SortedById};
use hither_tonic::{
    CallInfo, LoadBalancingPolicy, MethodConfig, Pick, Picker, ReadyInstance, RetryBudget, RetryPolicy,
};
use tokio::time::sleep;
use tonic::{Code, Request};

use crate::scripted::Recorder;
use crate::support::{Client, Net, Registry, Server, peers};
use crate::{SECOND, channel};

/// Always picks the first instance.
#[derive(Debug, Clone)]
struct First(SortedById<ReadyInstance>);

impl LoadBalancingPolicy for First {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(Self(ready.clone()))
    }
}

impl Picker for First {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        Pick::Instance(self.0[0].clone().into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_goes_to_another_instance_though_the_policy_would_not() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    let _server = Server::on(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let builder = channel(&registry, &net).policy(First(SortedById::new()));
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap(), "b:1");
    assert_eq!(refused.load(Ordering::SeqCst), 1);
}

/// The second refusal is an attempt that has failed (gRFC A6).
#[tokio::test(start_paused = true)]
async fn with_a_policy_the_second_refusal_is_a_failed_attempt_and_the_first_is_free() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::refusing(&net, "a:1");
    registry.up("a:1").await;
    let backoff = Backoff::proportional(SECOND / 100, 1.0, SECOND / 100, 0.0);
    let retry = RetryPolicy::default().with_max_attempts(3).with_backoff(backoff);
    for (codes, per_second, expected) in [
        // Two for the first attempt, and one for each of the others.
        ([Code::Unavailable], 10.0, 4),
        ([Code::Unavailable], 0.0, 2),
        // The policy retries no such failure.
        ([Code::Aborted], 10.0, 10),
    ] {
        let recorder = Recorder::default();
        let builder = channel(&registry, &net)
            .policy(recorder.clone())
            .method("", MethodConfig::default().with_retry(retry.clone().with_codes(codes)))
            .retry_budget(RetryBudget::default().with_ratio(0.0).with_min_per_second(per_second));
        let client = Client::new(&builder.connect().await.unwrap());
        assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(refused.swap(0, Ordering::SeqCst), expected);
        assert_eq!(recorder.codes(), vec![Code::Unavailable; expected], "it was sent each time");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_refused_call_may_pass_before_it_is_sent_again() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _refused = peers::refusing(&net, "a:1");
    registry.up("a:1").await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let mut request = Request::new(String::new());
    request.set_timeout(SECOND / 2);
    let status = client.call("Name", request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let expected = "not done within 500ms: it was to be sent again; refused before: the server reset the \
                    stream with REFUSED_STREAM at a:1";
    assert_eq!(status.message(), expected);
}

/// It may have been processed.
#[tokio::test(start_paused = true)]
async fn a_call_whose_stream_was_reset_is_sent_again_by_policy_alone() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let resets = peers::resetting(&net, "a:1", Reason::ENHANCE_YOUR_CALM);
    let _server = Server::on(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let retry = |code| MethodConfig::default().with_retry(RetryPolicy::default().with_codes([code]));
    for (config, is_retried) in [
        (MethodConfig::default(), false),
        (retry(Code::Unavailable), false),
        (retry(Code::ResourceExhausted), true),
    ] {
        let recorder = Recorder::default();
        let builder = channel(&registry, &net).policy(recorder.clone()).method("", config);
        let client = Client::new(&builder.connect().await.unwrap());
        sleep(SECOND).await;
        let mut failed = 0;
        for _ in 0..4 {
            match client.name().await {
                Ok(name) => assert_eq!(name, "b:1"),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    assert!(status.message().ends_with(" at a:1"), "{status:?}");
                    failed += 1;
                }
            }
        }
        let resets = resets.swap(0, Ordering::SeqCst);
        let codes = recorder.codes();
        assert_eq!(codes.iter().filter(|code| **code == Code::ResourceExhausted).count(), resets);
        assert_eq!((resets > 0, failed), (true, if is_retried { 0 } else { resets }));
    }
}
