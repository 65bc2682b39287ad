//! A server on the socket that another process passes, as systemd does (`LISTEN_FDS`); on one of its own otherwise.
//!
//! `systemd-socket-activate -l 50051 target/debug/socket-activation`, or
//! `cargo run -p hither-examples --bin socket-activation -- /run/greeter.sock`, or with `127.0.0.1:0`
//!
//! It advertises the address in `POD_IP`, if that is set.

use std::error::Error;

use hither::memory::MemoryRegistry;
use hither::tonic::{IpSource, Lifecycle, ListeningSocket};
use hither_examples::logging;
use listenfd::ListenFd;
use tonic::transport::Server;

fn main() -> Result<(), Box<dyn Error>> {
    logging::init();
    // Before there are threads, because it takes the variables out of the environment.
    let passed = passed(&mut ListenFd::from_env())?;
    tokio::runtime::Runtime::new()?.block_on(serve(passed))
}

/// The first socket that was passed to this process; of TCP or of the Unix domain.
fn passed(sockets: &mut ListenFd) -> Result<Option<ListeningSocket>, Box<dyn Error>> {
    if let Ok(socket) = sockets.take_unix_listener(0) {
        return Ok(socket.map(Into::into));
    }
    Ok(sockets.take_tcp_listener(0)?.map(Into::into))
}

async fn serve(passed: Option<ListeningSocket>) -> Result<(), Box<dyn Error>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut builder = Lifecycle::builder(MemoryRegistry::new()).service("greeter").health(reporter, [""; 0]);
    if std::env::var_os("POD_IP").is_some() {
        builder = builder.advertise_ip(IpSource::env("POD_IP"));
    }
    let place = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let server = match passed {
        Some(socket) => builder.listen(socket).await?,
        None if place.starts_with('/') => builder.bind_unix(place).await?,
        None => builder.bind(place).await?,
    };
    println!("listening on {}", server.local_addr());
    let addresses = server.registrations()[0].instance().addresses();
    println!("advertising {addresses:?}");
    server
        .serve(|incoming, shutdown| {
            Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
        })
        .await?;
    println!("shut down");
    Ok(())
}
