//! Finding services: one watch per service, shared by all who use it.

#[cfg(feature = "disk-cache")]
mod cache;
mod config;
mod poll_watch;
mod protection;
mod static_registry;
mod update;
mod watcher;
mod window;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
#[cfg(feature = "disk-cache")]
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_core::Stream;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::Instrument;

use watcher::watcher_from;

use crate::{Error, ErrorKind, Resolver, Result, ServiceName, Snapshot};

pub use config::WatcherConfig;
pub use poll_watch::poll_watch;
pub use protection::ProtectionConfig;
pub use static_registry::StaticRegistry;
pub use update::{Freshness, Update};
pub use watcher::watcher;

/// Finds services in one registry. Clones share their watches.
///
/// However many users a service has, there is one watch of it; it ends with its last [`ServiceView`]. So a
/// program makes one `Discovery` for a registry and passes clones of it, or references, to all that need it.
///
/// ```
/// use std::time::Duration;
/// use hither_core::{Discovery, Instance, StaticRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let discovery = Discovery::new(StaticRegistry::new([Instance::new("10.0.0.7:8001".parse()?)]));
/// let snapshot = discovery.service(&"greeter".parse()?).wait_ready(Duration::from_secs(5)).await?;
/// assert_eq!(snapshot.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Discovery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    resolver: Arc<dyn Resolver>,
    config: WatcherConfig,
    #[cfg(feature = "disk-cache")]
    cache: Option<cache::Cache>,
    services: Mutex<HashMap<ServiceName, Weak<SharedWatch>>>,
}

/// Builds a [`Discovery`] with settings: see [`Discovery::builder`].
#[derive(Debug)]
#[must_use]
pub struct DiscoveryBuilder {
    resolver: Arc<dyn Resolver>,
    config: WatcherConfig,
    #[cfg(feature = "disk-cache")]
    cache: Option<cache::Cache>,
}

impl DiscoveryBuilder {
    /// Sets how services are watched.
    pub fn config(mut self, config: WatcherConfig) -> Self {
        self.config = config;
        self
    }

    /// Keeps the last snapshot of each service in a file in `directory`, so that a client which starts while the
    /// registry is down finds its servers. Feature `disk-cache`.
    ///
    /// Until the first snapshot of the registry, a view has the one of the file: [`Stale`](Freshness::Stale), with its
    /// age, and not if it is older than 24 h. The age counts from the last time that the registry confirmed it, give or
    /// take an hour. A service is written when it has changed, at most every 5 s, and atomically: no reader ever
    /// finds half a file. A file that cannot be read or written is logged, and otherwise ignored.
    ///
    /// The directory is created if it does not exist. Processes may share it if they share the registry too, prefix
    /// included: the files are named after services, and contain nothing about where those are registered. Write access
    /// to the directory is control over where calls go.
    ///
    /// ```no_run
    /// use hither_core::{Discovery, Instance, StaticRegistry};
    ///
    /// # fn example() -> hither_core::Result<()> {
    /// # let registry = StaticRegistry::new([Instance::new("10.0.0.7:8001".parse()?)]);
    /// let discovery = Discovery::builder(registry).cache_dir("/var/cache/checkout/services").build();
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "disk-cache")]
    pub fn cache_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache = Some(cache::Cache::new(directory.into()));
        self
    }

    /// Builds the discovery. Nothing is watched until a service is asked for.
    pub fn build(self) -> Discovery {
        Discovery(Arc::new(Inner {
            resolver: self.resolver,
            config: self.config,
            #[cfg(feature = "disk-cache")]
            cache: self.cache,
            services: Mutex::default(),
        }))
    }
}

impl Discovery {
    /// Returns a discovery through `resolver`, with the default settings.
    pub fn new(resolver: impl Resolver) -> Self {
        Self::builder(resolver).build()
    }

    /// Builds a discovery through `resolver` with other settings.
    pub fn builder(resolver: impl Resolver) -> DiscoveryBuilder {
        DiscoveryBuilder {
            resolver: Arc::new(resolver),
            config: WatcherConfig::default(),
            #[cfg(feature = "disk-cache")]
            cache: None,
        }
    }

    /// Returns the view of one service, and begins to watch it if it is not watched yet.
    ///
    /// Never waits and never fails: the view reports what is not known yet, and why. Outside a Tokio runtime it
    /// returns a view that stays [`Stale`](Freshness::Stale) with that as its cause.
    pub fn service(&self, service: &ServiceName) -> ServiceView {
        let mut services = self.0.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.retain(|_, shared| shared.strong_count() > 0);
        let shared = match services.entry(service.clone()) {
            Entry::Occupied(mut entry) => match entry.get().upgrade().filter(|shared| shared.is_alive()) {
                Some(shared) => shared,
                None => {
                    let shared = self.0.watch(service);
                    entry.insert(Arc::downgrade(&shared));
                    shared
                }
            },
            Entry::Vacant(entry) => {
                let shared = self.0.watch(service);
                entry.insert(Arc::downgrade(&shared));
                shared
            }
        };
        ServiceView { updates: shared.updates.clone(), shared }
    }
}

