//! Where a server listens: sockets that it is given, and Unix domain sockets.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use futures_util::future::join_all;
use hither_core::{Discovery, Snapshot};
use hither_memory::MemoryRegistry;
use hither_tonic::{DiscoveryChannel, ErrorKind, Lifecycle, LifecycleBuilder, ListeningSocket};
use tokio::net::UnixStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{NEVER, Running, seen, up, watch};

fn builder() -> LifecycleBuilder {
    Lifecycle::builder(MemoryRegistry::new()).service("greeter")
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// Calls the server that the registry has.
async fn call(registry: &MemoryRegistry) {
    let discovery = Discovery::new(registry.clone());
    let channel = DiscoveryChannel::builder(&discovery, "greeter").connect().await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_channel_finds_a_server_on_a_unix_socket_whose_file_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    let registry = MemoryRegistry::new();
    let mut snapshots = watch(&registry).await;
    let mut server =
        Running::start_at(registry.clone(), async |builder| builder.bind_unix(&path).await).await;

    let registered = seen(&mut snapshots, up).await;
    let address = format!("unix://{}", path.display());
    assert_eq!(registered.iter().next().unwrap().address().to_string(), address);
    assert_eq!(server.address, address);
    call(&registry).await;
    assert!(is_socket(&path));

    server.stop();
    seen(&mut snapshots, Snapshot::is_empty).await;
    server.ended().await.unwrap();
    assert!(!path.exists());
}

/// As in aquasecurity/tracee#3757 and katzenpost/katzenpost#1116.
#[tokio::test]
async fn the_socket_file_of_a_dead_process_is_replaced_and_that_of_a_living_one_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    // Closed, it leaves its file behind, as a process that was killed does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = builder().bind_unix(&path).await.unwrap();
    UnixStream::connect(&path).await.unwrap();

    let error = builder().bind_unix(&path).await.unwrap_err();
    assert_eq!((error.kind(), error.address()), (ErrorKind::Bind, Some(server.local_addr())));
    let expected = format!("cannot listen on {}: another process listens on it", path.display());
    assert_eq!(error.report(), expected);
    UnixStream::connect(&path).await.unwrap();
    drop(server);
    assert!(!path.exists(), "also if it was never served");
}

/// As in osrg/gobgp#2486, where a forced end left the file, so that the next start failed.
#[tokio::test]
async fn a_forced_end_and_a_drop_remove_the_file_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    let start = async || {
        let describe = async |builder: LifecycleBuilder| builder.drain_timeout(NEVER).bind_unix(&path).await;
        Running::start_at(MemoryRegistry::new(), describe).await
    };
    let mut server = start().await;
    // A connection that no shutdown would end.
    let _open = UnixStream::connect(&path).await.unwrap();
    server.stop();
    server.force();
    server.ended().await.unwrap();
    assert!(!path.exists());

    let server = start().await;
    server.served.abort();
    assert!(server.served.await.unwrap_err().is_cancelled());
    assert!(!path.exists());
}

/// As in grpc/grpc#17122, where whatever was there was removed.
#[tokio::test]
async fn a_file_that_is_no_socket_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    std::fs::write(&path, "precious").unwrap();
    let error = builder().bind_unix(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bind);
    assert!(error.report().ends_with("there is a file that is no socket"), "{}", error.report());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// As in grpc/grpc#17122, where the second server hid the first one, and took the file with it when it ended.
#[tokio::test]
async fn the_file_of_a_successor_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    let server = builder().bind_unix(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _successor = builder().bind_unix(&path).await.unwrap();
    drop(server);
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_replace_a_stale_file_at_once_one_wins_and_is_reachable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    for round in 0..20 {
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let racers = (0..8).map(|_| {
            let path = path.clone();
            tokio::spawn(async move { builder().bind_unix(path).await })
        });
        let outcomes = join_all(racers).await.into_iter().map(Result::unwrap);
        let won: Vec<_> = outcomes.filter_map(Result::ok).collect();
        assert_eq!(won.len(), 1, "in round {round}");
        UnixStream::connect(&path).await.unwrap();
        drop(won);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    }
}

#[tokio::test]
async fn unusable_paths_are_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/greeter.sock");
    let long = directory.path().join("x".repeat(120));
    for path in [missing, long] {
        let error = builder().bind_unix(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bind);
        assert_eq!(error.to_string(), format!("cannot listen on {}", path.display()));
    }
    let error = builder().bind_unix("/run/a\nb").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    // There is no port to put in the place of 0.
    let path = directory.path().join("greeter.sock");
    let error = builder().advertise("greeter.internal:0").bind_unix(&path).await.unwrap_err();
    assert!(error.to_string().contains("there is no port to advertise"), "{error}");
    assert!(!path.exists());
    let server = builder().advertise("sidecar.internal:80").bind_unix(&path).await.unwrap();
    assert_eq!(server.registrations()[0].instance().address().to_string(), "sidecar.internal:80");
}

#[tokio::test]
async fn a_server_takes_a_socket_that_listens_already() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
    let sockets: [ListeningSocket; 4] = [
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().into(),
        std::os::unix::net::UnixListener::bind(&first).unwrap().into(),
        tokio::net::UnixListener::bind(&second).unwrap().into(),
    ];
    for socket in sockets {
        let registry = MemoryRegistry::new();
        let mut snapshots = watch(&registry).await;
        let mut server =
            Running::start_at(registry.clone(), async move |builder| builder.listen(socket).await).await;
        seen(&mut snapshots, up).await;
        call(&registry).await;
        server.stop();
        server.ended().await.unwrap();
    }
    assert!(is_socket(&first) && is_socket(&second), "the files are not ours");
}

#[tokio::test]
async fn an_abstract_socket_has_no_address_to_advertise() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let name = SocketAddr::from_abstract_name(format!("hither-{}", std::process::id())).unwrap();
    let error = builder().listen(UnixListener::bind_addr(&name).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.report().contains("abstract"), "{}", error.report());
}

/// Tokio would panic.
#[test]
fn outside_a_runtime_a_server_is_an_error() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = futures_util::FutureExt::now_or_never(builder().listen(socket)).unwrap().unwrap_err();
    assert!(error.to_string().contains("runtime"), "{error}");
}
