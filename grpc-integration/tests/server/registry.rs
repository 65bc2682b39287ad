//! A server whose registry fails, hangs, or has another owner for the record.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{
    Claim, Error, ErrorKind, Instance, Lease, Registrar, Registration, RegistrationStatus, Resolver, Result,
    ServiceName, Snapshot,
};
use hither_memory::MemoryRegistry;
use hither_tonic::ErrorKind as TonicErrorKind;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::log::Log;
use crate::support::{
    NEVER, REGISTRY_TIMEOUT, Running, SOON, client, draining, greeter, health, seen, up, watch,
};

/// A registry that can be made unreachable or hang.
#[derive(Debug, Default)]
struct FaultyRegistry {
    down: AtomicBool,
    hangs: bool,
    attempts: AtomicUsize,
    registry: MemoryRegistry,
}

#[async_trait]
impl Registrar for FaultyRegistry {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the registry is down"));
        }
        self.registry.register(registration, claim).await
    }
}

#[tokio::test]
async fn a_registry_that_is_down_keeps_a_server_neither_from_starting_nor_from_stopping() {
    for hangs in [false, true] {
        let faulty = Arc::new(FaultyRegistry { down: true.into(), hangs, ..FaultyRegistry::default() });
        let mut server = Running::start(faulty, |builder| builder).await;
        let mut client = server.client().await;
        assert_eq!(health(&mut client).await, ServingStatus::Serving);
        server.stop();
        server.ended().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_is_registered_when_the_registry_is_up_and_each_change_is_reported_once() {
    let faulty = Arc::new(FaultyRegistry { down: true.into(), ..FaultyRegistry::default() });
    let mut snapshots = watch(&faulty.registry).await;
    let seen_statuses = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen_statuses);
    let mut server = Running::start(Arc::clone(&faulty), |builder| {
        builder.on_status(move |registration, status| {
            assert_eq!(registration.service().as_str(), "greeter");
            record.lock().unwrap().push(match status {
                RegistrationStatus::Registering => 1,
                RegistrationStatus::Retrying { .. } => 2,
                RegistrationStatus::Registered => 3,
                RegistrationStatus::Deregistering => 4,
                RegistrationStatus::Deregistered => 5,
                other => panic!("{other:?}"),
            });
        })
    })
    .await;
    let many = async {
        while faulty.attempts.load(Ordering::SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, many).await.expect("it should have been tried again");

    faulty.down.store(false, Ordering::SeqCst);
    seen(&mut snapshots, up).await;
    server.stop();
    server.ended().await.unwrap();

    let statuses = seen_statuses.lock().unwrap();
    assert!(statuses.is_sorted_by(|before, after| before < after), "each once: {statuses:?}");
    // The others may be over before the server looks.
    assert!([2, 3, 5].iter().all(|change| statuses.contains(change)), "{statuses:?}");
}

#[tokio::test]
async fn a_registry_that_hangs_keeps_no_server_from_stopping() {
    let log = Log::capture();
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server = Running::start(registry.clone(), |builder| builder).await;
    seen(&mut snapshots, up).await;
    let mut client = server.client().await;

    registry.faults().freeze();
    let asked = Instant::now();
    server.stop();
    server.ended().await.unwrap();

    let steps = 2 * REGISTRY_TIMEOUT;
    assert!(asked.elapsed() < steps + Duration::from_secs(2), "it took {:?}", asked.elapsed());
    assert!(client.check(HealthCheckRequest::default()).await.is_err());
    let lines = log.take();
    for expected in [
        "WARN draining not announced in time service=greeter timeout=200ms",
        "WARN deregistration failed; record expires by TTL service=greeter cause=",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(expected)), "no {expected} in {lines:#?}");
    }
    registry.faults().thaw();
    seen(&mut snapshots, Snapshot::is_empty).await;
}

#[tokio::test]
async fn a_server_of_several_services_registers_and_deregisters_each() {
    let registry = MemoryRegistry::new();
    let admin: ServiceName = "greeter/admin".parse().unwrap();
    let mut greeters = watch(&registry).await;
    let mut admins = registry.watch(&admin).await.unwrap();
    let mut server =
        Running::start(registry.clone(), |builder| builder.service(&admin).service("greeter")).await;

    let (greeter, admin) = (seen(&mut greeters, up).await, seen(&mut admins, up).await);
    assert!(greeter.iter().eq(admin.iter()), "one instance under both");

    server.stop();
    seen(&mut greeters, draining).await;
    seen(&mut admins, draining).await;
    seen(&mut greeters, Snapshot::is_empty).await;
    seen(&mut admins, Snapshot::is_empty).await;
    server.ended().await.unwrap();
    assert_eq!(registry.faults().live_leases(), 0);
}

