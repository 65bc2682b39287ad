//! The settings of all methods, and how those of one call are found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::budget::{Balance, RetryBudget};
use super::hedging_policy::Hedging;
use super::limits::Limits;
use super::method_config::MethodConfig;
use super::retry_policy::Retry;
use super::throttling::{RetryThrottling, Tokens};

/// What a channel's builder was given.
#[derive(Debug)]
pub(crate) struct MethodsConfig {
    /// In the order in which they were given.
    pub(crate) methods: Vec<(String, MethodConfig)>,
    pub(crate) max_attempts: u32,
    pub(crate) budget: RetryBudget,
    pub(crate) throttling: Option<RetryThrottling>,
}

impl Default for MethodsConfig {
    fn default() -> Self {
        Self { methods: Vec::new(), max_attempts: 5, budget: RetryBudget::default(), throttling: None }
    }
}

/// The settings of all methods.
#[derive(Debug)]
pub(crate) struct Methods {
    all: Vec<Method>,
    /// An index, as those of the services.
    default: Option<usize>,
    services: HashMap<String, Service>,
    pub(crate) limits: Arc<Limits>,
}

/// The settings of one method.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: Option<bool>,
    pub(crate) policy: Option<Policy>,
}

/// How calls of a method are sent again.
#[derive(Debug)]
pub(crate) enum Policy {
    Retry(Retry),
    Hedge(Hedging),
}

#[derive(Debug, Default)]
struct Service {
    default: Option<usize>,
    /// Sorted by name.
    methods: Vec<(String, usize)>,
}

impl Methods {
    /// Returns the settings; `None`: there are none.
    ///
    /// # Errors
    /// What is wrong with one, and its name.
    pub(crate) fn new(config: MethodsConfig) -> Result<Option<Self>, String> {
        let MethodsConfig { methods, max_attempts, budget, throttling } = config;
        if max_attempts < 1 {
            return Err("max_attempts is zero".to_owned());
        }
        budget.check()?;
        throttling.as_ref().map_or(Ok(()), RetryThrottling::check)?;
        if methods.is_empty() {
            return Ok(None);
        }
        let limits = Limits { budget: Balance::new(budget), tokens: throttling.map(Tokens::new) };
        let limits = Arc::new(limits);
        let mut this = Self { all: Vec::new(), default: None, services: HashMap::new(), limits };
        for (name, config) in methods {
            let about = |error: String| format!("method {name:?}: {error}");
            config.check().map_err(about)?;
            this.enter(&name).map_err(about)?;
            let policy = match (config.retry, config.hedging) {
                (Some(retry), _) => Some(Policy::Retry(Retry::new(retry, max_attempts))),
                (None, Some(hedging)) => Some(Policy::Hedge(Hedging::new(&hedging, max_attempts))),
                (None, None) => None,
            };
            this.all.push(Method { timeout: config.timeout, wait_for_ready: config.wait_for_ready, policy });
        }
        Ok(Some(this))
    }

