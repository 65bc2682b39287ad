//! The share of calls that each policy gives an instance, beside its share by weight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{HasId, Instance, SortedById};
use http::{Extensions, HeaderMap};
use tokio::time::{Instant, advance};
use tonic::Code;

use super::{
    CallInfo, LeastRequest, LoadBalancingPolicy, Outcome, PeakEwma, Pick, Picker, RingHash, RoundRobin,
    Sticky,
};
use crate::client::ready_instance::{InFlight, ReadyInstance};

/// Weights of the registry, and the factors of the channel: of a slow start, or of tiers.
type Weights = Vec<(u32, f64)>;

fn ready(weights: &Weights) -> SortedById<ReadyInstance> {
    let instance = |(number, (weight, factor)): (usize, &(u32, f64))| {
        let id = format!("i{number:02}").parse().unwrap();
        let instance = Instance::new("h:1".parse().unwrap()).with_id(id).with_weight(*weight);
        ReadyInstance::new(Arc::new(instance)).with_factor(*factor)
    };
    weights.iter().enumerate().map(instance).collect()
}

/// How long calls take on equally fast servers.
#[derive(Debug, Clone, Copy)]
enum Latency {
    Fixed,
    Exponential,
}

impl Latency {
    fn draw(self, random: &mut fastrand::Rng) -> Duration {
        let mean = Duration::from_millis(10);
        match self {
            Self::Fixed => mean,
            Self::Exponential => mean.mul_f64(-(1.0 - random.f64()).ln()),
        }
    }
}

/// The calls that each instance gets of so many, where so many are in flight all the time.
async fn calls(
    picker: &dyn Picker,
    ready: &SortedById<ReadyInstance>,
    latency: Latency,
    callers: usize,
    calls: usize,
) -> Vec<f64> {
    let (headers, extensions, mut counts) = (HeaderMap::new(), Extensions::new(), vec![0.0; ready.len()]);
    let mut random = fastrand::Rng::with_seed(7);
    let mut open = BTreeMap::<(Instant, usize), (InFlight, Duration)>::new();
    for number in 0..calls {
        if open.len() == callers {
            let ((end, _), (call, took)) = open.pop_first().unwrap();
            advance(end - Instant::now()).await;
            picker.done(call.picked(), &Outcome::new(Code::Ok, took));
        }
        let Pick::Instance(picked) = picker.pick(&CallInfo::new("/", &headers, &extensions)) else {
            panic!("no instance")
        };
        counts[ready.position(picked.instance().id()).unwrap()] += 1.0;
        let takes = latency.draw(&mut random);
        open.insert((Instant::now() + takes, number), (picked.started(), takes));
    }
    counts
}

fn lists() -> Vec<Weights> {
    let plain = |weights: &[u32]| weights.iter().map(|weight| (*weight, 1.0)).collect::<Weights>();
    let of_50 = |last: &[u32]| plain(&[&vec![1; 50 - last.len()][..], last].concat());
    let factors = |factors: &[f64]| factors.iter().map(|factor| (1, *factor)).collect::<Weights>();
    vec![
        plain(&[1, 1, 1]),
        plain(&[10, 10, 1]),
        plain(&[100, 100, 1]),
        plain(&[1, 2, 3]),
        plain(&[1, 10, 0]),
        plain(&[1, 1, 1, 1, 5]),
        plain(&[3, 0, 3, 0, 1]),
        plain(&[u32::MAX, u32::MAX, u32::MAX, 1, 0]),
        of_50(&[10, 10]),
        of_50(&[0]),
        (0..50).map(|number| (1 + number % 7, 1.0)).collect(),
        // A slow start's first and second step; one of fifty, and nearly all of them.
        factors(&[1.0, 1.0, 0.1]),
        factors(&[1.0, 1.0, 1.0, 0.1, 0.15]),
        factors(&[&vec![1.0; 49][..], &[0.1]].concat()),
        factors(&[&vec![0.1; 49][..], &[1.0]].concat()),
        // Two of three of a zone are left, with 93 % of the calls; a tier of which hardly anything is.
        factors(&[1.0, 1.0, 0.05, 0.05, 0.05]),
        [(10, 1.0), (1, 1.0), (1, 0.5), (4, 0.5), (1, 0.5)].to_vec(),
    ]
}

