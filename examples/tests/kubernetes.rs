//! The manifest and the page on Kubernetes have the numbers of the library.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::time::Duration;

use hither::tonic::LifecycleBuilder;
use serde_norway::Value;

const MANIFEST: &str = include_str!("../kubernetes/greeter.yaml");
const PAGE: &str = include_str!("../../docs/kubernetes.md");

/// What Kubernetes grants where nothing is set.
const GRACE_PERIOD: u64 = 30;

fn shutdown() -> Duration {
    2 * LifecycleBuilder::DEFAULT_REGISTRY_TIMEOUT
        + LifecycleBuilder::DEFAULT_ANNOUNCE_DELAY
        + LifecycleBuilder::DEFAULT_PROPAGATION_DELAY
        + LifecycleBuilder::DEFAULT_DRAIN_TIMEOUT
        + LifecycleBuilder::AFTER_THE_CUT
}

fn manifest() -> Value {
    serde_norway::from_str(MANIFEST).unwrap()
}

fn pod() -> Value {
    manifest()["spec"]["template"]["spec"].clone()
}

fn container() -> Value {
    pod()["containers"][0].clone()
}

#[test]
fn the_grace_period_is_enough_for_all_steps_of_the_shutdown() {
    let grace = pod()["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert_eq!(grace, GRACE_PERIOD, "the defaults of both fit together");
    assert!(container().get("lifecycle").is_none(), "a preStop hook would be a part of the sum");
    assert!(shutdown() <= Duration::from_secs(grace), "{:?}", shutdown());
}

#[test]
fn the_page_has_the_defaults_and_their_sum() {
    let last_cell = |line: &'static str| line.trim_end_matches('|').rsplit('|').next().unwrap().trim();
    for (setting, default) in [
        ("registry_timeout", LifecycleBuilder::DEFAULT_REGISTRY_TIMEOUT),
        ("announce_delay", LifecycleBuilder::DEFAULT_ANNOUNCE_DELAY),
        ("propagation_delay", LifecycleBuilder::DEFAULT_PROPAGATION_DELAY),
        ("drain_timeout", LifecycleBuilder::DEFAULT_DRAIN_TIMEOUT),
    ] {
        let rows: Vec<_> = PAGE.lines().filter(|line| line.contains(&format!("| `{setting}` |"))).collect();
        assert!(!rows.is_empty(), "{setting} has no row");
        for row in rows {
            assert_eq!(last_cell(row), format!("{} s", default.as_secs_f64()), "{setting}");
        }
    }
    let sum = shutdown().as_secs_f64();
    assert!(PAGE.contains(&format!("| **together** | | **{sum} s** |")), "{sum}");
    assert!(PAGE.contains(&format!("**preStop + {sum} s must be at most")), "{sum}");
    let without_drain = sum - LifecycleBuilder::DEFAULT_DRAIN_TIMEOUT.as_secs_f64();
    assert!(PAGE.contains(&format!("needs {without_drain} s + 60 s, thus 70 s")), "{without_drain}");
}

#[test]
fn the_address_and_the_probes_are_as_the_page_has_them() {
    let container = container();
    let variables = container["env"].as_sequence().unwrap();
    let pod_ip = variables.iter().find(|variable| variable["name"] == "POD_IP").unwrap();
    assert_eq!(pod_ip["valueFrom"]["fieldRef"]["fieldPath"], "status.podIP");
    let registry = variables.iter().find(|variable| variable["name"] == "REGISTRY").unwrap();
    registry["value"].as_str().unwrap().parse::<hither::RegistryUrl>().unwrap();
    let port = &container["ports"][0]["containerPort"];
    assert_eq!(&container["readinessProbe"]["grpc"]["port"], port);
    // A server that drains for as long as it may must not be killed by the probe that finds its listener closed.
    let liveness = &container["livenessProbe"];
    assert!(liveness.get("grpc").is_none());
    let killed_after =
        liveness["periodSeconds"].as_u64().unwrap() * liveness["failureThreshold"].as_u64().unwrap();
    assert!(Duration::from_secs(killed_after) > shutdown());
}
