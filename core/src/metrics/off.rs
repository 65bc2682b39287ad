//! What takes the place of metrics without the feature: nothing.

use super::{Operation, Source};
use crate::{ErrorKind, ServiceName};

#[derive(Debug)]
pub(crate) struct StateGauge;

#[derive(Debug)]
pub(crate) struct RegistrationMetrics;

#[derive(Debug)]
pub(crate) struct WatchMetrics;

impl StateGauge {
    pub(crate) fn new(_service: &ServiceName) -> Self {
        Self
    }

    pub(crate) fn set(&mut self, _state: &'static str) {}
}

impl RegistrationMetrics {
    pub(crate) fn new(_service: &ServiceName) -> Self {
        Self
    }

    pub(crate) fn attempted(&mut self, _operation: Operation, _failed: Option<ErrorKind>) {}
}

impl WatchMetrics {
    pub(crate) fn new(_service: &ServiceName) -> Self {
        Self
    }

    pub(crate) fn opened(&self) {}

    pub(crate) fn failed(&self, _kind: ErrorKind) {}

    pub(crate) fn received(&self, _source: Source) {}
}