/// Each share is near that by weight, to five standard deviations of calls that were drawn, and to a part of the share itself
/// that the policy may be off by.
async fn are_by_weight(policy: fn() -> Box<dyn LoadBalancingPolicy>, latency: Latency, tolerance: f64) {
    const CALLS: usize = 2000;
    let mut wrong = Vec::new();
    for weights in lists() {
        let ready = ready(&weights);
        let total: f64 = ready.iter().map(ReadyInstance::weight).sum();
        for callers in [1, 8] {
            let picker = policy().picker(&ready);
            let counts = calls(&*picker, &ready, latency, callers, CALLS).await;
            for (instance, count) in ready.iter().zip(&counts) {
                let share = instance.weight() / total;
                let expected = CALLS as f64 * share;
                // Where less than one call is in flight by weight, one more is more than that: it has fewer, and never more.
                let is_short = share * (callers as f64) < 1.0 && callers > 1 && *count < expected;
                let tolerance = if is_short { tolerance.max(0.45) } else { tolerance };
                let margin = 5.0 * (expected * (1.0 - share)).sqrt() + tolerance * expected;
                if (count - expected).abs() > margin || (share == 0.0 && *count > 0.0) {
                    wrong.push(format!("{weights:?} {callers}: {count:.0}, not {expected:.1}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn round_robin_gives_each_its_share() {
    are_by_weight(|| Box::new(RoundRobin::default().with_seed(1)), Latency::Fixed, 0.0).await;
}

/// To how many calls in flight a share comes is no whole number.
#[tokio::test(start_paused = true)]
async fn least_request_gives_each_its_share() {
    for latency in [Latency::Fixed, Latency::Exponential] {
        are_by_weight(|| Box::new(LeastRequest::default().with_seed(1)), latency, 0.15).await;
    }
}

/// What is called more often has its slowest call later, where they differ much.
#[tokio::test(start_paused = true)]
async fn peak_ewma_gives_each_its_share() {
    for (latency, tolerance) in [(Latency::Fixed, 0.15), (Latency::Exponential, 0.4)] {
        are_by_weight(|| Box::new(PeakEwma::default().with_seed(1)), latency, tolerance).await;
    }
}

/// Or all clients would call the same server at the same time, over and over (thundering herd).
#[test]
fn policies_without_a_seed_draw_unlike_each_other() {
    let policies: [fn() -> Box<dyn LoadBalancingPolicy>; 4] = [
        || Box::<RoundRobin>::default(),
        || Box::<LeastRequest>::default(),
        || Box::<PeakEwma>::default(),
        || Box::<RingHash>::default(),
    ];
    let (headers, extensions) = (HeaderMap::new(), Extensions::new());
    for weights in [vec![(1, 1.0); 100], (1..=100).map(|weight| (weight, 1.0)).collect()] {
        let ready = ready(&weights);
        for policy in policies {
            let picks: std::collections::BTreeSet<_> = (0..20)
                .map(|_| match policy().picker(&ready).pick(&CallInfo::new("/", &headers, &extensions)) {
                    Pick::Instance(picked) => picked.instance().id().clone(),
                    pick => panic!("{pick:?}"),
                })
                .collect();
            assert!(picks.len() > 5, "{:?}: {picks:?}", policy());
        }
    }
}

/// Policies may be given what is left by another one.
#[test]
fn calls_are_queued_while_there_is_nothing_to_pick() {
    let policies: [Box<dyn LoadBalancingPolicy>; 6] = [
        Box::<RoundRobin>::default(),
        Box::<LeastRequest>::default(),
        Box::<PeakEwma>::default(),
        Box::<RingHash>::default(),
        Box::new(RingHash::default().with_balance_factor(150)),
        Box::<Sticky>::default(),
    ];
    let (headers, extensions) = (HeaderMap::new(), Extensions::new());
    let call = CallInfo::new("/", &headers, &extensions);
    for mut policy in policies {
        for weights in [&[][..], &[(1, 1.0), (2, 1.0)], &[], &[(1, 1.0); 3], &[], &[(0, 1.0)], &[]] {
            let pick = policy.picker(&ready(&weights.to_vec())).pick(&call);
            assert_eq!(matches!(pick, Pick::Queue), weights.is_empty(), "{policy:?}: {pick:?}");
        }
    }
}

/// Calls without a key: the ring has as many slots as its memory is bounded to.
#[tokio::test(start_paused = true)]
async fn ring_hash_gives_each_its_share() {
    are_by_weight(|| Box::new(RingHash::default().with_seed(1)), Latency::Fixed, 0.25).await;
}
