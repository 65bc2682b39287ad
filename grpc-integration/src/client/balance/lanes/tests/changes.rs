//! What changes of the instances change.

use futures_util::FutureExt;

use super::*;

#[test]
fn a_change_is_told_to_the_policies_of_its_lanes_alone_and_policies_are_kept() {
    let made = Arc::new(Mutex::new(0));
    let log = Log::default();
    let policy = {
        let (made, log) = (Arc::clone(&made), log.clone());
        move || {
            *made.lock().unwrap() += 1;
            First { log: log.clone(), after: None, due: None }
        }
    };
    let mut lanes = Lanes::by_metadata("lane", policy);
    let mut all = instances(&[("", 1), ("a", 1), ("a", 1), ("b", 1)]);
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker -000", "picker a-001 a-002", "picker b-003"]);
    lanes.picker(&all);
    assert!(log.take().is_empty());
    // Its weight by slow start.
    all.insert(all[0].with_factor(0.5));
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker -000"]);
    // It moves, and is the last one of its lane.
    let b = all.remove(&"b-003".parse().unwrap()).unwrap();
    let moved = Arc::new((**b.instance()).clone().with_metadata("lane", "a"));
    all.insert(b.described_as(moved));
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker a-001 a-002 b-003"]);
    assert_eq!(*made.lock().unwrap(), 3);
    assert_eq!(format!("{:?}", lanes.division).matches("First").count(), 2, "that of b is dropped");
}

fn describe(random: &mut fastrand::Rng) -> Arc<Instance> {
    let id = format!("i{:02}", random.u8(..30)).parse().unwrap();
    let description = Instance::new("h:1".parse().unwrap()).with_id(id).with_weight(random.u32(..3));
    Arc::new(match ["", "a", "b", "c"][random.usize(..4)] {
        "" => description,
        lane => description.with_metadata("lane", lane),
    })
}

#[test]
fn random_changes_end_as_if_all_were_divided_anew() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut lanes, _) = lanes();
        let (mut ready, mut draining) = (SortedById::<ReadyInstance>::new(), SortedById::new());
        for _ in 0..100 {
            for _ in 0..random.usize(1..6) {
                let mut take = |id: &_| ready.remove(id).or_else(|| draining.remove(id));
                let description = describe(&mut random);
                let known = take(description.id());
                let changed = match (known, random.u8(..5)) {
                    (Some(_), 0) => [None, None],
                    (Some(known), 1) => [Some(known.with_factor(random.f64())), None],
                    // It has the id of another one now, and that one its own.
                    (Some(known), 2) => {
                        let other = describe(&mut random);
                        let replaced = take(other.id()).map(|other| other.described_as(description));
                        [Some(known.described_as(other)), replaced]
                    }
                    (Some(known), _) => [Some(known.described_as(description)), None],
                    (None, _) => [Some(ReadyInstance::new(description)), None],
                };
                for instance in changed.into_iter().flatten() {
                    let list = if random.u8(..3) == 0 { &mut ready } else { &mut draining };
                    list.insert(instance);
                }
            }
            lanes.others(&Others::new(SortedById::new(), draining.clone()));
            lanes.division.update(&ready, &lanes.choice.default);
            let pickers = lanes.division.pickers();
            let of = |instance: &ReadyInstance| {
                instance.instance().metadata().get("lane").map_or("", String::as_str).to_owned()
            };
            let lanes_of = |list: &SortedById<ReadyInstance>| list.iter().map(of).collect::<BTreeSet<_>>();
            assert!(pickers.keys().map(|name| name.to_string()).eq(&lanes_of(&ready) | &lanes_of(&draining)));
            let mut seen = 0;
            for (name, lane) in &pickers {
                let list = if lane.is_draining { &draining } else { &ready };
                let all = list.iter().filter(|instance| of(instance) == **name);
                assert!(all.eq(lane.group.instances()), "seed {seed}");
                assert_eq!(lane.is_draining, !lanes_of(&ready).contains(&**name));
                for instance in lane.group.instances() {
                    assert!(list.get(instance.id()).unwrap().is_same(instance), "an old description");
                    seen += usize::from(!lane.is_draining);
                }
                let has_weight = lane.group.instances().iter().any(|instance| instance.weight() > 0.0);
                assert_eq!(lane.has_weight, has_weight);
                let _waiting = lane.group.waiters().join().now_or_never().unwrap();
                for instance in ready.iter().chain(&draining) {
                    let is_of_lane = lane.group.instances().iter().any(|known| known == instance);
                    assert_eq!(instance.is_awaited(), is_of_lane, "seed {seed}");
                }
            }
            assert_eq!(seen, ready.len());
            assert!(pickers.values().all(|lane| !lane.group.instances().is_empty()));
            assert!(lanes.division.placed().iter().map(|placed| &placed.instance).eq(&ready));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_policy_is_due_gets_another_picker() {
    let (mut lanes, log) = due(Some(Duration::from_secs(2)));
    let mut all = instances(&[("", 1)]);
    lanes.picker(&all);
    let first = lanes.due().unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    all.insert(ReadyInstance::new(described("a", 1, 1)));
    lanes.picker(&all);
    assert_eq!((lanes.due(), log.take().len()), (Some(first), 2));
    tokio::time::advance(Duration::from_secs(1)).await;
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker -000"]);
    assert_eq!(lanes.due(), Some(first + Duration::from_secs(1)), "that of the other lane");
}

#[test]
fn a_change_of_one_of_many_copies_little() {
    let mut all: SortedById<_> = (1_000..51_000)
        .map(|number| ReadyInstance::new(described(["", "a"][number % 2], number, 1)))
        .collect();
    let (mut lanes, _) = lanes();
    lanes.division.update(&all, &lanes.choice.default);
    let before = lanes.division.pickers();
    let placed = lanes.division.placed().clone();
    all.insert(ReadyInstance::new(described("a", 1_001, 2)));
    lanes.division.update(&all, &lanes.choice.default);
    let after = lanes.division.pickers();
    assert!(after[""].group.instances().is_same(before[""].group.instances()));
    let changed = after["a"].group.instances().merge(before["a"].group.instances()).count();
    assert!(changed <= 600, "{changed}");
    assert!(lanes.division.placed().merge(&placed).count() <= 600);
}

#[test]
fn the_lane_of_an_instance_is_asked_for_once_for_each_description() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let lane = {
        let asked = Arc::clone(&asked);
        move |instance: &Instance| {
            asked.lock().unwrap().push(instance.id().to_string());
            instance.metadata().get("lane").cloned()
        }
    };
    let mut lanes = Lanes::by(lane, || First { log: Log::default(), after: None, due: None });
    let mut all = instances(&[("", 1), ("a", 1)]);
    lanes.picker(&all);
    // Its weight by slow start.
    all.insert(all[1].with_factor(0.5));
    lanes.picker(&all);
    assert_eq!(*asked.lock().unwrap(), ["-000", "a-001"]);
    all.insert(all[1].described_as(described("a", 1, 2)));
    lanes.picker(&all);
    assert_eq!(*asked.lock().unwrap(), ["-000", "a-001", "a-001"]);
}

