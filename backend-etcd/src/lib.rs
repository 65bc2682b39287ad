//! hither-etcd
