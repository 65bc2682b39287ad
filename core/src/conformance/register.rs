//! Who may register what.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::probe::{Failure, Probe, ensure, has, instance, is_exactly};
use crate::{Claim, ErrorKind, Registration};

pub(super) async fn take_over_replaces_a_living_owner(mut probe: Probe) -> Result<(), Failure> {
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
    let registration = Registration::new(service.clone(), a.clone())?;
    let _lease = probe.registrar().await.attempt(&registration, Claim::IfVacant).await??;
    probe.resolves_to(&service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

pub(super) async fn if_vacant_yields_to_a_living_owner(mut probe: Probe) -> Result<(), Failure> {
    let (service, first) = (probe.service("svc")?, instance("a")?);
    let _first = probe.registrar().await.settle_in(&service, &first).await?;
    let second = Registration::new(service.clone(), first.clone().with_metadata("owner", "second"))?;
    match probe.registrar().await.attempt(&second, Claim::IfVacant).await? {
        Ok(_) => return Err(Failure::new("a second owner got the id")),
        Err(error) => ensure(error.kind() == ErrorKind::Superseded, || {
            format!("the second owner got {} where Superseded was due", error.report())
        })?,
    }
    probe
        .resolves_to(&service, "the first owner's record", |snapshot| is_exactly(snapshot, &[&first]))
        .await
        .map(drop)
}

pub(super) async fn if_vacant_takes_what_an_earlier_lease_of_the_same_registrar_holds(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (service, before) = (probe.service("svc")?, instance("a")?);
    let after = before.clone().with_metadata("lease", "second");
    let owner = probe.registrar().await;
    // As after a renewal whose answer was lost: we take the lease for dead, the registry does not.
    drop(owner.settle_in(&service, &before).await?);
    let registration = Registration::new(service.clone(), after.clone())?;
    let _lease = owner.attempt(&registration, Claim::IfVacant).await??;
    probe
        .resolves_to(&service, "the second lease's record", |snapshot| is_exactly(snapshot, &[&after]))
        .await
        .map(drop)
}

pub(super) async fn if_vacant_takes_what_a_dead_owner_left(mut probe: Probe) -> Result<(), Failure> {
    let (service, dead) = (probe.service("svc")?, instance("a")?);
    let heir = dead.clone().with_metadata("owner", "heir");
    drop(probe.registrar().await.register(&service, &dead).await?);
    let registration = Registration::new(service.clone(), heir.clone())?;
    let owner = probe.registrar().await;
    let deadline = Instant::now() + probe.lapse(probe.ttl()) + probe.settle();
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
        .resolves_to(&service, "the heir's record", |snapshot| is_exactly(snapshot, &[&heir]))
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
    probe.resolves_to(&service, "the other alone", |snapshot| is_exactly(snapshot, &[&b])).await.map(drop)
}

pub(super) async fn a_dropped_register_leaves_nothing_past_the_ttl(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut registrars = Vec::new();
    // Dropped before the first poll, after the first, after some: at whatever await it stood.
    for polls in 0..6 {
        let registration = Registration::new(service.clone(), instance(&format!("dropped-{polls}"))?)?
            .with_ttl(probe.ttl())?;
        let owner = probe.registrar().await;
        {
            let mut register = pin!(owner.attempt(&registration, Claim::TakeOver));
            for _ in 0..polls {
                let done = poll_fn(|context| Poll::Ready(register.as_mut().poll(context).is_ready())).await;
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // It lives on: only the registration was dropped.
        registrars.push(owner);
    }
    let stay = instance("stay")?;
    let _stay = probe.registrar().await.settle_in(&service, &stay).await?;
    // A write that is under way when its call is dropped may arrive a little later.
    sleep(probe.lapse(probe.ttl())).await;
    let within = probe.settle();
    let gone = probe.resolves_within(&service, within, "the one that stays alone", |snapshot| {
        is_exactly(snapshot, &[&stay])
    });
    let snapshot = gone.await?;
    ensure(has(&snapshot, &stay), || "the one that stays is gone".to_owned())
}
