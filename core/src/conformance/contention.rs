//! Several processes write at the same time.

use futures_util::future::join_all;

use super::failure::{Failure, expect_kind};
use super::probe::{Probe, instance, is_exactly, registration};
use crate::{Claim, ErrorKind};

const REGISTRARS: usize = 8;

pub(super) async fn concurrent_registrations_of_one_service_are_all_kept(
    mut probe: Probe,
) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let mut owners = Vec::new();
    for number in 0..REGISTRARS {
        owners.push((probe.registrar().await, instance(&format!("concurrent-{number}"))?));
    }
    let registering = owners.iter().map(|(owner, instance)| owner.settle_in(&service, instance));
    let _leases = join_all(registering).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let instances: Vec<_> = owners.iter().map(|(_, instance)| instance).collect();
    probe.resolves_to(&service, "all", |snapshot| is_exactly(snapshot, &instances)).await.map(drop)
}

pub(super) async fn only_one_of_concurrent_claims_of_an_id_succeeds(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let mut claims = Vec::new();
    for number in 0..REGISTRARS {
        let claimed = a.clone().with_metadata("owner", number.to_string());
        claims.push((probe.registrar().await, claimed));
    }
    let registering = claims.iter().map(async |(owner, claimed)| {
        let registration = registration(&service, claimed)?.with_ttl(owner.long_ttl())?;
        Ok::<_, Failure>((owner.attempt(&registration, Claim::IfVacant).await?, claimed))
    });
    let mut winners = Vec::new();
    for result in join_all(registering).await {
        match result? {
            (Ok(lease), claimed) => winners.push((lease, claimed)),
            (error, _) => expect_kind(error, &[ErrorKind::Superseded], "a claim of an id that is taken")?,
        }
    }
    let [(_lease, winner)] = &winners[..] else {
        return Err(Failure::new(format!("{} registrars got the id; expected 1", winners.len())));
    };
    probe
        .resolves_to(&service, "the winner's record", |snapshot| is_exactly(snapshot, &[winner]))
        .await
        .map(drop)
}
