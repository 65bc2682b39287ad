//! Clients find servers.

use std::time::Duration;

use hither::tonic::DiscoveryChannel;
use hither::{Discovery, Instance, StaticRegistry};
use hither_examples::demo::SERVICE_NAME;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::etcd::Etcd;
use crate::program::Program;
use crate::{SERVICE, answer_of, busy_client, failures, key, records, registry};

#[tokio::test]
async fn calls_alternate_between_two_servers_whose_records_have_the_format_of_go() {
    let etcd = Etcd::start().await;
    let registry = registry(&etcd);
    let servers = [Program::server(&registry, &[]), Program::server(&registry, &[])];
    let mut ports = [servers[0].registered().await, servers[1].registered().await];
    ports.sort_unstable();

    let records = records(&etcd.client().await).await;
    assert_eq!(records.len(), 2, "{records:#?}");
    for (record, port) in records.iter().zip(ports) {
        assert_eq!(record.key, format!("grpc-demo/grpc/discover-demo/127.0.0.1:{port}"));
        assert_eq!(record.value, format!(r#"{{"Op":0,"Addr":"127.0.0.1:{port}","Metadata":null}}"#));
    }
    assert!(
        records[0].lease != 0 && records[1].lease != 0 && records[0].lease != records[1].lease,
        "{records:#?}"
    );

    let mut client = Program::client(&registry, &["--count", "30", "--interval", "100ms"]);
    assert_eq!(client.end().await.code(), Some(0), "{:?}", client.stderr.all());
    let lines = client.stdout.all();
    assert_eq!(lines.len(), 30, "{lines:#?}");
    let from = |(i, line): (usize, &String)| {
        ports.iter().position(|port| *line == format!("{i}: {}", answer_of(*port))).expect("an answer")
    };
    let answers: Vec<_> = lines.iter().enumerate().map(from).collect();
    // From the first answer of the other one on: until then it may still be being connected to.
    let both = answers.iter().position(|server| *server != answers[0]).expect("both answer");
    assert!(both < 25, "{lines:#?}");
    assert!(answers[both..].windows(2).all(|two| two[0] != two[1]), "{lines:#?}");
}

#[tokio::test]
async fn a_server_prints_its_address_and_its_registration() {
    let etcd = Etcd::start().await;
    let registry = registry(&etcd);
    let server = Program::server(&registry, &[]);
    let port = server.registered().await;
    let present = server.stdout.line(|line| line.starts_with("present: ")).await;
    assert_eq!(
        server.stdout.all(),
        [
            format!("listening on 127.0.0.1:{port}"),
            format!("registered {SERVICE} as 127.0.0.1:{port}"),
            format!("present: 127.0.0.1:{port}"),
        ]
    );
    assert_eq!(present, format!("present: 127.0.0.1:{port}"));
}

#[tokio::test]
async fn a_third_server_gets_calls_soon_and_no_call_fails() {
    let etcd = Etcd::start().await;
    let registry = registry(&etcd);
    let servers = [Program::server(&registry, &[]), Program::server(&registry, &[])];
    for server in &servers {
        server.registered().await;
    }
    let client = busy_client(&registry).await;
    let third = Program::server(&registry, &[]);
    let port = third.registered().await;
    let (registered, _) = third.stdout.timed(|line| line.starts_with("registered ")).await;
    let (called, _) = client.stdout.timed(|line| line.contains(&answer_of(port))).await;
    let within = called.saturating_duration_since(registered);
    assert!(within < Duration::from_secs(3), "{within:?}");
    assert_eq!(failures(&client), [""; 0]);
}

#[tokio::test]
async fn the_description_of_a_server_reaches_a_watch() {
    let etcd = Etcd::start().await;
    let registry = registry(&etcd);
    let arguments = ["--version", "1.2.3", "--zone", "eu-1a", "--meta", "shard=3", "--meta", "kind=canary"];
    let server = Program::server(&registry, &arguments);
    let port = server.registered().await;
    let watch = Program::start(env!("CARGO_BIN_EXE_watch"), &["--registry", &registry]);
    let line = watch.stdout.line(|line| line.contains(&format!("127.0.0.1:{port}"))).await;
    assert_eq!(line, format!(r#"  + 127.0.0.1:{port} zone=eu-1a version=1.2.3 kind="canary" shard="3""#));
    let records = records(&etcd.client().await).await;
    assert_eq!(records[0].key, key(port));
    let go_part = format!(r#"{{"Op":0,"Addr":"127.0.0.1:{port}","Metadata":null,"Hither":"#);
    assert!(records[0].value.starts_with(&go_part), "{records:#?}");
}

#[tokio::test]
async fn a_server_has_health_and_reflection() {
    let etcd = Etcd::start().await;
    let server = Program::server(&registry(&etcd), &[]);
    server.registered().await;
    let instance = Instance::new(server.address().await.to_string().parse().unwrap());
    let channel = DiscoveryChannel::builder(Discovery::new(StaticRegistry::new([instance])), SERVICE)
        .connect()
        .await
        .unwrap();
    for service in ["", SERVICE_NAME] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap();
        assert_eq!(
            answer.into_inner().status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(futures_util::stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let services: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(services.iter().any(|service| service == SERVICE_NAME), "{services:?}");
}
