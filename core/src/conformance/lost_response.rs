//! A write takes effect and its response is lost: the next call finds it and settles it.

use tokio::time::sleep;

use super::Write;
use super::failure::{Failure, ensure, expect_kind, expect_no_response};
use super::probe::{Probe, ids, instance, is_exactly, registration, within};
use crate::{Claim, ErrorKind};

pub(super) async fn a_registration_whose_response_was_lost_belongs_to_its_registrar(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let owner = probe.registrar().await;
    let short = registration(&service, &a)?.with_ttl(probe.ttl())?;
    let long = short.clone().with_ttl(owner.long_ttl())?;
    probe.lose_next_response(Write::Register, &service, a.id()).await?;
    let lost = owner.attempt_within(probe.deadline(), &short, Claim::TakeOver).await?;
    expect_no_response(lost, "the registration whose response was lost")?;
    probe.harness().restore().await;
    let applied = "the registration, which the harness must let through";
    let retry = probe.retry("resolving");
    probe.resolves_after(&retry, &service, applied, |snapshot| is_exactly(snapshot, &[&a])).await?;

    let retry = probe.retry("the repeated registration");
    let mut lease = loop {
        match owner.attempt_within(probe.deadline(), &long, Claim::IfVacant).await? {
            Ok(lease) => break lease,
            Err(error) => retry.after(error).await?,
        }
    };
    let other = probe.registrar().await.attempt(&long, Claim::IfVacant).await?;
    expect_kind(other, &[ErrorKind::Superseded], "the registration of another owner")?;
    // The lease whose response was lost expires, and must not take the record along.
    sleep(probe.expiry(probe.ttl())).await;
    let retry = probe.retry("resolving");
    probe.resolves_after(&retry, &service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await?;
    Ok(lease.renew().await?)
}

pub(super) async fn a_renewal_whose_response_was_lost_leaves_the_lease_usable(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    probe.lose_next_response(Write::Renew, &service, a.id()).await?;
    let lost = within(probe.deadline(), "renew", lease.renew()).await?;
    expect_no_response(lost, "the renewal whose response was lost")?;
    probe.harness().restore().await;
    let retry = probe.retry("the next renewal");
    while let Err(error) = within(probe.deadline(), "renew", lease.renew()).await? {
        retry.after(error).await?;
    }
    probe.resolves_after(&retry, &service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await
}

pub(super) async fn an_update_whose_response_was_lost_is_kept_by_the_next_renewal(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let (lost, last) = (a.clone().with_weight(7), a.clone().with_weight(8));
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    probe.lose_next_response(Write::Update, &service, a.id()).await?;
    let result = within(probe.deadline(), "update", lease.update(&registration(&service, &lost)?)).await?;
    expect_no_response(result, "the update whose response was lost")?;
    probe.harness().restore().await;
    let applied = "the update, which the harness must let through";
    let retry = probe.retry("resolving");
    probe.resolves_after(&retry, &service, applied, |snapshot| is_exactly(snapshot, &[&lost])).await?;
    let retry = probe.retry("the next renewal");
    while let Err(error) = within(probe.deadline(), "renew", lease.renew()).await? {
        retry.after(error).await?;
    }
    probe.resolves_after(&retry, &service, "the update", |snapshot| is_exactly(snapshot, &[&lost])).await?;
    lease.update(&registration(&service, &last)?).await?;
    probe.resolves_to(&service, "the last update", |snapshot| is_exactly(snapshot, &[&last])).await.map(drop)
}

pub(super) async fn a_revocation_whose_response_was_lost_can_be_repeated(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    probe.lose_next_response(Write::Revoke, &service, a.id()).await?;
    let lost = within(probe.deadline(), "revoke", lease.revoke()).await?;
    expect_no_response(lost, "the revocation whose response was lost")?;
    probe.harness().restore().await;
    let applied = "no instance after the revocation, which the harness must let through";
    let retry = probe.retry("resolving");
    probe.resolves_after(&retry, &service, applied, |snapshot| snapshot.is_empty()).await?;
    let retry = probe.retry("the repeated revocation");
    while let Err(error) = within(probe.deadline(), "revoke", lease.revoke()).await? {
        retry.after(error).await?;
    }
    expect_kind(lease.renew().await, &[ErrorKind::LeaseExpired], "renewing after the revocation")?;
    let snapshot = probe.resolve(&service).await?;
    ensure(snapshot.is_empty(), || format!("the record is back: {:?}", ids(&snapshot)))
}
