//! Who is called.

use hither_tonic::DiscoveryChannel;

use crate::support::{Client, Registry, Server};

#[tokio::test]
async fn a_service_is_called_by_its_name() {
    let mut registry = Registry::new();
    let server = Server::start().await;
    registry.up(&server.address).await;
    let channel = DiscoveryChannel::builder(registry.resolver(), "greeter").connect().await.unwrap();
    assert_eq!(Client::new(&channel).name().await.unwrap(), server.address);
}
