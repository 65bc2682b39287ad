//! Resolving returns what is registered, and nothing else.

use futures_util::future::join_all;

use super::failure::{Failure, ensure};
use super::probe::{Probe, cannot, ids, instance, is_exactly};
use crate::{Address, Instance, InstanceId, InstanceState, ServiceName};

/// Above the page sizes that registries commonly have, 100 and 128.
const MANY: usize = 150;

pub(super) async fn an_unknown_service_is_empty(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("unknown")?;
    let snapshot = probe.resolve(&service).await?;
    ensure(snapshot.is_empty(), || format!("{service} has {:?}", ids(&snapshot)))
}

pub(super) async fn a_registration_can_be_resolved(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let _lease = probe.registrar().await.settle_in(&service, &a).await?;
    probe.resolves_to(&service, "the instance", |snapshot| is_exactly(snapshot, &[&a])).await.map(drop)
}

pub(super) async fn every_field_of_an_instance_is_kept(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let full = Instance::new("[2001:db8::1]:443".parse()?)
        .with_id(InstanceId::new("greeter-7")?)
        .with_address("10.0.0.7:443".parse()?)
        .with_weight(30)
        .with_zone("eu-1a")
        .with_version("1.2.3")
        .with_state(InstanceState::Draining)
        .with_metadata("shard", "3")
        .with_metadata("empty", "");
    let unix: Address = "unix:///run/greeter.sock".parse()?;
    let unix = Instance::new(unix).with_weight(0);
    let owner = probe.registrar().await;
    let _leases = (owner.settle_in(&service, &full).await?, owner.settle_in(&service, &unix).await?);
    let snapshot = probe.resolves_to(&service, "both", |snapshot| snapshot.len() == 2).await?;
    ensure(is_exactly(&snapshot, &[&full, &unix]), || {
        format!("registered {full:?} and {unix:?}, resolved {snapshot:?}")
    })
}

pub(super) async fn awkward_text_is_kept(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("例え %2F svc.v1:x")?;
    let awkward = "quote\" back\\slash <&> line\u{2028} 😀 \u{0}\n";
    let a = Instance::new("svc.例え.jp:80".parse()?)
        .with_metadata("key with = and \"", awkward)
        .with_zone(awkward)
        .with_version("a/b");
    let _lease = probe.registrar().await.settle_in(&service, &a).await?;
    let snapshot = probe.resolves_to(&service, "the instance", |snapshot| snapshot.len() == 1).await?;
    ensure(is_exactly(&snapshot, &[&a]), || format!("registered {a:?}, resolved {snapshot:?}"))
}

pub(super) async fn instances_are_sorted_by_id(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let owner = probe.registrar().await;
    let mut leases = Vec::new();
    for name in ["c", "a", "d", "b"] {
        leases.push(owner.settle_in(&service, &instance(name)?).await?);
    }
    let snapshot = probe.resolves_to(&service, "four instances", |snapshot| snapshot.len() == 4).await?;
    ensure(ids(&snapshot).is_sorted(), || format!("the order is {:?}", ids(&snapshot)))
}

pub(super) async fn a_service_does_not_include_one_with_the_same_prefix(
    mut probe: Probe,
) -> Result<(), Failure> {
    let (short, long) = (probe.service("svc")?, probe.service("svc2")?);
    apart(&mut probe, &short, &long).await
}

pub(super) async fn a_service_does_not_include_services_below_it(mut probe: Probe) -> Result<(), Failure> {
    let (upper, deeper) = (probe.service("a")?, probe.service("a/b")?);
    apart(&mut probe, &upper, &deeper).await
}

/// More than a page of whatever the registry lists by.
pub(super) async fn a_service_with_many_instances_is_complete(mut probe: Probe) -> Result<(), Failure> {
    let service = probe.service("svc")?;
    let owner = probe.registrar().await;
    let mut watch = probe.watch(&service).await?;
    let instances =
        (0..MANY).map(|number| instance(&format!("many-{number}"))).collect::<Result<Vec<_>, _>>()?;
    let mut leases = Vec::new();
    for some in instances.chunks(50) {
        let registering = some.iter().map(|instance| owner.settle_in(&service, instance));
        leases.extend(join_all(registering).await.into_iter().collect::<Result<Vec<_>, _>>()?);
    }
    let all: Vec<_> = instances.iter().collect();
    probe.resolves_to(&service, "all instances", |snapshot| is_exactly(snapshot, &all)).await?;
    watch.comes_to("all instances", |snapshot| is_exactly(snapshot, &all)).await?;
    let first = probe.watch(&service).await?.next().await?;
    ensure(is_exactly(&first, &all), || format!("the first snapshot of a new watch has {}", first.len()))
}

async fn apart(probe: &mut Probe, one: &ServiceName, other: &ServiceName) -> Result<(), Failure> {
    let (a, b) = (instance("a")?, instance("b")?);
    let owner = probe.registrar().await;
    let _leases = (owner.settle_in(one, &a).await?, owner.settle_in(other, &b).await?);
    probe.resolves_to(one, "only its own instance", |snapshot| is_exactly(snapshot, &[&a])).await?;
    probe.resolves_to(other, "only its own instance", |snapshot| is_exactly(snapshot, &[&b])).await.map(drop)
}

pub(super) async fn an_undecodable_record_is_skipped(mut probe: Probe) -> Result<(), Failure> {
    let (service, a) = (probe.service("svc")?, instance("a")?);
    let _lease = probe.registrar().await.settle_in(&service, &a).await?;
    if !probe.harness().put_garbage(&service).await {
        return Err(cannot("cannot put garbage", "garbage"));
    }
    probe
        .resolves_to(&service, "only the good record", |snapshot| is_exactly(snapshot, &[&a]))
        .await
        .map(drop)
}
