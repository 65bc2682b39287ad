//! A registration belongs to its lease.

use tokio::time::{Instant, sleep};

use super::probe::{Failure, Probe, ensure, ids, instance, is_exactly, registration};
use crate::{ErrorKind, Lease, ServiceName};

pub(super) async fn a_lease_says_what_was_granted(probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let owner = probe.registrar().await;
    for asked in [probe.ttl(), 5 * probe.ttl()] {
        let granted = owner.register_for(&service, &instance("a")?, asked).await?.ttl();
        ensure(granted >= asked && granted <= probe.lapse(asked), || {
            format!("asked for {asked:?}, granted {granted:?}")
        })?;
    }
    Ok(())
}

pub(super) async fn a_renewed_record_outlives_its_ttl(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.register(&service, &a).await?;
    let end = Instant::now() + probe.lapse(lease.ttl()) * 2;
    while Instant::now() < end {
        sleep(lease.ttl() / 3).await;
        lease.renew().await?;
        let snapshot = probe.resolve(&service).await?;
        ensure(is_exactly(&snapshot, &[&a]), || {
            format!("while renewed, the service has {:?}", ids(&snapshot))
        })?;
    }
    Ok(())
}

pub(super) async fn a_record_that_is_not_renewed_goes_even_while_others_of_its_registrar_live(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, dies, lives) = (probe.service("svc")?, instance("dies")?, instance("lives")?);
    let owner = probe.registrar().await;
    let mut living = owner.register(&service, &lives).await?;
    let dying = owner.register(&service, &dies).await?;
    probe.resolves_to(&service, "both", |snapshot| is_exactly(snapshot, &[&dies, &lives])).await?;
    let end = Instant::now() + probe.lapse(dying.ttl());
    drop(dying);
    while Instant::now() < end {
        sleep((living.ttl() / 3).min(end - Instant::now())).await;
        living.renew().await?;
    }
    probe
        .resolves_to(&service, "the living one alone", |snapshot| is_exactly(snapshot, &[&lives]))
        .await
        .map(drop)
}

pub(super) async fn a_lease_that_expired_says_so(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut lease = probe.registrar().await.register(&service, &instance("a")?).await?;
    let lapse = probe.lapse(lease.ttl());
    let within = lapse + probe.settle();
    probe.resolves_within(&service, within, "nobody", |snapshot| snapshot.is_empty()).await?;
    for attempt in ["first", "second"] {
        expect_kind(lease.renew().await, &[ErrorKind::LeaseExpired], &format!("the {attempt} renewal"))?;
    }
    let snapshot = probe.resolve(&service).await?;
    ensure(snapshot.is_empty(), || format!("the renewal brought back {:?}", ids(&snapshot)))
}

pub(super) async fn a_lease_whose_id_was_taken_over_says_so(mut probe: Probe) -> Result<(), Failure> {
    let (mut old, _new, _) = succession(&mut probe).await?;
    expect_kind(old.renew().await, &[ErrorKind::Superseded], "renewing the old lease")
}

pub(super) async fn an_old_lease_cannot_remove_its_successor(mut probe: Probe) -> Result<(), Failure> {
    let (mut old, _new, service) = succession(&mut probe).await?;
    old.revoke().await?;
    successor_stands(&mut probe, &service).await
}

pub(super) async fn an_old_lease_cannot_change_its_successor(mut probe: Probe) -> Result<(), Failure> {
    let (mut old, _new, service) = succession(&mut probe).await?;
    let update =
        old.update(&registration(&service, instance("a")?.with_metadata("owner", "old again"))?).await;
    expect_kind(update, &[ErrorKind::Superseded, ErrorKind::LeaseExpired], "updating through the old lease")?;
    successor_stands(&mut probe, &service).await
}

pub(super) async fn revoking_removes_the_record(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut lease = probe.registrar().await.settle_in(&service, &instance("a")?).await?;
    lease.revoke().await?;
    probe.resolves_to(&service, "nobody", |snapshot| snapshot.is_empty()).await.map(drop)
}

pub(super) async fn revoking_twice_is_fine(probe: Probe) -> Result<(), Failure> {
    let mut lease = probe.registrar().await.settle_in(&probe.service("svc")?, &instance("a")?).await?;
    lease.revoke().await?;
    Ok(lease.revoke().await?)
}

