//! One watch per service, shared by all who ask.

mod cache;
mod config;
mod poll_watch;
mod protection;
mod static_resolver;
mod update;
mod watcher;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::Instrument;

use cache::Cache;
use watcher::watcher_from;

use crate::{Error, ErrorKind, Resolver, Result, ServiceName, Snapshot};

pub use config::WatcherConfig;
pub use poll_watch::poll_watch;
pub use protection::Protection;
pub use static_resolver::StaticResolver;
pub use update::{Freshness, Update};
pub use watcher::watcher;

/// Finds services through one registry: any [`Resolver`] becomes one with `into()`, and clones share it.
///
/// However many ask for a service, there is ONE watch of it; it ends with its last [`ServiceView`].
///
/// ```
/// use std::time::Duration;
/// use hither_core::{Discovery, Instance, StaticResolver};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let discovery = Discovery::from(StaticResolver::new([Instance::new("10.0.0.7:8001".parse()?)]));
/// let snapshot = discovery.service(&"greeter".parse()?).ready(Duration::from_secs(5)).await?;
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
    cache: Option<Cache>,
    services: Mutex<HashMap<ServiceName, Weak<Shared>>>,
}

impl Discovery {
    /// Finds services through `resolver`, watching as `config` says.
    pub fn with_config(resolver: impl Resolver, config: WatcherConfig) -> Self {
        let resolver = Arc::new(resolver);
        Self(Arc::new(Inner { resolver, config, cache: None, services: Mutex::default() }))
    }

    /// Keeps the last snapshot of each service in a file in `directory`, so that a client which starts while the
    /// registry is down finds its servers.
    ///
    /// Until the registry has spoken, a view shows what the file has: [`Stale`](Freshness::Stale), with its age, and
    /// not if it is older than 24 h. The age counts from the last time that the registry confirmed it, give or
    /// take an hour. A service is written when it has changed, at most every 5 s, in one step: no reader ever
    /// finds half a file. A file that cannot be read or written is logged, and otherwise as if it were not there.
    ///
    /// The directory is made if there is none. Processes may share one, if they share the registry too, prefix
    /// included: the files have the names of services, and nothing of where they are registered. Whoever can write
    /// there decides where calls go.
    ///
    /// Views that there are already keep nothing.
    ///
    /// ```no_run
    /// use hither_core::{Discovery, Instance, StaticResolver};
    ///
    /// # fn example() -> hither_core::Result<()> {
    /// # let registry = StaticResolver::new([Instance::new("10.0.0.7:8001".parse()?)]);
    /// let discovery = Discovery::from(registry).with_cache_dir("/var/cache/checkout/services");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_cache_dir(self, directory: impl Into<PathBuf>) -> Self {
        let (resolver, config) = (Arc::clone(&self.0.resolver), self.0.config.clone());
        let cache = Some(Cache::new(directory.into()));
        Self(Arc::new(Inner { resolver, config, cache, services: Mutex::default() }))
    }

    /// The view of one service, which begins to be watched if it is not yet.
    ///
    /// Never waits and never fails: what cannot be known yet, the view says. Called outside a Tokio runtime, it
    /// gives a view that stays [`Stale`](Freshness::Stale) and tells so.
    pub fn service(&self, service: &ServiceName) -> ServiceView {
        let mut services = self.0.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.retain(|_, shared| shared.strong_count() > 0);
        let shared = match services.entry(service.clone()) {
            Entry::Occupied(mut entry) => match entry.get().upgrade().filter(|shared| shared.is_alive()) {
                Some(shared) => shared,
                None => {
                    let shared = self.watch(service);
                    entry.insert(Arc::downgrade(&shared));
                    shared
                }
            },
            Entry::Vacant(entry) => {
                let shared = self.watch(service);
                entry.insert(Arc::downgrade(&shared));
                shared
            }
        };
        ServiceView { updates: shared.updates.clone(), shared }
    }

    fn watch(&self, service: &ServiceName) -> Arc<Shared> {
        let unknown =
            |kind, why| Update::unknown(Error::new(kind, format!("{service} {why}")).with_operation("watch"));
        let Ok(runtime) = Handle::try_current() else {
            let why = "cannot be watched: the view was made outside a Tokio runtime";
            let (_, updates) = watch::channel(unknown(ErrorKind::Unexpected, why));
            return Arc::new(Shared { service: service.clone(), updates, task: None });
        };
        let why = "has not been resolved yet";
        let (sender, updates) = watch::channel(unknown(ErrorKind::Unavailable, why));
        let (resolver, config) = (Arc::clone(&self.0.resolver), self.0.config.clone());
        let (of, cache) = (service.clone(), self.0.cache.clone());
        let follow = async move {
            let (cached, mut keeper) = match &cache {
                Some(cache) => (cache.load(&of).await, Some(cache.keeper(&of))),
                None => (None, None),
            };
            let mut updates = std::pin::pin!(watcher_from(resolver, of, config, cached));
            loop {
                let writing = async {
                    match &mut keeper {
                        Some(keeper) => keeper.write().await,
                        None => std::future::pending().await,
                    }
                };
                let update = tokio::select! {
                    update = updates.next() => update,
                    () = writing => continue,
                };
                // A watcher never ends.
                let Some(update) = update else { return };
                if let Some(keeper) = &mut keeper {
                    keeper.note(&update);
                }
                sender.send_replace(update);
            }
        };
        let span = tracing::debug_span!("discovery", %service);
        let task = runtime.spawn(follow.instrument(span)).abort_handle();
        Arc::new(Shared { service: service.clone(), updates, task: Some(task) })
    }
}

