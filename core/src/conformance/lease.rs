//! A record belongs to its lease.

use tokio::time::{Instant, sleep};

use super::failure::{Failure, ensure, expect_kind};
use super::probe::{Probe, cannot, ids, instance, is_exactly, registration};
use crate::time::after;
use crate::{ErrorKind, Lease, ServiceName};

pub(super) async fn a_lease_returns_the_granted_ttl(probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let owner = probe.registrar().await;
    for requested in [probe.ttl(), 5 * probe.ttl()] {
        let granted = owner.register_for(&service, &instance("a")?, requested).await?.ttl();
        ensure(granted >= requested && granted <= probe.expiry(requested), || {
            format!("requested {requested:?}, granted {granted:?}")
        })?;
    }
    Ok(())
}

pub(super) async fn a_renewed_record_outlives_its_ttl(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.register(&service, &a).await?;
    let end = after(Instant::now(), probe.expiry(lease.ttl()).saturating_mul(2));
    while Instant::now() < end {
        sleep(lease.ttl() / 3).await;
        lease.renew().await?;
        let snapshot = probe.resolve(&service).await?;
        ensure(is_exactly(&snapshot, &[&a]), || {
            format!("although renewed, the service has {:?}", ids(&snapshot))
        })?;
    }
    Ok(())
}

pub(super) async fn an_unrenewed_record_expires_while_others_of_its_registrar_live(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, dies, lives) = (probe.service("svc")?, instance("dies")?, instance("lives")?);
    let owner = probe.registrar().await;
    let mut living = owner.register(&service, &lives).await?;
    let dying = owner.register(&service, &dies).await?;
    probe.resolves_to(&service, "both", |snapshot| is_exactly(snapshot, &[&dies, &lives])).await?;
    let end = after(Instant::now(), probe.expiry(dying.ttl()));
    drop(dying);
    while Instant::now() < end {
        sleep((living.ttl() / 3).min(end - Instant::now())).await;
        living.renew().await?;
    }
    probe
        .resolves_to(&service, "only the renewed one", |snapshot| is_exactly(snapshot, &[&lives]))
        .await
        .map(drop)
}

pub(super) async fn renewing_an_expired_lease_fails(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut lease = probe.registrar().await.register(&service, &instance("a")?).await?;
    let limit = probe.expiry(lease.ttl()).saturating_add(probe.settle());
    probe.resolves_within(&service, limit, "no instance", |snapshot| snapshot.is_empty()).await?;
    for attempt in ["first", "second"] {
        expect_kind(lease.renew().await, &[ErrorKind::LeaseExpired], &format!("the {attempt} renewal"))?;
    }
    let snapshot = probe.resolve(&service).await?;
    ensure(snapshot.is_empty(), || format!("the renewal restored {:?}", ids(&snapshot)))
}

pub(super) async fn renewing_a_superseded_lease_fails(mut probe: Probe) -> Result<(), Failure> {
    let (mut old, _new, _) = succession(&mut probe).await?;
    expect_kind(old.renew().await, &[ErrorKind::Superseded], "renewing the superseded lease")
}

pub(super) async fn revoking_a_superseded_lease_keeps_its_successor(mut probe: Probe) -> Result<(), Failure> {
    let (mut old, _new, service) = succession(&mut probe).await?;
    old.revoke().await?;
    successor_is_unchanged(&mut probe, &service).await
}

pub(super) async fn updating_a_superseded_lease_fails(mut probe: Probe) -> Result<(), Failure> {
    let (mut old, _new, service) = succession(&mut probe).await?;
    let again = instance("a")?.with_metadata("owner", "old again");
    let update = old.update(&registration(&service, &again)?).await;
    expect_kind(update, &[ErrorKind::Superseded, ErrorKind::LeaseExpired], "updating the superseded lease")?;
    successor_is_unchanged(&mut probe, &service).await
}

pub(super) async fn revoking_removes_the_record(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut lease = probe.registrar().await.settle_in(&service, &instance("a")?).await?;
    lease.revoke().await?;
    probe.resolves_to(&service, "no instance", |snapshot| snapshot.is_empty()).await.map(drop)
}

