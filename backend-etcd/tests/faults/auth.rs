//! Authentication, enabled and disabled. Server and client have the least permissions that they
//! need, as in the crate's documentation.

use std::time::Duration;

use etcd_client::ConnectOptions;
use hither_core::ServiceName;
use hither_etcd::EtcdConfig;
use tokio::time::sleep;

use crate::report::Row;
use crate::scene::{Lease, Scene, TTL, Truth};
use crate::support::{Etcd, documented_roles};

crate::faults! {
    simple_tokens_expire
    jwt_are_outdated
    jwt_expire
    killed_and_restarted
    passwords_changed_and_changed_back
    passwords_changed_with_their_files
    roles_taken_away_for_a_while
    switched_on
    switched_off
}

/// The password of every user.
const PASSWORD: &str = "secret";

const BCRYPT: [&str; 2] = ["--bcrypt-cost", "4"];

async fn start(arguments: &[&str]) -> Etcd {
    Etcd::start_with(&[&BCRYPT, arguments].concat()).await
}

fn service() -> ServiceName {
    "greeter".parse().unwrap()
}

async fn scene(fault: &'static str, etcd: &Etcd) -> Scene {
    let config = |user: &str| etcd.config().with_user(user, PASSWORD);
    scene_with(fault, etcd, config("server"), config("client")).await
}

async fn scene_with(fault: &'static str, etcd: &Etcd, server: EtcdConfig, client: EtcdConfig) -> Scene {
    let root = ConnectOptions::new().with_user("root", PASSWORD);
    let truth = Truth::at([etcd.endpoint()]).with(root);
    // Not every five minutes: so that a call is made on each connection while it has no token that counts.
    let client = client.with_resync_interval(Duration::from_secs(2));
    Scene::in_service(fault, service(), server, client, truth).await
}

/// Creates the users, and enables authentication.
async fn enable(etcd: &Etcd) {
    documented_roles(etcd.endpoint(), PASSWORD, &[]).await;
    etcd.client().await.auth_enable().await.unwrap();
}

async fn guarded(arguments: &[&str]) -> Etcd {
    let etcd = start(arguments).await;
    enable(&etcd).await;
    etcd
}

async fn simple_tokens_expire() -> Row {
    let etcd = guarded(&["--auth-token-ttl", "1"]).await;
    let mut scene = scene("simple tokens expire after 1 s without use", &etcd).await;
    // As a client learns that has nothing but a token.
    let mut idle = scene.client().await;
    sleep(2 * TTL).await;
    assert!(idle.get("any", None).await.unwrap_err().to_string().contains("invalid auth token"));
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// Whose tokens are JWT that live so long.
async fn guarded_with_jwt(ttl: &str) -> Etcd {
    let file = |name: &str| format!("{}/tests/jwt/{name}", env!("CARGO_MANIFEST_DIR"));
    let (public, private) = (file("public.pem"), file("key.pem"));
    let token = format!("jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={ttl}");
    guarded(&["--auth-token", &token]).await
}

/// Each is issued for one revision of the users and roles, and is invalid after the next one.
async fn jwt_are_outdated() -> Row {
    let etcd = guarded_with_jwt("10m").await;
    let mut scene = scene("JWT outdated by a change of the roles", &etcd).await;
    let (mut idle, mut root) = (scene.client().await, scene.client().await);
    root.role_add("another").await.unwrap();
    let refused = idle.get("any", None).await.unwrap_err().to_string();
    assert!(refused.contains("revision of auth store is old"), "{refused}");
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn jwt_expire() -> Row {
    let etcd = guarded_with_jwt("2s").await;
    let mut scene = scene("JWT expire every 2 s, also in use", &etcd).await;
    let mut root = scene.client().await;
    sleep(2 * TTL).await;
    assert!(root.get("any", None).await.unwrap_err().to_string().contains("invalid auth token"));
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn killed_and_restarted() -> Row {
    let mut etcd = guarded(&[]).await;
    let mut scene = scene("etcd with users killed and restarted", &etcd).await;
    etcd.kill();
    scene.is_stale().await;
    let _etcd = etcd.start_again().await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn passwords_changed_and_changed_back() -> Row {
    let etcd = guarded(&[]).await;
    let mut scene = scene("passwords changed, and changed back after 10 s", &etcd).await;
    for password in ["another", PASSWORD] {
        let mut root = scene.client().await;
        for user in ["server", "client"] {
            root.user_change_password(user, password).await.unwrap();
        }
        if password != PASSWORD {
            scene.is_stale().await;
            sleep(2 * TTL).await;
        }
    }
    scene.over();
    scene.recovers(Lease::New).await
}

async fn passwords_changed_with_their_files() -> Row {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let etcd = guarded(&[]).await;
    let config = |user: &str| etcd.config().with_user_name(user).with_password_file(&file);
    let fault = "passwords changed, and their file with them";
    let mut scene = scene_with(fault, &etcd, config("server"), config("client")).await;
    let mut root = scene.client().await;
    for user in ["server", "client"] {
        root.user_change_password(user, "another").await.unwrap();
    }
    std::fs::write(&file, "another").unwrap();
    scene.over();
    scene.recovers(Lease::Either).await
}

async fn roles_taken_away_for_a_while() -> Row {
    let etcd = guarded(&[]).await;
    let mut scene = scene("roles taken away, and given back after 10 s", &etcd).await;
    let mut root = scene.client().await;
    for user in ["server", "client"] {
        root.user_revoke_role(user, format!("greeter-{user}")).await.unwrap();
    }
    scene.is_stale().await;
    sleep(2 * TTL).await;
    for user in ["server", "client"] {
        scene.client().await.user_grant_role(user, format!("greeter-{user}")).await.unwrap();
    }
    scene.over();
    // Before 3.4.42, 3.5.28 and 3.6.9, etcd renews leases also for users that may not write the keys on them.
    scene.recovers(Lease::Either).await
}

async fn switched_on() -> Row {
    let etcd = start(&[]).await;
    let mut scene = scene("authentication switched on", &etcd).await;
    scene.over();
    enable(&etcd).await;
    scene.recovers(Lease::Kept).await
}

async fn switched_off() -> Row {
    let etcd = guarded(&[]).await;
    let mut scene = scene("authentication switched off", &etcd).await;
    scene.over();
    scene.client().await.auth_disable().await.unwrap();
    scene.recovers(Lease::Kept).await
}
