//! Making the calls.

use std::time::Duration;

use hither_core::AddressKind;
use hither_tonic::{CalledInstance, DiscoveryChannel, ReadyInstance};
use http::uri::PathAndQuery;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::client::Grpc;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::FIRST_PORT;
use super::load::Call;
use super::outcomes::{Outcome, Outcomes};

/// Makes each call at its time over the channel of its caller, and returns when all have ended.
pub(crate) async fn make(channels: &[DiscoveryChannel], calls: &[Call], deadline: Duration) -> Outcomes {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (index, call) in calls.iter().enumerate() {
        sleep_until(began + call.at).await;
        let (channel, call) = (channels[call.caller].clone(), *call);
        tasks.spawn(async move { (index, one(channel, call, deadline).await) });
    }
    let mut outcomes = tasks.join_all().await;
    outcomes.sort_unstable_by_key(|(index, _)| *index);
    Outcomes::new(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

async fn one(channel: DiscoveryChannel, call: Call, deadline: Duration) -> Outcome {
    let began = Instant::now();
    let mut client = Grpc::new(channel);
    let mut request = Request::new(call.work);
    request.set_timeout(deadline);
    let called = CalledInstance::default();
    request.extensions_mut().insert(called.clone());
    let path = PathAndQuery::from_static("/hither.Fleet/Call");
    let code = match client.ready().await {
        Ok(()) => client
            .unary::<u64, (), _>(request, path, ProstCodec::new())
            .await
            .map_or_else(|s| s.code(), |_| Code::Ok),
        Err(_) => Code::Unknown,
    };
    Outcome {
        at: call.at,
        caller: call.caller,
        took: began.elapsed(),
        code,
        server: called.get().map(|instance| server_of(&instance)),
    }
}

fn server_of(instance: &ReadyInstance) -> usize {
    match instance.instance().address().kind() {
        AddressKind::Socket(address) => usize::from(address.port()) - FIRST_PORT,
        _ => unreachable!("the servers of a fleet have no other addresses"),
    }
}
