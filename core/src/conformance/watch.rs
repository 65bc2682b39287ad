//! A watch sends every state, and never goes silent unnoticed.

use std::time::Duration;

use futures_util::future::try_join;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, ensure};
use super::probe::{Probe, cannot, has, ids, instance, is_exactly, registration};

pub(super) async fn a_watch_sends_the_current_state_first(mut probe: Probe) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let _leases = (owner.settle_in(&service, &a).await?, owner.settle_in(&service, &b).await?);
    probe.resolves_to(&service, "both", |snapshot| snapshot.len() == 2).await?;
    let first = probe.watch(&service).await?.next().await?;
    ensure(is_exactly(&first, &[&a, &b]), || format!("the first snapshot has {:?}", ids(&first)))
}

pub(super) async fn a_watch_of_an_unknown_service_sends_an_empty_snapshot(
    mut probe: Probe,
) -> Result<(), Failure> {
    let service = probe.service("unknown")?;
    let first = probe.watch(&service).await?.next().await?;
    ensure(first.is_empty(), || format!("the first snapshot is {first:?}"))
}

pub(super) async fn a_watch_sees_registrations_and_revocations(mut probe: Probe) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let mut watch = probe.watch(&service).await?;
    watch.comes_to("no instance", |snapshot| snapshot.is_empty()).await?;
    let mut first = owner.settle_in(&service, &a).await?;
    watch.comes_to("a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    let _second = owner.settle_in(&service, &b).await?;
    watch.comes_to("a and b", |snapshot| is_exactly(snapshot, &[&a, &b])).await?;
    first.revoke().await?;
    watch.comes_to("b", |snapshot| is_exactly(snapshot, &[&b])).await.map(drop)
}

pub(super) async fn a_watch_sees_an_expiry(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut watch = probe.watch(&service).await?;
    let lease = probe.registrar().await.register(&service, &a).await?;
    watch.comes_to("a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    let limit = probe.expiry(lease.ttl()) + probe.settle();
    drop(lease);
    watch.comes_within(limit, "no instance", |snapshot| snapshot.is_empty()).await.map(drop)
}

pub(super) async fn a_watch_sees_an_update_without_a_gap(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    let mut watch = probe.watch(&service).await?;
    watch.comes_to("a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    let last = a.clone().with_weight(11);
    let update = async {
        for weight in 2..=11 {
            lease.update(&registration(&service, &a.clone().with_weight(weight))?).await?;
        }
        Ok(())
    };
    // Concurrently with the updates: a later look may miss the gap.
    let look = async {
        loop {
            let snapshot = watch.next().await?;
            ensure(snapshot.get(a.id()).is_some(), || "the instance was absent during an update".to_owned())?;
            if has(&snapshot, &last) {
                return Ok(());
            }
        }
    };
    try_join(update, look).await.map(drop)
}

pub(super) async fn a_watch_keeps_sending_changes(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut watch = probe.watch(&service).await?;
    let owner = probe.registrar().await;
    for round in 0..10 {
        let mut lease = owner.settle_in(&service, &a).await?;
        watch.comes_to(&format!("a in round {round}"), |snapshot| is_exactly(snapshot, &[&a])).await?;
        lease.revoke().await?;
        watch.comes_to(&format!("no instance in round {round}"), |snapshot| snapshot.is_empty()).await?;
    }
    // And after a time without changes that is longer than the TTLs behind it.
    sleep(probe.expiry(probe.ttl())).await;
    let _lease = owner.settle_in(&service, &a).await?;
    watch.comes_to("a after a time without changes", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

pub(super) async fn a_watch_sees_only_its_own_service(mut probe: Probe) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let mut watch = probe.watch(&service).await?;
    let owner = probe.registrar().await;
    let mut leases = Vec::new();
    for other in ["svc2", "svc/deeper", "other"] {
        leases.push(owner.settle_in(&probe.service(other)?, &b).await?);
    }
    leases.push(owner.settle_in(&service, &a).await?);
    let snapshot = watch.comes_to("an instance", |snapshot| !snapshot.is_empty()).await?;
    ensure(is_exactly(&snapshot, &[&a]), || format!("the watch of {service} shows {:?}", ids(&snapshot)))
}

pub(super) async fn a_new_watch_sends_everything_that_has_changed_since_the_last_one(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, stays, leaves, joins) =
        (probe.service("svc")?, instance("stays")?, instance("leaves")?, instance("joins")?);
    let owner = probe.registrar().await;
    let mut staying = owner.settle_in(&service, &stays).await?;
    let mut leaving = owner.settle_in(&service, &leaves).await?;
    let mut watch = probe.watch(&service).await?;
    watch.comes_to("both", |snapshot| snapshot.len() == 2).await?;
    drop(watch);
    leaving.revoke().await?;
    let _joining = owner.settle_in(&service, &joins).await?;
    let changed = stays.clone().with_weight(5);
    staying.update(&registration(&service, &changed)?).await?;
    probe.resolves_to(&service, "the changes", |snapshot| is_exactly(snapshot, &[&changed, &joins])).await?;
    let first = probe.watch(&service).await?.next().await?;
    ensure(is_exactly(&first, &[&changed, &joins]), || format!("the first snapshot is {first:?}"))
}

pub(super) async fn watches_of_one_service_are_independent(mut probe: Probe) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let mut first = probe.watch(&service).await?;
    let mut second = probe.watch(&service).await?;
    let _a = owner.settle_in(&service, &a).await?;
    first.comes_to("a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    drop(first);
    let _b = owner.settle_in(&service, &b).await?;
    second.comes_to("a and b", |snapshot| is_exactly(snapshot, &[&a, &b])).await.map(drop)
}

pub(super) async fn a_watch_survives_an_undecodable_record(mut probe: Probe) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let _a = owner.settle_in(&service, &a).await?;
    let mut watch = probe.watch(&service).await?;
    watch.comes_to("a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    if !probe.harness().put_garbage(&service).await {
        return Err(cannot("cannot put garbage", "garbage"));
    }
    let _b = owner.settle_in(&service, &b).await?;
    watch.comes_to("a and b", |snapshot| is_exactly(snapshot, &[&a, &b])).await?;
    let first = probe.watch(&service).await?.next().await?;
    ensure(is_exactly(&first, &[&a, &b]), || {
        format!("the first snapshot of a new watch has {:?}", ids(&first))
    })
}

pub(super) async fn a_watch_ends_when_its_connection_is_cut(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut watch = probe.watch(&service).await?;
    watch.next().await?;
    cut(&probe).await?;
    watch.ends(probe.settle(), |_| true).await
}

pub(super) async fn a_watch_opened_after_a_cut_sends_the_current_state(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut watch = probe.watch(&service).await?;
    watch.next().await?;
    cut(&probe).await?;
    watch.ends(probe.settle(), |_| true).await?;
    // The interruption may take a moment.
    let deadline = Instant::now() + probe.settle();
    let (_lease, mut watch) = loop {
        let owner = probe.registrar().await;
        let back = async {
            let lease = owner.settle_in(&service, &a).await?;
            Ok::<_, Failure>((lease, probe.watch(&service).await?))
        };
        match back.await {
            Ok(back) => break back,
            Err(failure) if Instant::now() >= deadline => return Err(failure),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    watch.comes_to("a", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

async fn cut(probe: &Probe) -> Result<(), Failure> {
    let can = probe.harness().cut().await;
    if can { Ok(()) } else { Err(cannot("cannot cut watches", "cut")) }
}
