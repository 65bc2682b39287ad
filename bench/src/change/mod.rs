//! What a change of a service costs, from the snapshot of its registry until the picker without what is gone, or with what
//! is new, is there.

mod fake;
mod polls;

use std::sync::Arc;
use std::time::Duration;
#[allow(clippy::disallowed_types, reason = "what is measured is real time")]
use std::time::Instant;

use hither_core::{Discovery, Instance, ServiceName, Snapshot, SortedById, WatcherConfig};
use hither_tonic::{DiscoveryChannel, RoundRobin};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::Result;
use fake::{FakeConnector, Feed, Observed};
use polls::Polls;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many instances the service has. All are connected, to servers that do not exist.
    #[arg(long, default_value_t = 1000)]
    instances: usize,
    /// How many changes of one instance are made.
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Makes the changes and prints nothing, for callgrind.
    #[arg(long)]
    count: bool,
    /// Also removes this many instances at once, and adds them again, with the time of each task.
    #[arg(long)]
    lose: Option<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let polls = Polls::default();
    if arguments.lose.is_some() {
        polls.install()?;
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut scene = runtime.block_on(Scene::start(arguments.instances))?;
    if arguments.count {
        return counted(&runtime, &mut scene, arguments.changes);
    }
    let mut times = Times::default();
    runtime.block_on(scene.change(arguments.changes, &mut times))?;
    println!("{} instances, {} changes of each kind:", arguments.instances, arguments.changes);
    for (kind, times) in [("removed", times.removed), ("changed", times.changed), ("added", times.added)] {
        println!("  {kind}: {}", spread(times));
    }
    let began = now();
    let known = scene.channel.status().instances().len();
    println!("  status of {known}: {:?}", began.elapsed());
    if let Some(lost) = arguments.lose {
        println!("  until now:{}", polls.take());
        runtime.block_on(scene.lose(lost, &polls))?;
    }
    Ok(())
}

/// What is counted: callgrind collects inside of this function alone.
#[inline(never)]
fn counted(runtime: &Runtime, scene: &mut Scene, changes: usize) -> Result<()> {
    runtime.block_on(scene.change(changes, &mut Times::default()))
}

/// A channel to a service of many instances.
struct Scene {
    service: ServiceName,
    all: Vec<Arc<Instance>>,
    /// As a backend keeps them.
    instances: SortedById<Arc<Instance>>,
    registry: watch::Sender<Snapshot>,
    ready: watch::Receiver<usize>,
    discovery: Discovery,
    channel: DiscoveryChannel,
}

#[derive(Default)]
struct Times {
    removed: Vec<Duration>,
    changed: Vec<Duration>,
    added: Vec<Duration>,
}

impl Scene {
    async fn start(count: usize) -> Result<Self> {
        let service: ServiceName = "bench".parse()?;
        let all = (0..count)
            .map(|number| {
                let [_, a, b, c] = u32::try_from(number)?.to_be_bytes();
                Ok(Arc::new(Instance::new(format!("10.{a}.{b}.{c}:8001").parse()?)))
            })
            .collect::<Result<Vec<_>>>()?;
        let instances: SortedById<_> = all.iter().cloned().collect();
        let (registry, snapshots) = watch::channel(Snapshot::of(service.clone(), instances.clone()));
        let (ready, mut readiness) = watch::channel(0);
        // Without the time for coalescing, which is a wait and no work.
        let config = WatcherConfig::default().with_coalesce(Duration::ZERO);
        let discovery = Discovery::builder(Feed(snapshots)).config(config).build();
        let channel = DiscoveryChannel::builder(&discovery, service.clone())
            .policy(Observed { policy: RoundRobin::default().with_seed(1), ready })
            .connector(FakeConnector)
            .connect_lazy()?;
        readiness.wait_for(|ready| *ready == count).await?;
        Ok(Self { service, all, instances, registry, ready: readiness, discovery, channel })
    }

    /// Removes one instance, adds it again, and changes its weight, again and again.
    async fn change(&mut self, changes: usize, times: &mut Times) -> Result<()> {
        for number in 0..changes {
            let one = Arc::clone(&self.all[number * 7919 % self.all.len()]);
            let other = Arc::new(Instance::clone(&one).with_weight(2));
            times.changed.push(self.publish(|instances| drop(instances.insert(other))).await?);
            times.removed.push(self.publish(|instances| drop(instances.remove(one.id()))).await?);
            times.added.push(self.publish(|instances| drop(instances.insert(one))).await?);
        }
        Ok(())
    }

    /// Publishes a change in the registry, and returns how long it took until the picker was there.
    async fn publish(&mut self, change: impl FnOnce(&mut SortedById<Arc<Instance>>)) -> Result<Duration> {
        // Until everything that the last change began has ended, and nothing is coalesced any more.
        tokio::time::sleep(Duration::from_millis(3)).await;
        self.ready.mark_unchanged();
        let began = now();
        change(&mut self.instances);
        self.send();
        self.ready.changed().await?;
        let took = began.elapsed();
        self.ready.wait_for(|ready| *ready == self.instances.len()).await?;
        Ok(took)
    }

    /// Removes many instances at once, and adds them again.
    async fn lose(&mut self, lost: usize, polls: &Polls) -> Result<()> {
        let mut view = self.discovery.service(&self.service);
        let all = self.instances.clone();
        for (what, present) in [("lost", all.iter().skip(lost).cloned().collect()), ("returned", all.clone())]
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
            view.current();
            let began = now();
            self.instances = present;
            self.send();
            while view.changed().await?.instances().count() != self.instances.len() {}
            let resolved = began.elapsed();
            self.ready.wait_for(|ready| [self.instances.len(), all.len()].contains(ready)).await?;
            // The pool has more to do.
            tokio::time::sleep(Duration::from_millis(500)).await;
            println!("  {lost} {what}: known after {resolved:?}{}", polls.take());
        }
        Ok(())
    }

    fn send(&self) {
        self.registry.send_replace(Snapshot::of(self.service.clone(), self.instances.clone()));
    }
}

#[allow(clippy::disallowed_types, reason = "what is measured is real time")]
fn now() -> Instant {
    Instant::now()
}

/// The median, and from where to where.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    match &times[..] {
        [] => "nothing".to_owned(),
        [least, .., most] => format!("{:?} ({least:?} to {most:?})", times[times.len() / 2]),
        [only] => format!("{only:?}"),
    }
}
