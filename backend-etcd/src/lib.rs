//! Service discovery on etcd for [hither](hither_core), wire compatible with Go's `naming/endpoints` and
//! `naming/resolver`: Rust and Go servers and clients find each other.
//!
//! ```text
//!   keep_registered ──► EtcdRegistry ─────────► etcd ─────────► EtcdRegistry ──► Discovery
//!    of hither-core      a lease for each                        lists, then      of hither-core
//!                        registration                            follows
//!
//!   key     <prefix>/<service>/<id>           grpc-demo/grpc/discover-demo/127.0.0.1:8001
//!   value   as Go writes it                   {"Op":0,"Addr":"127.0.0.1:8001","Metadata":null}
//!   lease   one for each registration         renewed at a third of its TTL
//! ```
//!
//! ```no_run
//! use std::time::Duration;
//! use hither_core::{Discovery, Instance, RegistrationConfig, Registration, keep_registered};
//! use hither_etcd::{EtcdConfig, EtcdRegistry};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_core::Result<()> {
//! let registry = EtcdRegistry::connect(EtcdConfig::new(["127.0.0.1:2379"]))?;
//!
//! // The server: registered until the handle says otherwise, whatever happens to etcd.
//! let instance = Instance::new("10.0.0.7:8001".parse()?).with_zone("eu-1a");
//! let registration = Registration::new("greeter".parse()?, instance)?;
//! let registered = keep_registered(registry.clone(), registration, RegistrationConfig::default());
//!
//! // The client: a view that is always at hand, and outlives any outage.
//! let greeter = Discovery::new(registry).service(&"greeter".parse()?);
//! for instance in greeter.ready(Duration::from_secs(5)).await?.iter() {
//!     println!("{} in {:?}", instance.address(), instance.zone());
//! }
//! registered.deregister().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What stands in etcd
//!
//! A registration that says nothing but its address is byte for byte what Go writes. `Metadata` stays `null` always,
//! because Go clients of 2021 to 2025 panic or hang on an object there; weight, zone, version, state, further
//! addresses and metadata stand in one more member, `"Hither":{…}`, which Go ignores. Records of Go's are read as
//! leniently as Go reads them: an object in their `Metadata` gives entries of
//! [`metadata`](hither_core::Instance::metadata), anything else but `null` the one entry `Metadata`. What cannot be
//! read is skipped, counted ([`EtcdRegistry::skipped_records`]) and logged once.
//!
//! A key whose id has a `/` belongs to the service only if the id is the address itself, and to a deeper service
//! otherwise; [`EtcdConfig::with_nested_ids`] gives Go's own rule.
//!
//! Go clients of etcd 3.4, and of 3.5 up to 3.5.9, ask for a name without the `/` behind it: those of `greeter` find
//! and call the servers of `greeter2` too. As long as a fleet has such clients, no service name may be the beginning of
//! another one.
//!
//! [`Layout`] writes what go-kratos, go-zero or kitex would, so that a service joins a fleet of theirs.
//!
//! # What holds when etcd has a bad day
//!
//! - Every request has a deadline ([`EtcdConfig::with_request_timeout`]), and so has connecting. One endpoint is in
//!   use at a time; after a deadline or a broken connection the next call goes to the next one.
//! - A record is ours if it is on our lease. One that is missing, changed under our lease, or put again without a
//!   lease by a Go peer is put back by the next renewal; one on somebody else's lease is left alone.
//! - A watch that etcd has lost ends: a silent one asks whether it is still there, and whether its member is not left
//!   behind by the others ([`EtcdConfig::with_probe_interval`]). A new one lists: whatever happened meanwhile, be it a
//!   compaction, a wipe or a restore, it begins with what is.
//! - An etcd that was restarted with its data still has the leases, and they go on; where it was wiped,
//!   `keep_registered` registers again.
//! - The record of a process that died is gone after its TTL, and what etcd needs to notice: half a second. An etcd that
//!   starts, or elects another leader, gives every lease its whole TTL again; while it is down or without a quorum,
//!   nothing lapses. So the worst case is the outage, an election and one TTL more.
//! - A record that somebody deletes by hand is put back. To keep a server out, stop it, or take its role away.
//!
//! Nothing here retries, caches or runs in the background: that is hither-core's part.
//!
//! Talk to the members themselves, if you can. Behind etcd's own `grpc-proxy`, which answers no progress request
//! (etcd-io/etcd#19710), a quiet watch is compared with a listing every few seconds.
//!
//! # Where etcd has users
//!
//! [`EtcdConfig::with_user`], or [`with_password_file`](EtcdConfig::with_password_file). The least that servers and
//! clients of the service `greeter` need (the range ends with the first key that does not begin with `greeter/`; with a
//! prefix, that stands before both):
//!
//! ```console
//! $ etcdctl role add greeter-server
//! $ etcdctl role grant-permission greeter-server readwrite greeter/ greeter0
//! $ etcdctl user add server:"$SERVER_PASSWORD"
//! $ etcdctl user grant-role server greeter-server
//!
//! $ etcdctl role add greeter-client
//! $ etcdctl role grant-permission greeter-client read greeter/ greeter0
//! $ etcdctl user add client:"$CLIENT_PASSWORD"
//! $ etcdctl user grant-role client greeter-client
//! ```
//!
//! A server whose address is known beforehand does with `readwrite greeter/10.0.0.7:8001`, its own key.
//!
//! A token that expired or that a member does not know, a password changed together with its file, and
//! authentication being switched on or off are taken care of. Who loses a role, or is refused for a wrong password,
//! tries on, slowly, until an operator has mended it.
//!
//! # Features and foreign types
//!
//! `tls`: `TlsConfig`, by rustls with ring. No type of another crate than hither-core stands in the public
//! interface, etcd-client's least of all. Building needs `protoc`, because etcd-client's build does.
#![forbid(unsafe_code)]

mod client;
mod codec;
mod config;
mod context;
mod lease;
mod registry;
mod watch;

pub use codec::layout::Layout;
pub use config::EtcdConfig;
#[cfg(feature = "tls")]
pub use config::tls::TlsConfig;
pub use registry::EtcdRegistry;
