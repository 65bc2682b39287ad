//! Service discovery on etcd for [hither](hither_core), wire compatible with Go's `naming/endpoints` and
//! `naming/resolver`: Rust and Go servers and clients find each other.
//!
//! ```text
//!   keep_registered ──► EtcdRegistry ─────────► etcd ─────────► EtcdRegistry ──► Discovery
//!    of hither-core      a lease for each                        lists, then      of hither-core
//!                        registration                            watches
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
//! // The server: registered until it deregisters, whatever happens to etcd.
//! let instance = Instance::new("10.0.0.7:8001".parse()?).with_zone("eu-1a");
//! let registration = Registration::new("greeter".parse()?, instance)?;
//! let registered = keep_registered(registry.clone(), registration, RegistrationConfig::default());
//!
//! // The client: a view in memory, which outlives any outage.
//! let greeter = Discovery::new(registry).service(&"greeter".parse()?);
//! for instance in greeter.wait_ready(Duration::from_secs(5)).await?.iter() {
//!     println!("{} in {:?}", instance.address(), instance.zone());
//! }
//! registered.deregister().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Records
//!
//! A registration with nothing but an address is byte for byte what Go writes. `Metadata` is always `null`, because Go
//! clients of 2021 to 2025 panic or hang on an object there; weight, zone, version, state, further addresses and metadata
//! are in one more member, `"Hither":{…}`, which Go ignores. Go's records are read as leniently as Go reads them: an object
//! in their `Metadata` becomes entries of [`metadata`](hither_core::Instance::metadata), anything else but `null` becomes
//! the one entry `Metadata`. A record that cannot be decoded is skipped, counted ([`EtcdRegistry::skipped_records`]) and
//! logged once.
//!
//! A key whose id contains a `/` belongs to the service only if the id is the address itself, and to a deeper service
//! otherwise; [`EtcdConfig::with_nested_ids`] applies Go's own rule.
//!
//! Go clients of etcd 3.4, and of 3.5 up to 3.5.9, list a name without the `/` after it: those of `greeter` find and call
//! the servers of `greeter2` too. As long as a fleet has such clients, no service name may be a prefix of another one.
//!
//! [`Layout`] writes the records of go-kratos, go-zero or kitex, so that a service joins a fleet of theirs.
//!
//! # Behaviour under faults
//!
//! - Every request has a deadline ([`EtcdConfig::with_request_timeout`]), and so has connecting. One endpoint is in use at a
//!   time; after a deadline, a broken connection or an error of the member the next request goes to the next endpoint.
//! - A record is ours if it is on our lease. The next renewal restores one that is missing, was changed under our lease, or
//!   was put again without a lease by a Go peer; it leaves a record on another owner's lease alone.
//! - A watch that etcd has lost ends: an idle watch is probed with a progress request and a linearizable read, which its
//!   member answers only if it is not stale ([`EtcdConfig::with_probe_interval`]). A new watch begins with a listing, so
//!   it is right after a compaction, a wipe and a restore. A listing that succeeds is delivered also where watches fail.
//! - An etcd that restarts with its data keeps the leases, and they go on; where it was wiped, `keep_registered` registers
//!   again.
//! - The record of a process that died is removed after its TTL, and what etcd needs to notice: half a second. An etcd that
//!   starts, or elects another leader, gives every lease its whole TTL again; while it is down or without a quorum, no lease
//!   expires. So the worst case is the outage, an election and one TTL more.
//! - A record that an operator deletes is restored. To keep a server out, stop it, or revoke its role.
//! - A server that breaks etcd's protocol (a proxy, another program on the port) is an error, never an empty service:
//!   listings and responses in parts are bounded in bytes and time, and a response of another cluster, from the past or
//!   from an implausible future ends a watch.
//!
//! Nothing here retries, caches or runs in the background: hither-core does.
//!
//! Connect to the members themselves if possible. Behind etcd's own `grpc-proxy`, which answers no progress request
//! (etcd-io/etcd#19710), an idle watch is compared with a listing every few seconds.
//!
//! # Authentication
//!
//! [`EtcdConfig::with_user`], or [`with_password_file`](EtcdConfig::with_password_file). The least permissions that servers
//! and clients of the service `greeter` need (the range ends with the first key that does not begin with `greeter/`; a
//! prefix comes before both):
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
//! A server whose address is known in advance needs only `readwrite greeter/10.0.0.7:8001`, its own key.
//!
//! An expired or unknown token, a password that was changed together with its file, and authentication being enabled or
//! disabled are handled. With a missing role or a wrong password, retries go on at the longest backoff until an operator
//! corrects it.
//!
//! # Features and foreign types
//!
//! `tls`: `TlsConfig`, by rustls with ring. The public interface has no type of another crate than hither-core,
//! etcd-client's least of all. The build needs `protoc`, because etcd-client's does.
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

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
