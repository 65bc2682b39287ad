//! Which lane a call goes to.

use super::*;

#[tokio::test(start_paused = true)]
async fn tagged_calls_go_to_their_lane_and_untagged_ones_never_to_a_canary() {
    let fleet = Fleet::new(&["a", "b", "c1", "c2"]).await;
    let client = fleet.client(fleet.channel(lanes())).await;
    for _ in 0..50 {
        call(&client, "Name", "").await.unwrap();
    }
    let calls = fleet.calls();
    assert!(calls[..2].iter().sum::<usize>() == 50 && calls[2..] == [0, 0], "{calls:?}");
    let by_header = || {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-lane", "canary".parse().unwrap());
        request
    };
    for _ in 0..25 {
        assert!(call(&client, "Name", "canary").await.unwrap().starts_with('c'));
        assert!(client.call("Name", by_header()).await.unwrap().into_inner().starts_with('c'));
        assert!(!call(&client, "Name", "unknown").await.unwrap().starts_with('c'));
    }
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_can_choose_the_lane() {
    let fleet = Fleet::new(&["a", "c"]).await;
    let channel = fleet.channel(lanes()).connect().await.unwrap();
    sleep(SECOND).await;
    let tag = |mut request: Request<()>| {
        request.extensions_mut().insert(Lane::new("canary"));
        Ok(request)
    };
    let mut grpc = tonic::client::Grpc::new(InterceptedService::new(channel, tag));
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    let answer = grpc.unary(Request::new(String::new()), path("Name"), codec).await.unwrap();
    assert_eq!(answer.into_inner(), "c:1");
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_untagged_calls_goes_to_the_canary() {
    let fleet = Fleet::new(&["a", "b", "c"]).await;
    let lanes = lanes().with_share("canary", 0.05).with_seed(1);
    let client = fleet.client(fleet.channel(lanes)).await;
    for _ in 0..2000 {
        call(&client, "Name", "").await.unwrap();
    }
    let calls = fleet.calls();
    // Five standard deviations.
    assert!((52..=148).contains(&calls[2]), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lane_without_instances_fails_its_calls_or_queues_them_if_it_is_set_so() {
    let mut fleet = Fleet::new(&["a"]).await;
    let client = fleet.client(fleet.channel(lanes().with_fallback(LaneFallback::Fail))).await;
    let status = call(&client, "Name", "canary").await.unwrap_err();
    let text = "no instance of the lane \"canary\" is ready";
    assert_eq!((status.code(), status.message()), (Code::Unavailable, text));
    call(&client, "Name", "").await.unwrap();
    let mut request = to("canary");
    request.extensions_mut().insert(WaitForReady(true));
    let waiting = tokio::spawn(async move { client.call("Name", request).await });
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    let canary = Server::on(&fleet.net, "c:1");
    fleet.registry.put(described(&canary, "canary")).await;
    assert_eq!(waiting.await.unwrap().unwrap().into_inner(), "c:1");
}

#[tokio::test(start_paused = true)]
async fn retries_and_hedges_go_to_other_instances_of_the_lane() {
    let fleet = Fleet::new(&["a", "b", "c1", "c2", "c3"]).await;
    let retry = RetryPolicy::default().with_max_attempts(3).with_codes([Code::Unavailable]);
    let hedging = HedgingPolicy::after(SECOND).with_max_attempts(5);
    let builder = fleet
        .channel(lanes())
        .method("test.Echo/Fail", MethodConfig::default().with_retry(retry))
        .method("test.Echo/Slow", MethodConfig::default().with_hedging(hedging))
        .retry_budget(RetryBudget::default().with_ratio(5.0));
    let client = fleet.client(builder).await;
    call(&client, "Fail", "canary").await.unwrap_err();
    assert_eq!(fleet.calls(), [0, 0, 1, 1, 1]);
    for server in &fleet.servers {
        server.set_delay(60_000);
    }
    assert!(call(&client, "Slow", "canary").await.unwrap().starts_with('c'));
    // There is no fourth.
    assert_eq!(fleet.calls(), [0, 0, 2, 2, 2]);
    // And with one instance a retry goes to it again.
    let fleet = Fleet::new(&["a", "b", "c"]).await;
    let retry = RetryPolicy::default().with_max_attempts(3).with_codes([Code::Unavailable]);
    let config = MethodConfig::default().with_retry(retry);
    let budget = RetryBudget::default().with_ratio(5.0);
    let client = fleet.client(fleet.channel(lanes()).method("", config).retry_budget(budget)).await;
    call(&client, "Fail", "canary").await.unwrap_err();
    assert_eq!(fleet.calls(), [0, 0, 3]);
}

#[tokio::test]
async fn a_share_above_one_is_an_error() {
    let builder = channel(&Registry::new(), &Net::new()).policy(lanes().with_share("canary", 5.0));
    let error = builder.connect_lazy().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let text = "the share of lane \"canary\" is 5, which is not between 0 and 1";
    assert_eq!(error.to_string(), text);
}
