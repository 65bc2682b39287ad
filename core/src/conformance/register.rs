//! Registrations and claims.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::failure::{Failure, ensure, expect_kind};
use super::probe::{Probe, cancelled, has, instance, is_exactly, registration};
use crate::{Claim, ErrorKind};

pub(super) async fn take_over_replaces_a_live_owner(mut probe: Probe) -> Result<(), Failure> {
    let (service, old) = (probe.service("svc")?, instance("a")?);
    let new = old.clone().with_metadata("owner", "new");
    let _old = probe.registrar().await.settle_in(&service, &old).await?;
    let _new = probe.registrar().await.settle_in(&service, &new).await?;
    probe
        .resolves_to(&service, "the new owner's record", |snapshot| is_exactly(snapshot, &[&new]))
        .await
        .map(drop)
}

pub(super) async fn if_vacant_takes_a_free_id(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let registration = registration(&service, &a)?;
    let _lease = probe.registrar().await.attempt(&registration, Claim::IfVacant).await??;
    probe.resolves_to(&service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

pub(super) async fn if_vacant_fails_against_a_live_owner(mut probe: Probe) -> Result<(), Failure> {
    let (service, first) = (probe.service("svc")?, instance("a")?);
    let _first = probe.registrar().await.settle_in(&service, &first).await?;
    let second = registration(&service, &first.clone().with_metadata("owner", "second"))?;
    let second = probe.registrar().await.attempt(&second, Claim::IfVacant).await?;
    expect_kind(second, &[ErrorKind::Superseded], "the registration of a second owner")?;
    probe
        .resolves_to(&service, "the first owner's record", |snapshot| is_exactly(snapshot, &[&first]))
        .await
        .map(drop)
}

pub(super) async fn if_vacant_replaces_an_earlier_lease_of_the_same_registrar(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, before) = (probe.service("svc")?, instance("a")?);
    let after = before.clone().with_metadata("lease", "second");
    let owner = probe.registrar().await;
    // As after a renewal whose response was lost: the registrar gave the lease up, the registry did not.
    drop(owner.settle_in(&service, &before).await?);
    let registration = registration(&service, &after)?;
    let _lease = owner.attempt(&registration, Claim::IfVacant).await??;
    probe
        .resolves_to(&service, "the second lease's record", |snapshot| is_exactly(snapshot, &[&after]))
        .await
        .map(drop)
}

pub(super) async fn if_vacant_succeeds_after_the_owner_has_expired(mut probe: Probe) -> Result<(), Failure> {
    let (service, dead) = (probe.service("svc")?, instance("a")?);
    let successor = dead.clone().with_metadata("owner", "successor");
    drop(probe.registrar().await.register(&service, &dead).await?);
    let registration = registration(&service, &successor)?;
    let owner = probe.registrar().await;
    let deadline = Instant::now() + probe.expiry(probe.ttl()) + probe.settle();
    let _lease = loop {
        match owner.attempt(&registration, Claim::IfVacant).await? {
            Ok(lease) => break lease,
            Err(error) if error.kind() == ErrorKind::Superseded && Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    probe
        .resolves_to(&service, "the successor's record", |snapshot| is_exactly(snapshot, &[&successor]))
        .await
        .map(drop)
}

pub(super) async fn registrations_of_one_registrar_are_independent(mut probe: Probe) -> Result<(), Failure> {
    let (service, a, b) = (probe.service("svc")?, instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let mut leaving = owner.settle_in(&service, &a).await?;
    let _staying = owner.settle_in(&service, &b).await?;
    probe.resolves_to(&service, "both", |snapshot| is_exactly(snapshot, &[&a, &b])).await?;
    leaving.revoke().await?;
    probe.resolves_to(&service, "only the other", |snapshot| is_exactly(snapshot, &[&b])).await.map(drop)
}

pub(super) async fn a_cancelled_registration_leaves_no_record_after_the_ttl(
    mut probe: Probe,
) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut registrars = Vec::new();
    // Dropped before the first poll, after the first, and so on: at each await.
    for polls in 0..6 {
        let registration =
            registration(&service, &instance(&format!("dropped-{polls}"))?)?.with_ttl(probe.ttl())?;
        let owner = probe.registrar().await;
        cancelled(polls, owner.attempt(&registration, Claim::TakeOver)).await;
        // The registrar lives on: only the call was dropped.
        registrars.push(owner);
    }
    let stay = instance("stay")?;
    let _stay = probe.registrar().await.settle_in(&service, &stay).await?;
    // A write in flight when its call is dropped may arrive a little later.
    sleep(probe.expiry(probe.ttl())).await;
    let gone =
        probe.resolves_to(&service, "only the one that stays", |snapshot| is_exactly(snapshot, &[&stay]));
    let snapshot = gone.await?;
    ensure(has(&snapshot, &stay), || "the one that stays is gone".to_owned())
}
