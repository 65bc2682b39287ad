//! What takes the place of metrics without the feature: nothing.

use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;
use tonic::Code;

use super::{Counts, PickResult};
use crate::client::transport::RequestBody;

#[derive(Debug, Clone)]
pub(crate) struct ChannelMetrics;

#[derive(Debug)]
pub(crate) struct OpenConnection;

#[derive(Debug)]
pub(crate) struct Gauges;

#[derive(Debug)]
pub(crate) struct CallMetrics;

#[derive(Debug)]
pub(crate) struct CallAttempts;

#[derive(Debug, Default)]
pub(crate) struct AttemptMetrics;

impl ChannelMetrics {
    pub(crate) fn new(_target: &str) -> Self {
        Self
    }

    pub(crate) fn call(&self, _extensions: &Extensions) -> CallMetrics {
        CallMetrics
    }

    pub(crate) fn picked(&self, _result: PickResult) {}

    pub(crate) fn connected(&self) -> OpenConnection {
        OpenConnection
    }

    pub(crate) fn connect_failed(&self) {}

    pub(crate) fn ejected(&self, _method: &'static str) {}

    pub(crate) fn not_ejected(&self, _method: &'static str, _reason: &'static str) {}

    pub(crate) fn gauges(&self) -> Gauges {
        Gauges
    }
}

impl OpenConnection {
    pub(crate) fn ended(self, _name: &'static str) {}
}

impl Gauges {
    pub(crate) fn set(&mut self, _counts: Counts) {}

    pub(crate) fn set_age(&mut self, _age: Option<Duration>) {}

    pub(crate) fn due(&self) -> Option<Instant> {
        None
    }
}

impl CallMetrics {
    pub(crate) fn attempts(&self) -> CallAttempts {
        CallAttempts
    }

    pub(crate) fn ended(&self, _code: Code) {}
}

impl CallAttempts {
    pub(crate) fn idled(&self, _delay: Duration) {}

    pub(crate) fn attempt(
        &self,
        _body: &mut RequestBody,
        _previous: u32,
        _is_hedged: bool,
    ) -> AttemptMetrics {
        AttemptMetrics
    }
}

impl AttemptMetrics {
    pub(crate) fn received(&mut self, _data: &[u8]) {}

    pub(crate) fn ended(&mut self, _code: Code, _began: Instant) {}
}
