//! How many requests an etcd has had, by its own count.

use std::collections::BTreeMap;
use std::ops::Sub;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Etcd;

/// The requests since an etcd's start by method, each message of a stream counted as one; or a difference of two
/// such counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    by_method: BTreeMap<String, u64>,
}

impl Requests {
    pub(crate) fn of(&self, method: &str) -> u64 {
        self.by_method.get(method).copied().unwrap_or_default()
    }

    pub(crate) fn total(&self) -> u64 {
        self.by_method.values().sum()
    }
}

impl Sub<&Requests> for &Requests {
    type Output = Requests;

    fn sub(self, earlier: &Requests) -> Requests {
        let by_method = self.by_method.iter().map(|(method, now)| (method.clone(), now - earlier.of(method)));
        Requests { by_method: by_method.collect() }
    }
}

impl Etcd {
    /// What it has had to do since it started.
    pub(crate) async fn requests(&self) -> Requests {
        let mut stream = TcpStream::connect(self.endpoint()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let mut requests = Requests::default();
        for (name, value) in page.lines().filter_map(|line| line.rsplit_once(' ')) {
            let Some(labels) = name.strip_prefix("grpc_server_msg_received_total{") else { continue };
            let method = labels.split('"').skip_while(|part| !part.ends_with("grpc_method=")).nth(1).unwrap();
            *requests.by_method.entry(method.to_owned()).or_default() += value.parse::<f64>().unwrap() as u64;
        }
        requests
    }
}