pub(super) async fn a_revoked_lease_cannot_be_renewed(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut lease = probe.registrar().await.settle_in(&service, &instance("a")?).await?;
    lease.revoke().await?;
    expect_kind(lease.renew().await, &[ErrorKind::LeaseExpired], "renewing after revoking")?;
    let update = lease.update(&registration(&service, instance("a")?.with_weight(9))?).await;
    expect_kind(update, &[ErrorKind::LeaseExpired], "updating after revoking")?;
    let snapshot = probe.resolve(&service).await?;
    ensure(snapshot.is_empty(), || format!("the record is back: {:?}", ids(&snapshot)))
}

pub(super) async fn an_update_changes_what_stands_there(mut probe: Probe) -> Result<(), Failure> {
    let (service, before) = (probe.service("svc")?, instance("a")?);
    let after = before.clone().with_weight(7).with_metadata("said", "later");
    let mut lease = probe.registrar().await.settle_in(&service, &before).await?;
    lease.update(&registration(&service, after.clone())?).await?;
    probe.resolves_to(&service, "the new content", |snapshot| is_exactly(snapshot, &[&after])).await?;
    // What was said last is also what a renewal stands for.
    lease.renew().await?;
    let snapshot = probe.resolve(&service).await?;
    ensure(is_exactly(&snapshot, &[&after]), || format!("the renewal left {snapshot:?}"))
}

pub(super) async fn an_update_does_not_prolong_nor_lose_the_lease(mut probe: Probe) -> Result<(), Failure> {
    let (service, before) = (probe.service("svc")?, instance("a")?);
    let after = before.clone().with_weight(7);
    let mut lease = probe.registrar().await.register(&service, &before).await?;
    lease.update(&registration(&service, after.clone())?).await?;
    let within = probe.lapse(lease.ttl()) + probe.settle();
    drop(lease);
    probe.resolves_within(&service, within, "nobody", |snapshot| snapshot.is_empty()).await.map(drop)
}

pub(super) async fn an_update_cannot_change_the_id(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    expect_kind(
        lease.update(&registration(&service, instance("b")?)?).await,
        &[ErrorKind::InvalidArgument],
        "an update with another id",
    )?;
    probe.resolves_to(&service, "what stood there", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

pub(super) async fn a_renewal_puts_back_what_was_removed(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.register(&service, &a).await?;
    let can = probe.harness().remove_record(&service, a.id()).await;
    ensure(can, || "the harness cannot remove records: `ignore removal`, with the reason".to_owned())?;
    probe.resolves_to(&service, "nobody", |snapshot| snapshot.is_empty()).await?;
    // It need not look at each renewal, but once in a TTL.
    let end = Instant::now() + lease.ttl() + probe.settle();
    loop {
        lease.renew().await?;
        let snapshot = probe.resolve(&service).await?;
        if is_exactly(&snapshot, &[&a]) {
            return Ok(());
        }
        ensure(Instant::now() < end, || format!("the record stays away: {:?}", ids(&snapshot)))?;
        sleep(lease.ttl() / 3).await;
    }
}

/// An old lease, the lease of the owner that took its id over, and the service.
async fn succession(probe: &mut Probe) -> Result<(Box<dyn Lease>, Box<dyn Lease>, ServiceName), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let old = probe.registrar().await.settle_in(&service, &a).await?;
    let new = probe.registrar().await.settle_in(&service, &a.with_metadata("owner", "new")).await?;
    Ok((old, new, service))
}

async fn successor_stands(probe: &mut Probe, service: &ServiceName) -> Result<(), Failure> {
    let new = instance("a")?.with_metadata("owner", "new");
    let snapshot = probe.resolve(service).await?;
    ensure(is_exactly(&snapshot, &[&new]), || format!("of the successor's record is left {snapshot:?}"))
}

fn expect_kind(result: crate::Result<()>, kinds: &[ErrorKind], what: &str) -> Result<(), Failure> {
    match result {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        Err(error) => Err(Failure::new(format!("{what} gave {} where {kinds:?} was due", error.report()))),
        Ok(()) => Err(Failure::new(format!("{what} succeeded where {kinds:?} was due"))),
    }
}