/// A registry that calls each server as it registers, earlier than any client could.
#[derive(Debug, Default)]
struct CallingRegistry {
    answers: Mutex<Vec<ServingStatus>>,
    registry: MemoryRegistry,
}

#[async_trait]
impl Registrar for CallingRegistry {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        let answer = health(&mut client(registration.instance().address()).await).await;
        self.answers.lock().unwrap().push(answer);
        self.registry.register(registration, claim).await
    }
}

#[tokio::test]
async fn a_server_answers_and_is_healthy_before_it_is_registered() {
    let calling = Arc::new(CallingRegistry::default());
    let mut snapshots = watch(&calling.registry).await;
    let mut server = Running::start(Arc::clone(&calling), |builder| builder).await;
    seen(&mut snapshots, up).await;
    server.stop();
    server.ended().await.unwrap();
    assert_eq!(*calling.answers.lock().unwrap(), [ServingStatus::Serving]);
}

#[tokio::test]
async fn a_required_registration_that_fails_ends_the_server() {
    let faulty = Arc::new(FaultyRegistry { down: true.into(), ..FaultyRegistry::default() });
    // No client may have seen it, so that nothing is waited for.
    let server = Running::start(faulty, |builder| {
        builder
            .require_registration(Duration::from_millis(300))
            .announce_delay(NEVER)
            .propagation_delay(NEVER)
    })
    .await;
    let address = server.address.clone();

    let error = server.ended().await.unwrap_err();

    assert_eq!((error.kind(), error.service()), (TonicErrorKind::NotRegistered, Some(&greeter())));
    assert_eq!(error.to_string(), "greeter was not registered within 300ms");
    assert_eq!(error.registry_error().map(Error::kind), Some(ErrorKind::Unavailable), "{error:?}");
    assert!(error.report().ends_with("the registry is down"), "{}", error.report());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_superseded_server_goes_on_serving_and_logs_one_error() {
    let log = Log::capture();
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let mut server = Running::start(registry.clone(), |builder| {
        builder.ttl(Duration::from_secs(1)).on_status(move |_, status| {
            if let RegistrationStatus::Superseded = status {
                report.send(()).unwrap();
            }
        })
    })
    .await;
    let ours = seen(&mut snapshots, up).await;

    let successor = Registration::new(greeter(), Instance::clone(ours.iter().next().unwrap())).unwrap();
    let _lease = registry.connect().register(&successor, Claim::TakeOver).await.unwrap();
    timeout(SOON, reported.recv()).await.expect("it should have been reported").unwrap();

    assert_eq!(health(&mut server.client().await).await, ServingStatus::Serving);
    let address = server.address.clone();
    server.stop();
    server.ended().await.unwrap();
    assert_eq!(registry.resolve(&greeter()).await.unwrap().len(), 1, "the successor's record stays");
    let lines: Vec<_> = log
        .take_all()
        .into_iter()
        .filter(|line| line.starts_with("ERROR") || line.starts_with("WARN"))
        .collect();
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert!(line.starts_with("ERROR"), "{line}");
    for part in ["superseded", "service=greeter", &format!("address={address}"), "cause="] {
        assert!(line.contains(part), "{line} has no {part}");
    }
}

#[tokio::test]
async fn a_status_listener_that_panics_stops_no_server() {
    let log = Log::capture();
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server =
        Running::start(registry, |builder| builder.on_status(|_, status| panic!("a bug at {status:?}")))
            .await;
    seen(&mut snapshots, up).await;
    let mut client = server.client().await;
    assert_eq!(health(&mut client).await, ServingStatus::Serving);
    server.stop();
    server.ended().await.unwrap();
    let lines = log.take();
    let line = "ERROR status listener panicked service=greeter cause=\"a bug at Registered\"";
    assert!(lines.iter().any(|logged| logged == line), "{lines:#?}");
}