impl From<&Discovery> for Discovery {
    fn from(discovery: &Discovery) -> Self {
        discovery.clone()
    }
}

impl Inner {
    fn watch(&self, service: &ServiceName) -> Arc<SharedWatch> {
        let unknown =
            |kind, why| Update::unknown(Error::new(kind, format!("{service} {why}")).with_operation("watch"));
        let Ok(runtime) = Handle::try_current() else {
            let why = "cannot be watched: the view was made outside a Tokio runtime";
            let (_, updates) = watch::channel(unknown(ErrorKind::Unexpected, why));
            return Arc::new(SharedWatch { service: service.clone(), updates, task: None });
        };
        let (sender, updates) = watch::channel(unknown(ErrorKind::Unavailable, "has not been resolved yet"));
        let span = tracing::debug_span!("discovery", %service);
        let task = runtime.spawn(self.follow(service.clone(), sender).instrument(span)).abort_handle();
        Arc::new(SharedWatch { service: service.clone(), updates, task: Some(task) })
    }

    /// Publishes each update of a service, without end.
    fn follow(&self, service: ServiceName, sender: watch::Sender<Update>) -> BoxFuture<'static, ()> {
        let (resolver, config) = (Arc::clone(&self.resolver), self.config.clone());
        #[cfg(feature = "disk-cache")]
        if let Some(cache) = self.cache.clone() {
            return Box::pin(cache.follow(resolver, service, config, sender));
        }
        Box::pin(async move {
            let mut updates = std::pin::pin!(watcher_from(resolver, service, config, None));
            while let Some(update) = updates.next().await {
                sender.send_replace(update).discard().await;
            }
        })
    }
}

/// The watch behind all views of one service.
#[derive(Debug)]
struct SharedWatch {
    service: ServiceName,
    updates: watch::Receiver<Update>,
    task: Option<AbortHandle>,
}

impl SharedWatch {
    /// A watch ends before its views when the runtime that it was spawned on is shut down.
    fn is_alive(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }
}

impl Drop for SharedWatch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The state of one service as the client knows it. Clones share one watch, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct ServiceView {
    shared: Arc<SharedWatch>,
    updates: watch::Receiver<Update>,
}

impl ServiceView {
    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.shared.service
    }

    /// Returns the present state. Never waits.
    pub fn current(&self) -> Update {
        self.updates.borrow().clone()
    }

    /// Waits for a state that this view has not returned yet, and returns the newest one. Those in between are
    /// skipped.
    ///
    /// # Errors
    /// `Closed` when the runtime that the watch ran on is gone; ask the [`Discovery`] for a new view.
    ///
    /// # Cancellation
    /// Safe: nothing is lost.
    pub async fn changed(&mut self) -> Result<Update> {
        match self.updates.changed().await {
            Ok(()) => Ok(self.updates.borrow_and_update().clone()),
            Err(_) => Err(self.closed()),
        }
    }

    /// Returns a stream of states, beginning with the present one; it ends when [`changed`](Self::changed)
    /// would fail.
    pub fn updates(&self) -> impl Stream<Item = Update> + Send + 'static + use<> {
        let mut view = self.clone();
        view.updates.mark_changed();
        stream::unfold(view, |mut view| async move { view.changed().await.ok().map(|update| (update, view)) })
    }

    /// Waits until at least one instance is registered, for `within` at most.
    ///
    /// # Errors
    /// `Timeout`, which names what was missing: an answer of the registry (its source is the most recent error), or an
    /// instance. `Closed` as for [`changed`](Self::changed).
    ///
    /// # Cancellation
    /// Safe.
    pub async fn wait_ready(&self, within: Duration) -> Result<Snapshot> {
        let mut updates = self.updates.clone();
        let waited = timeout(within, updates.wait_for(|update| update.instances().next().is_some())).await;
        match waited {
            Ok(Ok(update)) => {
                Ok(update.snapshot.clone().unwrap_or_else(|| Snapshot::new(self.service().clone(), [])))
            }
            Ok(Err(_)) => Err(self.closed()),
            Err(_) => Err(self.not_ready(within)),
        }
    }

    fn not_ready(&self, within: Duration) -> Error {
        let service = self.service();
        let update = self.current();
        let error = |why| {
            Error::new(ErrorKind::Timeout, format!("{service} has no instance after {within:?}: {why}"))
                .with_operation("wait for an instance")
        };
        match update.freshness {
            Freshness::Fresh => error("no instance is registered"),
            Freshness::Stale { cause, .. } => error("the registry cannot be watched").with_source(cause),
        }
    }

    fn closed(&self) -> Error {
        let why = match self.shared.task {
            Some(_) => "the runtime of the watch was shut down",
            None => "the view was made outside a Tokio runtime",
        };
        Error::new(ErrorKind::Closed, format!("{} is not watched: {why}", self.service()))
    }
}
