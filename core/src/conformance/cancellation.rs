//! A call that was dropped half-way leaves a lease that still works.

use super::failure::Failure;
use super::probe::{Probe, cancelled, instance, is_exactly, registration};

/// Dropped before the first poll, after the first, and so on: at each await.
const POLLS: std::ops::Range<u32> = 0..6;

pub(super) async fn a_cancelled_renewal_leaves_the_lease_usable(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    for polls in POLLS {
        cancelled(polls, lease.renew()).await;
        lease.renew().await?;
    }
    probe.resolves_to(&service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

pub(super) async fn a_cancelled_update_is_settled_by_the_next_call(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut lease = probe.registrar().await.settle_in(&service, &a).await?;
    for polls in POLLS {
        let (dropped, last) = (a.clone().with_weight(10 + polls), a.clone().with_weight(20 + polls));
        cancelled(polls, lease.update(&registration(&service, &dropped)?)).await;
        lease.update(&registration(&service, &last)?).await?;
        lease.renew().await?;
        probe.resolves_to(&service, "the last update", |snapshot| is_exactly(snapshot, &[&last])).await?;
    }
    Ok(())
}

pub(super) async fn a_cancelled_revocation_can_be_repeated(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let owner = probe.registrar().await;
    for polls in POLLS {
        let mut lease = owner.settle_in(&service, &instance(&format!("cancelled-{polls}"))?).await?;
        cancelled(polls, lease.revoke()).await;
        lease.revoke().await?;
    }
    probe.resolves_to(&service, "no instance", |snapshot| snapshot.is_empty()).await.map(drop)
}