impl<R: Resolver> From<R> for Discovery {
    fn from(resolver: R) -> Self {
        Self::with_config(resolver, WatcherConfig::default())
    }
}

/// The watch behind all views of one service.
#[derive(Debug)]
struct Shared {
    service: ServiceName,
    updates: watch::Receiver<Update>,
    task: Option<AbortHandle>,
}

impl Shared {
    /// A watch dies before its views when the runtime that it was made on is shut down.
    fn is_alive(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What is known of one service, always at hand. Clones share one watch, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct ServiceView {
    shared: Arc<Shared>,
    updates: watch::Receiver<Update>,
}

impl ServiceView {
    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.shared.service
    }

    /// What is known now. Never waits.
    pub fn current(&self) -> Update {
        self.updates.borrow().clone()
    }

    /// Waits until this view has something to tell that it did not tell yet, and tells it. What came in between
    /// is skipped.
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

    /// Everything the view has to tell, beginning with what is known now; ends when [`changed`](Self::changed)
    /// would fail.
    pub fn updates(&self) -> impl Stream<Item = Update> + Send + 'static + use<> {
        let mut view = self.clone();
        view.updates.mark_changed();
        stream::unfold(view, |mut view| async move { view.changed().await.ok().map(|update| (update, view)) })
    }

    /// Waits until at least one instance is registered, for `within` at most.
    ///
    /// # Errors
    /// `Timeout`, which says what was missing: the registry's answer (its source is the newest failure), or an
    /// instance. `Closed` as for [`changed`](Self::changed).
    ///
    /// # Cancellation
    /// Safe.
    pub async fn ready(&self, within: Duration) -> Result<Snapshot> {
        let mut updates = self.updates.clone();
        let waited = timeout(within, updates.wait_for(|update| !update.instances().is_empty())).await;
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
            Freshness::Fresh => error("the registry says that nobody is registered"),
            Freshness::Stale { cause, .. } => error("the registry is not being heard").with_source(cause),
        }
    }

    fn closed(&self) -> Error {
        let why = match self.shared.task {
            Some(_) => "the runtime that it ran on is gone",
            None => "it was asked for outside a Tokio runtime",
        };
        Error::new(ErrorKind::Closed, format!("nobody watches {}: {why}", self.service()))
    }
}