    /// Enters the name of the next method.
    fn enter(&mut self, name: &str) -> Result<(), String> {
        let index = self.all.len();
        let twice = || Err("it is set twice".to_owned());
        let is_name =
            |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '/');
        match name.split_once('/') {
            None if name.is_empty() => match self.default.replace(index) {
                None => Ok(()),
                Some(_) => twice(),
            },
            None if is_name(name) => match self.service(name).default.replace(index) {
                None => Ok(()),
                Some(_) => twice(),
            },
            Some((service, method)) if is_name(service) && is_name(method) => {
                let methods = &mut self.service(service).methods;
                match methods.binary_search_by(|(known, _)| known.as_str().cmp(method)) {
                    Ok(_) => twice(),
                    Err(at) => {
                        methods.insert(at, (method.to_owned(), index));
                        Ok(())
                    }
                }
            }
            _ => Err("write package.Service/Method, package.Service, or nothing for all methods".to_owned()),
        }
    }

    fn service(&mut self, name: &str) -> &mut Service {
        self.services.entry(name.to_owned()).or_default()
    }

    /// Returns the index of the settings that a call of `path` has: those of its method, or else of its service, or else of
    /// all.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        if self.services.is_empty() {
            return self.default;
        }
        let named = path.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
        let found = named.and_then(|(service, method)| {
            let service = self.services.get(service)?;
            match service.methods.binary_search_by(|(known, _)| known.as_str().cmp(method)) {
                Ok(at) => service.methods.get(at).map(|(_, index)| *index),
                Err(_) => service.default,
            }
        });
        found.or(self.default)
    }

    /// Returns the settings of an index.
    pub(crate) fn at(&self, index: usize) -> Option<&Method> {
        self.all.get(index)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::client::retry::{HedgingPolicy, RetryPolicy};

    fn methods(names: &[(&str, u64)]) -> Result<Option<Methods>, String> {
        let config = |(name, secs): &(&str, u64)| {
            (name.to_string(), MethodConfig::default().with_timeout(Duration::from_secs(*secs)))
        };
        Methods::new(MethodsConfig {
            methods: names.iter().map(config).collect(),
            ..MethodsConfig::default()
        })
    }

    #[tokio::test]
    async fn the_most_specific_name_counts_alone() {
        let names = [("b.S", 2), ("a.S/M", 3), ("", 1), ("a.S/L", 4), ("b.S/M", 5), ("a.T/N", 6)];
        let methods = methods(&names).unwrap().unwrap();
        let timeout = |path| {
            methods.find(path).and_then(|index| methods.at(index)?.timeout).map(|found| found.as_secs())
        };
        for (path, expected) in [
            ("/a.S/M", 3),
            ("/a.S/L", 4),
            ("/a.S/K", 1),
            ("/b.S/M", 5),
            ("/b.S/other", 2),
            ("/a.T/N", 6),
            ("/a.T/M", 1),
            ("/c.S/M", 1),
            // The service is what is before the last slash.
            ("/b.S/M/N", 1),
            ("b.S/M", 1),
            ("/b.S", 1),
            ("", 1),
        ] {
            assert_eq!(timeout(path), Some(expected), "{path}");
        }
        assert!(Methods::new(MethodsConfig::default()).unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_wrong_is_one_error_that_names_it() {
        let wrong = |name: &str, config: MethodConfig| {
            let methods = vec![(name.to_owned(), config)];
            Methods::new(MethodsConfig { methods, ..MethodsConfig::default() }).unwrap_err()
        };
        let (retry, hedging) = (RetryPolicy::default(), HedgingPolicy::after(Duration::ZERO));
        for (config, expected) in [
            (MethodConfig::default().with_timeout(Duration::ZERO), "timeout is zero"),
            (
                MethodConfig::default().with_retry(retry.clone().with_max_attempts(1)),
                "max_attempts of its retry policy is 1",
            ),
            (MethodConfig::default().with_retry(retry.clone().with_codes([])), "codes"),
            (MethodConfig::default().with_retry(retry.clone().with_codes([Code::Ok, Code::Aborted])), "OK"),
            (
                MethodConfig::default().with_hedging(hedging.clone().with_max_attempts(1)),
                "max_attempts of its hedging policy is 1",
            ),
            (MethodConfig::default().with_hedging(hedging.clone().with_non_fatal_codes([Code::Ok])), "OK"),
            (MethodConfig::default().with_hedging(HedgingPolicy::after_percentile(1.0)), "percentile"),
            (MethodConfig::default().with_hedging(HedgingPolicy::after_percentile(f64::NAN)), "percentile"),
            (MethodConfig::default().with_retry(retry).with_hedging(hedging), "both"),
        ] {
            let error = wrong("a.S/M", config);
            assert!(error.starts_with("method \"a.S/M\": ") && error.contains(expected), "{error}");
        }
        for name in ["/a.S/M", "/M", "a.S/", "/", "//", "a.S/M/N", "a S", "a S/M", "a.S/M ", " "] {
            let error = wrong(name, MethodConfig::default());
            assert!(error.contains("write package.Service/Method"), "{error}");
        }
        for name in ["", "a.S", "a.S/M"] {
            let error = methods(&[(name, 1), ("b.S", 1), (name, 1)]).unwrap_err();
            assert_eq!(error, format!("method {name:?}: it is set twice"));
        }
    }
}
