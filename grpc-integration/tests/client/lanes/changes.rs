//! Instances that change, and those that are ejected.

use super::*;

/// Over sockets: calls of both lanes go on while instances move between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_change_their_metadata_move_without_a_failed_call_or_a_new_connection() {
    let mut registry = Registry::new();
    let mut servers = Vec::new();
    for lane in ["", "", "canary", "canary"] {
        let server = Server::start().await;
        registry.put(described(&server, lane)).await;
        servers.push(server);
    }
    let channel = DiscoveryChannel::builder(registry.discovery(), SERVICE).policy(lanes()).connect().await;
    let channel = channel.unwrap();
    let client = Client::new(&channel);
    let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (client, is_over, done) = (client.clone(), Arc::clone(&is_over), Arc::clone(&done));
            tokio::spawn(async move {
                let lane = ["", "canary"][caller % 2];
                while !is_over.load(Ordering::SeqCst) {
                    call(&client, "Name", lane).await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..20_usize {
        // One of each lane moves to the other.
        let moving = &servers[round % 2..][..3];
        for (at, lane) in [(0, ["canary", ""]), (2, ["", "canary"])] {
            registry.put(described(&moving[at], lane[round / 2 % 2])).await;
            let (before, done) = (done.load(Ordering::SeqCst), Arc::clone(&done));
            until("calls go on", move || done.load(Ordering::SeqCst) >= before + 50).await;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("no call has failed");
    }
    for server in &servers {
        assert_eq!(server.accepted(), 1, "it was not connected to again");
    }
    // The last ones have moved, and calls go where they are now.
    registry.put(described(&servers[0], "canary")).await;
    for server in &servers[1..] {
        registry.put(described(server, "")).await;
    }
    let home = servers[0].address.clone();
    let mut in_a_row = 0;
    while in_a_row < 100 {
        let tagged = call(&client, "Name", "canary").await.unwrap();
        let untagged = call(&client, "Name", "").await.unwrap();
        in_a_row = if tagged == home && untagged != home { in_a_row + 1 } else { 0 };
    }
}

#[tokio::test(start_paused = true)]
async fn weights_and_slow_start_count_within_a_lane() {
    let mut fleet = Fleet::new(&["a", "c1", "c2"]).await;
    fleet.registry.put(described(&fleet.servers[2], "canary").with_weight(3)).await;
    let lanes = Lanes::by_metadata("lane", || RoundRobin::default().with_seed(1));
    let builder = fleet.channel(lanes).slow_start(SlowStart::new(60 * SECOND));
    let client = fleet.client(builder).await;
    sleep(60 * SECOND).await;
    let shares = |client: Client| async move {
        for _ in 0..400 {
            call(&client, "Name", "canary").await.unwrap();
        }
    };
    shares(client.clone()).await;
    let calls = fleet.calls();
    assert!(calls[0] == 0 && (95..=105).contains(&calls[1]), "{calls:?}");
    let new = Server::on(&fleet.net, "c3:1");
    fleet.registry.put(described(&new, "canary").with_weight(4)).await;
    sleep(SECOND).await;
    shares(client).await;
    // A tenth of its weight, of four and 0.4.
    assert!((26..=46).contains(&new.calls()), "{}", new.calls());
}

/// As with one instance in each lane, of which one restarts.
#[tokio::test(start_paused = true)]
async fn a_lane_whose_instances_are_all_about_to_shut_down_goes_on() {
    let mut fleet = Fleet::new(&["a", "c"]).await;
    let client = fleet.client(fleet.channel(lanes().with_share("canary", 0.5))).await;
    let answers = async |lane: &'static str| {
        let mut answers = BTreeMap::<String, usize>::new();
        for _ in 0..20 {
            *answers.entry(call(&client, "Name", lane).await.unwrap()).or_default() += 1;
        }
        answers.into_keys().collect::<Vec<_>>()
    };
    let draining = |server: &Server, lane| described(server, lane).with_state(InstanceState::Draining);
    for (number, lane) in [(0, ""), (1, "canary")] {
        fleet.registry.put(draining(&fleet.servers[number], lane)).await;
        sleep(SECOND).await;
        assert_eq!(answers("canary").await, ["c:1"]);
        let of_default = if number == 0 { vec!["a:1", "c:1"] } else { vec!["a:1"] };
        assert_eq!(answers("").await, of_default, "what is drawn goes to none that shuts down");
        // The next one of the lane is ready.
        let name = if lane.is_empty() { "b" } else { "d" };
        let next = Server::on(&fleet.net, &format!("{name}:1"));
        fleet.registry.put(described(&next, lane)).await;
        sleep(SECOND).await;
        let calls = fleet.servers[number].calls();
        assert!(answers(lane).await.contains(&next.address));
        assert_eq!(fleet.servers[number].calls(), calls);
        // It has changed its mind.
        fleet.registry.put(described(&fleet.servers[number], lane)).await;
        fleet.registry.leave(&next.address).await;
        sleep(SECOND).await;
        assert!(answers(lane).await.contains(&fleet.servers[number].address));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_shuts_down_when_the_channel_is_made_is_not_connected_to() {
    let mut fleet = Fleet::new(&["a", "c"]).await;
    let draining = described(&fleet.servers[1], "canary").with_state(InstanceState::Draining);
    fleet.registry.put(draining).await;
    let client = fleet.client(fleet.channel(lanes())).await;
    assert_eq!(call(&client, "Name", "canary").await.unwrap(), "a:1");
    assert_eq!(fleet.servers[1].accepted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_is_ejected_leaves_its_calls_to_the_default_lane_also_when_it_shuts_down() {
    let mut registry = Registry::new();
    let net = Net::new();
    let mut servers = Vec::new();
    for name in ["a1", "a2", "a3", "a4", "a5", "c"] {
        let server = Server::on(&net, &format!("{name}:1"));
        registry.put(described(&server, if name == "c" { "canary" } else { "" })).await;
        servers.push(server);
    }
    let detection = OutlierDetection::default();
    let builder = channel(&registry, &net).policy(lanes()).outlier_detection(detection);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    for _ in 0..100 {
        call(&client, "Name", "").await.unwrap();
    }
    let mut failed = 0;
    while call(&client, "Fail", "canary").await.is_err() && servers[5].calls() > failed {
        failed = servers[5].calls();
        assert!(failed < 100, "it is not ejected");
        // As ejections are made by the channel's task.
        sleep(Duration::from_millis(10)).await;
        call(&client, "Name", "").await.unwrap();
    }
    for state in [InstanceState::Up, InstanceState::Draining] {
        registry.put(described(&servers[5], "canary").with_state(state)).await;
        sleep(SECOND).await;
        for _ in 0..10 {
            assert!(call(&client, "Name", "canary").await.unwrap().starts_with('a'));
            assert!(call(&client, "Name", "").await.unwrap().starts_with('a'));
        }
    }
}
