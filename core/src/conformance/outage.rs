//! The registry is unreachable or silent: each call ends with an error, none with invented data.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::failure::{Failure, ensure, expect_no_response};
use super::probe::{Probe, cannot, has, ids, instance, is_exactly, registration, within};
use crate::Claim;

/// The first attempt meets the open connection, and the second has to make a new one.
const ATTEMPTS: [&str; 2] = ["first", "second"];

const CONCURRENT: usize = 8;

/// Long enough for a request to leave, and shorter than any deadline.
const IMPATIENT: Duration = Duration::from_millis(100);

/// How the registry is lost.
#[derive(Clone, Copy)]
enum Outage {
    Unreachable,
    Silent,
}

impl Outage {
    async fn begin(self, probe: &Probe) -> Result<(), Failure> {
        let (can, group) = match self {
            Self::Unreachable => (probe.harness().make_unreachable().await, "outage"),
            Self::Silent => (probe.harness().make_silent().await, "silence"),
        };
        if can { Ok(()) } else { Err(cannot("cannot disturb the registry", group)) }
    }
}

macro_rules! outages {
    ($($check:ident: $unreachable:ident, $silent:ident;)+) => {$(
        pub(super) async fn $unreachable(probe: Probe) -> Result<(), Failure> {
            $check(probe, Outage::Unreachable).await
        }

        pub(super) async fn $silent(probe: Probe) -> Result<(), Failure> {
            $check(probe, Outage::Silent).await
        }
    )+};
}

outages! {
    resolve: resolving_from_an_unreachable_registry_fails, resolving_from_a_silent_registry_ends;
    register: registering_at_an_unreachable_registry_fails, registering_at_a_silent_registry_ends;
    renew: renewing_at_an_unreachable_registry_fails, renewing_at_a_silent_registry_ends;
    update: updating_at_an_unreachable_registry_fails, updating_at_a_silent_registry_ends;
    revoke: revoking_at_an_unreachable_registry_fails, revoking_at_a_silent_registry_ends;
    open_watch: opening_a_watch_of_an_unreachable_registry_fails, opening_a_watch_of_a_silent_registry_ends;
    watch: a_watch_of_an_unreachable_registry_ends, a_watch_of_a_silent_registry_ends;
    list_services: listing_services_of_an_unreachable_registry_fails, listing_services_of_a_silent_registry_ends;
    recover: all_handles_work_again_after_an_outage, all_handles_work_again_after_a_silence;
}

async fn resolve(mut probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, unknown, a) = (probe.service("svc")?, probe.service("unknown")?, instance("a")?);
    let _lease = probe.registrar().await.settle_in(&service, &a).await?;
    probe.resolves_to(&service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await?;
    let resolver = probe.resolver().await;
    outage.begin(&probe).await?;
    // Neither the last list nor an empty one.
    for (attempt, service) in ATTEMPTS.into_iter().zip([&service, &unknown]) {
        let result = within(probe.deadline(), "resolve", resolver.resolve(service)).await?;
        expect_no_response(result, &format!("the {attempt} resolve"))?;
    }
    Ok(())
}

async fn register(probe: Probe, outage: Outage) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let owner = probe.registrar().await;
    // So that it has a connection.
    let _lease = owner.settle_in(&service, &instance("before")?).await?;
    outage.begin(&probe).await?;
    for (attempt, claim) in ATTEMPTS.into_iter().zip([Claim::TakeOver, Claim::IfVacant]) {
        let registration = registration(&service, &instance("a")?)?;
        let result = owner.attempt_within(probe.deadline(), &registration, claim).await?;
        expect_no_response(result, &format!("the {attempt} registration"))?;
    }
    Ok(())
}

async fn renew(probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    outage.begin(&probe).await?;
    for attempt in ATTEMPTS {
        let result = within(probe.deadline(), "renew", lease.renew()).await?;
        expect_no_response(result, &format!("the {attempt} renewal"))?;
    }
    Ok(())
}

async fn update(mut probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    outage.begin(&probe).await?;
    let after = a.clone().with_weight(7);
    for attempt in ATTEMPTS {
        let result =
            within(probe.deadline(), "update", lease.update(&registration(&service, &after)?)).await?;
        expect_no_response(result, &format!("the {attempt} update"))?;
    }
    probe.harness().restore().await;
    // The new content is what a renewal restores from now on.
    let retry = probe.retry("a renewal after the failed update");
    while let Err(error) = within(probe.deadline(), "renew", lease.renew()).await? {
        retry.after(error).await?;
    }
    probe
        .resolves_after(&retry, &service, "the new content", |snapshot| is_exactly(snapshot, &[&after]))
        .await
}

async fn revoke(mut probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    outage.begin(&probe).await?;
    for attempt in ATTEMPTS {
        let result = within(probe.deadline(), "revoke", lease.revoke()).await?;
        expect_no_response(result, &format!("the {attempt} revocation"))?;
    }
    probe.harness().restore().await;
    let retry = probe.retry("a revocation after the failed ones");
    while let Err(error) = within(probe.deadline(), "revoke", lease.revoke()).await? {
        retry.after(error).await?;
    }
    probe.resolves_after(&retry, &service, "no instance", |snapshot| snapshot.is_empty()).await
}

