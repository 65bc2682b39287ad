//! How many requests an etcd has had, by its own count.

use std::collections::BTreeMap;
use std::ops::Sub;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Etcd;

/// The requests since an etcd's start by method, each message of a stream counted as one; or a difference of two
/// such counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    by_method: BTreeMap<String, u64>,
    /// The processor time that etcd has taken.
    pub(crate) cpu: f64,
}

impl Requests {
    /// Asks for the metrics at `host:port`; `None` while nobody answers.
    pub(crate) async fn read(endpoint: &str) -> Option<Self> {
        let mut stream = TcpStream::connect(endpoint).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.ok()?;
        let mut requests = Self::default();
        for (name, value) in page.lines().filter_map(|line| line.rsplit_once(' ')) {
            let Ok(value) = value.parse::<f64>() else { continue };
            if name == "process_cpu_seconds_total" {
                requests.cpu = value;
            }
            let Some(labels) = name.strip_prefix("grpc_server_msg_received_total{") else { continue };
            let method = labels.split('"').skip_while(|part| !part.ends_with("grpc_method=")).nth(1).unwrap();
            *requests.by_method.entry(method.to_owned()).or_default() += value as u64;
        }
        Some(requests)
    }

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
        Requests { by_method: by_method.collect(), cpu: self.cpu - earlier.cpu }
    }
}

impl Etcd {
    /// What it has had to do since it started.
    pub(crate) async fn requests(&self) -> Requests {
        Requests::read(&self.endpoint()).await.unwrap()
    }
}

/// Looks at an etcd's count again and again, until it is dropped. An etcd that is away is asked until it answers.
#[derive(Debug)]
pub(crate) struct Sampler(JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Vec<(Instant, u64)>>>);

impl Sampler {
    pub(crate) fn start(endpoint: String, every: Duration) -> Self {
        let samples = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&samples);
        let task = tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Some(requests) = Requests::read(&endpoint).await {
                    kept.lock().unwrap().push((Instant::now(), requests.total()));
                }
            }
        });
        Self(task, samples)
    }

    /// When it looked, and how many requests there had been.
    pub(crate) fn samples(&self) -> Vec<(Instant, u64)> {
        self.1.lock().unwrap().clone()
    }

    /// The most requests within any `window`. An etcd that starts again begins at nothing.
    pub(crate) fn peak(&self, window: Duration) -> u64 {
        let samples = self.samples();
        let mut peak = 0;
        for (first, (from, before)) in samples.iter().enumerate() {
            for (to, after) in &samples[first..] {
                if *to - *from <= window && after >= before {
                    peak = peak.max(after - before);
                }
            }
        }
        peak
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.0.abort();
    }
}