pub(super) async fn revoking_twice_succeeds(probe: Probe) -> Result<(), Failure> {
    let mut lease = probe.registrar().await.settle_in(&probe.service("svc")?, &instance("a")?).await?;
    lease.revoke().await?;
    Ok(lease.revoke().await?)
}

pub(super) async fn a_revoked_lease_cannot_be_renewed(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut lease = probe.registrar().await.settle_in(&service, &instance("a")?).await?;
    lease.revoke().await?;
    expect_kind(lease.renew().await, &[ErrorKind::LeaseExpired], "renewing after revoking")?;
    let update = lease.update(&registration(&service, &instance("a")?.with_weight(9))?).await;
    expect_kind(update, &[ErrorKind::LeaseExpired], "updating after revoking")?;
    let snapshot = probe.resolve(&service).await?;
    ensure(snapshot.is_empty(), || format!("the record is back: {:?}", ids(&snapshot)))
}

pub(super) async fn an_update_replaces_the_content(mut probe: Probe) -> Result<(), Failure> {
    let (service, before) = (probe.service("svc")?, instance("a")?);
    let after = before.clone().with_weight(7).with_metadata("updated", "yes");
    let mut lease = probe.registrar().await.settle_in(&service, &before).await?;
    lease.update(&registration(&service, &after)?).await?;
    probe.resolves_to(&service, "the new content", |snapshot| is_exactly(snapshot, &[&after])).await?;
    // A renewal keeps the new content.
    lease.renew().await?;
    let snapshot = probe.resolve(&service).await?;
    ensure(is_exactly(&snapshot, &[&after]), || format!("after the renewal the service has {snapshot:?}"))
}

pub(super) async fn an_update_neither_prolongs_nor_ends_the_lease(mut probe: Probe) -> Result<(), Failure> {
    let (service, before) = (probe.service("svc")?, instance("a")?);
    let after = before.clone().with_weight(7);
    let mut lease = probe.registrar().await.register(&service, &before).await?;
    lease.update(&registration(&service, &after)?).await?;
    let limit = probe.expiry(lease.ttl()).saturating_add(probe.settle());
    drop(lease);
    probe.resolves_within(&service, limit, "no instance", |snapshot| snapshot.is_empty()).await.map(drop)
}

pub(super) async fn an_update_cannot_change_the_id_or_the_service(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    let other_id = lease.update(&registration(&service, &instance("b")?)?).await;
    expect_kind(other_id, &[ErrorKind::InvalidArgument], "an update with another id")?;
    let other_service = lease.update(&registration(&probe.service("other")?, &a)?).await;
    expect_kind(other_service, &[ErrorKind::InvalidArgument], "an update with another service")?;
    probe.resolves_to(&service, "the old content", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

pub(super) async fn a_renewal_restores_a_deleted_record(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.register(&service, &a).await?;
    if !probe.harness().delete_record(&service, a.id()).await {
        return Err(cannot("cannot delete records", "deletion"));
    }
    probe.resolves_to(&service, "no instance", |snapshot| snapshot.is_empty()).await?;
    // A backend need not check the record at each renewal, but once in a TTL.
    let end = Instant::now() + lease.ttl() + probe.settle();
    loop {
        lease.renew().await?;
        let snapshot = probe.resolve(&service).await?;
        if is_exactly(&snapshot, &[&a]) {
            return Ok(());
        }
        ensure(Instant::now() < end, || format!("the record is still missing: {:?}", ids(&snapshot)))?;
        sleep(lease.ttl() / 3).await;
    }
}

/// A superseded lease, the lease of the owner that took its id over, and the service.
async fn succession(probe: &mut Probe) -> Result<(Box<dyn Lease>, Box<dyn Lease>, ServiceName), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let old = probe.registrar().await.settle_in(&service, &a).await?;
    let new = probe.registrar().await.settle_in(&service, &a.with_metadata("owner", "new")).await?;
    Ok((old, new, service))
}

async fn successor_is_unchanged(probe: &mut Probe, service: &ServiceName) -> Result<(), Failure> {
    let new = instance("a")?.with_metadata("owner", "new");
    let snapshot = probe.resolve(service).await?;
    ensure(is_exactly(&snapshot, &[&new]), || {
        format!("instead of the successor's record the service has {snapshot:?}")
    })
}