async fn open_watch(mut probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let _lease = probe.registrar().await.settle_in(&service, &a).await?;
    // So that the resolver has a connection.
    probe.resolves_to(&service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await?;
    let resolver = probe.resolver().await;
    outage.begin(&probe).await?;
    for attempt in ATTEMPTS {
        let what = format!("the {attempt} watch");
        let mut snapshots =
            match within(probe.deadline(), "opening a watch", resolver.watch(&service)).await? {
                Ok(snapshots) => snapshots,
                Err(error) => {
                    expect_no_response(Err::<(), _>(error), &what)?;
                    continue;
                }
            };
        match within(probe.deadline(), "the end of a new watch", snapshots.next()).await? {
            None => {}
            Some(Err(error)) => expect_no_response(Err::<(), _>(error), &what)?,
            Some(Ok(snapshot)) => {
                let message = format!("{what} sent {:?} without the registry", ids(&snapshot));
                return Err(Failure::new(message));
            }
        }
    }
    Ok(())
}

async fn watch(mut probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let _lease = probe.registrar().await.settle_in(&service, &a).await?;
    let mut watch = probe.watch(&service).await?;
    watch.comes_to("a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    outage.begin(&probe).await?;
    watch.ends(probe.deadline(), |snapshot| is_exactly(snapshot, &[&a])).await
}

async fn list_services(probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let _lease = probe.registrar().await.settle_in(&service, &a).await?;
    let catalog = probe.catalog().await?;
    within(probe.settle(), "listing services", catalog.services(None)).await??;
    outage.begin(&probe).await?;
    for (attempt, under) in ATTEMPTS.into_iter().zip([None, Some(&service)]) {
        let result = within(probe.deadline(), "listing services", catalog.services(under)).await?;
        expect_no_response(result, &format!("the {attempt} list of services"))?;
    }
    Ok(())
}

/// Calls that wait for one another each add their deadline to that of the next.
pub(super) async fn concurrent_calls_to_a_silent_registry_all_end(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    probe.resolve(&service).await?;
    let resolver = probe.resolver().await;
    Outage::Silent.begin(&probe).await?;
    let calls =
        (0..CONCURRENT).map(|_| within(probe.deadline(), "a concurrent resolve", resolver.resolve(&service)));
    for result in join_all(calls).await {
        expect_no_response(result?, "a concurrent resolve")?;
    }
    Ok(())
}

/// As a caller with a deadline of its own does, which is shorter than the backend's.
pub(super) async fn calls_cancelled_during_a_silence_leave_all_handles_usable(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let mut lease = owner.settle_in(&service, &a).await?;
    let resolver = probe.resolver().await;
    probe.resolves_to(&service, "a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    let dropped = registration(&service, &a.clone().with_weight(7))?;
    let other = registration(&service, &b)?.with_ttl(owner.long_ttl())?;
    let after = a.with_weight(8);
    Outage::Silent.begin(&probe).await?;
    let _ = timeout(IMPATIENT, lease.renew()).await;
    let _ = timeout(IMPATIENT, lease.update(&dropped)).await;
    let _ = timeout(IMPATIENT, owner.attempt(&other, Claim::IfVacant)).await;
    let _ = timeout(IMPATIENT, resolver.resolve(&service)).await;
    let _ = timeout(IMPATIENT, resolver.watch(&service)).await;
    probe.harness().restore().await;

    let deadline = probe.deadline();
    let retry = probe.retry("updating after cancelled calls");
    while let Err(error) = within(deadline, "update", lease.update(&registration(&service, &after)?)).await? {
        retry.after(error).await?;
    }
    let retry = probe.retry("registering after cancelled calls");
    let _other = loop {
        match owner.attempt_within(deadline, &other, Claim::IfVacant).await? {
            Ok(lease) => break lease,
            Err(error) => retry.after(error).await?,
        }
    };
    lease.renew().await?;
    let retry = probe.retry("resolving after cancelled calls");
    probe.resolves_after(&retry, &service, "both", |snapshot| is_exactly(snapshot, &[&after, &b])).await?;
    let mut watch = probe.watch(&service).await?;
    watch.comes_to("both", |snapshot| is_exactly(snapshot, &[&after, &b])).await.map(drop)
}

async fn recover(mut probe: Probe, outage: Outage) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let mut lease = owner.settle_in(&service, &a).await?;
    let resolver = probe.resolver().await;
    probe.resolves_to(&service, "a", |snapshot| is_exactly(snapshot, &[&a])).await?;
    outage.begin(&probe).await?;
    // Every handle meets the outage.
    let deadline = probe.deadline();
    let other = registration(&service, &b)?.with_ttl(owner.long_ttl())?;
    expect_no_response(within(deadline, "resolve", resolver.resolve(&service)).await?, "resolve")?;
    expect_no_response(within(deadline, "renew", lease.renew()).await?, "renew")?;
    expect_no_response(owner.attempt_within(deadline, &other, Claim::IfVacant).await?, "register")?;
    probe.harness().restore().await;

    let retry = probe.retry("renewing after the outage");
    while let Err(error) = within(deadline, "renew", lease.renew()).await? {
        retry.after(error).await?;
    }
    let retry = probe.retry("registering after the outage");
    let _other = loop {
        match owner.attempt_within(deadline, &other, Claim::IfVacant).await? {
            Ok(lease) => break lease,
            Err(error) => retry.after(error).await?,
        }
    };
    let retry = probe.retry("resolving after the outage");
    probe.resolves_after(&retry, &service, "both", |snapshot| is_exactly(snapshot, &[&a, &b])).await?;
    let mut watch = probe.watch(&service).await?;
    watch.comes_to("both", |snapshot| is_exactly(snapshot, &[&a, &b])).await?;
    let after = a.with_weight(7);
    lease.update(&registration(&service, &after)?).await?;
    watch.comes_to("the update", |snapshot| has(snapshot, &after)).await?;
    lease.revoke().await?;
    let snapshot = watch.comes_to("the revocation", |snapshot| snapshot.len() == 1).await?;
    ensure(has(&snapshot, &b), || format!("{:?} is left instead of b", ids(&snapshot)))
}