#[test]
fn an_empty_lane_is_the_default_one() {
    let (lanes, log) = lanes();
    let empty = (*described("", 0, 1)).clone().with_metadata("lane", "");
    let mut all = instances(&[("b", 1)]);
    all.insert(ReadyInstance::new(Arc::new(empty)));
    lanes.with_default_lane("b").picker(&all);
    assert_eq!(log.take(), ["picker -000 b-000"]);
}

/// Otherwise what is freed on it would wake calls that may not go there.
#[tokio::test]
async fn an_instance_is_in_no_group_that_it_has_left() {
    let (mut lanes, _) = lanes();
    let mut all = instances(&[("a", 1), ("a", 1), ("b", 1)]);
    lanes.picker(&all);
    let group = Arc::clone(&lanes.division.pickers()["a"].group);
    let waiting = group.waiters().join().await;
    assert_eq!(all.iter().map(ReadyInstance::is_awaited).collect::<Vec<_>>(), [true, true, false]);
    let moved = (*described("a", 0, 1)).clone().with_metadata("lane", "b");
    all.insert(all[0].described_as(Arc::new(moved)));
    lanes.picker(&all);
    assert_eq!(all.iter().map(ReadyInstance::is_awaited).collect::<Vec<_>>(), [false, true, false]);
    drop(lanes);
    assert_eq!(all.iter().map(ReadyInstance::is_awaited).collect::<Vec<_>>(), [false; 3]);
    drop(waiting);
}

/// Each has two servers, by number, and the numbers of their ids.
#[tokio::test]
async fn servers_whose_ids_change_stay_in_the_group_of_their_lane() {
    type Ids = &'static [(usize, usize)];
    let cases: [[Ids; 4]; 12] = [
        [&[(0, 5)], &[], &[(0, 1)], &[]],
        [&[(0, 1)], &[], &[(0, 5)], &[]],
        [&[(0, 1), (1, 2)], &[], &[(0, 2), (1, 1)], &[]],
        [&[(0, 1), (1, 2)], &[], &[(0, 2)], &[]],
        [&[], &[(0, 5)], &[], &[(0, 1)]],
        [&[], &[(0, 1)], &[], &[(0, 5)]],
        [&[], &[(0, 1), (1, 2)], &[], &[(0, 2), (1, 1)]],
        [&[], &[(0, 5)], &[(0, 1)], &[]],
        [&[], &[(0, 1)], &[(0, 5)], &[]],
        [&[(0, 5)], &[], &[], &[(0, 1)]],
        [&[(0, 1)], &[], &[], &[(0, 5)]],
        [&[], &[(0, 1), (1, 2)], &[(0, 2), (1, 1)], &[]],
    ];
    for [ready, draining, then_ready, then_draining] in cases {
        let (mut lanes, _) = lanes();
        let servers = [0, 1].map(|number| ReadyInstance::new(described("a", number, 1)));
        let with = |ids: Ids| {
            let server =
                |(server, id): &(usize, usize)| servers[*server].described_as(described("a", *id, 1));
            ids.iter().map(server).collect::<SortedById<_>>()
        };
        for (ready, draining) in [(ready, draining), (then_ready, then_draining)] {
            lanes.others(&Others::new(SortedById::new(), with(draining)));
            lanes.division.update(&with(ready), &lanes.choice.default);
        }
        let expected =
            [0, 1].map(|server| then_ready.iter().chain(then_draining).any(|(stays, _)| *stays == server));
        let group = Arc::clone(&lanes.division.pickers()["a"].group);
        let waiting = group.waiters().join().await;
        let are_awaited = || [0, 1].map(|server| servers[server].is_awaited());
        assert_eq!(are_awaited(), expected, "{ready:?} {draining:?} {then_ready:?} {then_draining:?}");
        drop(lanes);
        assert_eq!(are_awaited(), [false, false]);
        drop(waiting);
    }
}
