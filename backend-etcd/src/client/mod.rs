//! The connection to etcd: endpoints, one connection at a time, and what errors mean.

pub(crate) mod connection;
pub(crate) mod endpoints;
pub(crate) mod error;
