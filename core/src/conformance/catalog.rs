//! A catalog lists the services that have instances.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::failure::{Failure, ensure};
use super::probe::{Probe, instance, within};
use crate::ServiceName;

pub(super) async fn a_catalog_lists_the_services_with_instances(probe: Probe) -> Result<(), Failure> {
    let (one, two) = (probe.service("one")?, probe.service("two")?);
    let owner = probe.registrar().await;
    let mut leaving = owner.settle_in(&one, &instance("a")?).await?;
    let _leases =
        (owner.settle_in(&two, &instance("a")?).await?, owner.settle_in(&two, &instance("b")?).await?);
    // Others may use the registry at the same time, so only our services count.
    let ours = |services: &[ServiceName]| {
        services.iter().filter(|service| **service == one || **service == two).cloned().collect::<Vec<_>>()
    };
    lists(&probe, None, |services| ours(services) == [one.clone(), two.clone()]).await?;
    lists(&probe, None, |services| services.is_sorted()).await?;
    leaving.revoke().await?;
    lists(&probe, None, |services| ours(services) == [two.clone()]).await
}

pub(super) async fn a_catalog_lists_a_service_and_those_below_it(probe: Probe) -> Result<(), Failure> {
    let owner = probe.registrar().await;
    let mut leases = Vec::new();
    for name in ["a", "a/b", "a/b/c", "ab"] {
        leases.push(owner.settle_in(&probe.service(name)?, &instance("x")?).await?);
    }
    let under = probe.service("a")?;
    let expected = [probe.service("a")?, probe.service("a/b")?, probe.service("a/b/c")?];
    lists(&probe, Some(&under), |services| services == expected).await
}

async fn lists(
    probe: &Probe,
    under: Option<&ServiceName>,
    is_expected: impl Fn(&[ServiceName]) -> bool,
) -> Result<(), Failure> {
    let catalog = probe.catalog().await?;
    let deadline = Instant::now() + probe.settle();
    loop {
        let services = within(probe.settle(), "listing services", catalog.services(under)).await??;
        if is_expected(&services) {
            return Ok(());
        }
        ensure(Instant::now() < deadline, || format!("the catalog lists {services:?}"))?;
        sleep(Duration::from_millis(20)).await;
    }
}
