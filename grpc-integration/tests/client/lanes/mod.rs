//! Lanes, end to end.

mod calls;
mod capacity;
mod changes;
mod connecting;
mod panics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hither_core::{Instance, InstanceState, SortedById};
use hither_tonic::{
    ChannelBuilder, DiscoveryChannel, ErrorKind, HedgingPolicy, Lane, LaneFallback, Lanes, LeastRequest,
    LoadBalancingPolicy, MethodConfig, OutlierDetection, Picker, ReadyInstance, RetryBudget, RetryPolicy,
    RoundRobin, SlowStart, Sticky, WaitForReady,
};
use http::HeaderName;
use tokio::time::{sleep, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::support::{Client, Log, Net, Registry, SERVICE, Server, path, until};
use crate::{SECOND, channel};

fn lanes() -> Lanes {
    Lanes::by_metadata("lane", LeastRequest::default).with_header(HeaderName::from_static("x-lane"))
}

fn described(server: &Server, lane: &str) -> Instance {
    let instance = Instance::new(server.address.parse().unwrap());
    if lane.is_empty() { instance } else { instance.with_metadata("lane", lane) }
}

/// Servers by name; those whose name begins with `c` are the canary, and all others the default lane.
struct Fleet {
    registry: Registry,
    net: Net,
    servers: Vec<Server>,
}

impl Fleet {
    async fn new(names: &[&str]) -> Self {
        let mut fleet = Self { registry: Registry::new(), net: Net::new(), servers: Vec::new() };
        for name in names {
            let server = Server::described(&fleet.net, &format!("{name}:1"), |server| {
                server.max_concurrent_streams(2)
            });
            let lane = if name.starts_with('c') { "canary" } else { "" };
            fleet.registry.put(described(&server, lane)).await;
            fleet.servers.push(server);
        }
        fleet
    }

    fn channel(&self, lanes: Lanes) -> ChannelBuilder {
        channel(&self.registry, &self.net).policy(lanes).max_connections(1)
    }

    async fn client(&self, builder: ChannelBuilder) -> Client {
        let client = Client::new(&builder.connect().await.unwrap());
        sleep(SECOND).await;
        client
    }

    fn calls(&self) -> Vec<usize> {
        self.servers.iter().map(Server::calls).collect()
    }
}

fn to(lane: &'static str) -> Request<String> {
    let mut request = Request::new(String::new());
    if !lane.is_empty() {
        request.extensions_mut().insert(Lane::new(lane));
    }
    request
}

async fn call(client: &Client, method: &str, lane: &'static str) -> Result<String, Status> {
    client.call(method, to(lane)).await.map(tonic::Response::into_inner)
}
