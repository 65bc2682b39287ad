//! A backend of your own in use: a directory of files.
//!
//! `cargo run -p hither-examples --bin custom-backend`

use std::error::Error;
use std::time::Duration;

use hither::{Discovery, Instance, Registration, RegistrationConfig, keep_registered};
use hither_examples::directory::DirectoryRegistry;
use hither_examples::logging;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logging::init();
    let root = std::env::temp_dir().join(format!("hither-{:016x}", fastrand::u64(..)));
    std::fs::create_dir(&root)?;
    println!("the registry is {}", root.display());
    let outcome = run(&root).await;
    std::fs::remove_dir_all(&root)?;
    outcome
}

async fn run(root: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let mut greeter = Discovery::new(DirectoryRegistry::new(root)).service(&"greeter".parse()?);

    // Everything above the two traits works as with etcd: renewals, retries, watches, load balancing.
    let mut servers = Vec::new();
    for port in [8001, 8002] {
        let instance = Instance::new(format!("10.0.0.7:{port}").parse()?);
        let registration =
            Registration::new("greeter".parse()?, instance)?.with_ttl(Duration::from_secs(3))?;
        let server =
            keep_registered(DirectoryRegistry::new(root), registration, RegistrationConfig::default());
        server.registered().await?;
        servers.push(server);
    }
    while greeter.changed().await?.instances().count() < servers.len() {}
    for instance in greeter.current().instances() {
        println!("found {}", instance.address());
    }

    for server in &servers {
        server.deregister().await?;
    }
    while greeter.changed().await?.instances().next().is_some() {}
    println!("all are deregistered");
    Ok(())
}
