//! One version of the lanes, for calls.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hither_core::SortedById;
use tonic::Status;

use super::super::policy::{CallInfo, Outcome, Pick, Picker};
use super::super::random::Random;
use super::super::weighted::Draws;
use super::division::{Division, LanePicker, Placed};
use super::{Choice, Lane, LaneFallback};
use crate::client::ready_instance::{InstanceGroup, Picked};

#[derive(Debug)]
pub(super) struct LanesPicker {
    choice: Choice,
    /// None is empty.
    lanes: BTreeMap<Arc<str>, LanePicker>,
    placed: SortedById<Placed>,
    /// By which any of them is drawn: `None` if all weights are equal.
    draws: Option<Draws<Placed>>,
    /// That of all pickers.
    random: Arc<Random>,
}

impl LanesPicker {
    pub(super) fn new(
        division: &Division,
        draws: Option<Draws<Placed>>,
        choice: Choice,
        random: Arc<Random>,
    ) -> Self {
        Self { choice, lanes: division.pickers(), placed: division.placed().clone(), draws, random }
    }

    /// The lane that a call names.
    fn tag<'a>(&self, call: &CallInfo<'a>) -> Option<Cow<'a, str>> {
        let tag = match call.extensions().get() {
            Some(Lane(name)) => Some(Cow::Borrowed(&**name)),
            None => {
                let value = call.headers().get(self.choice.header.as_ref()?)?;
                Some(String::from_utf8_lossy(value.as_bytes()))
            }
        };
        tag.filter(|tag| !tag.is_empty())
    }

    /// The lane that one of this name goes to.
    fn lane(&self, name: &str) -> Option<&LanePicker> {
        let own = self.lanes.get(name);
        if self.choice.fallback == LaneFallback::Fail || own.is_some_and(|lane| lane.has_weight) {
            return own;
        }
        let default = self.lanes.get(&self.choice.default);
        match self.choice.fallback {
            LaneFallback::DefaultLane if default.is_some_and(|lane| lane.has_weight) => default,
            LaneFallback::DefaultLane => own.or(default),
            LaneFallback::Fail | LaneFallback::AnyInstance => None,
        }
    }

    /// Draws the lane of an untagged call, once for each attempt: `None` for the default lane.
    fn shared(&self, call: &CallInfo<'_>) -> Option<&LanePicker> {
        if self.choice.shares.is_empty() {
            return None;
        }
        // The upper 53 bits, which are what a number can have, as a part of one.
        let mut place = (call.chance(&self.random, self.choice.salt) >> 11) as f64 * (0.5_f64).powi(53);
        for (name, part) in &self.choice.shares {
            if place < *part {
                return self.lanes.get(name).filter(|lane| lane.has_weight);
            }
            place -= part;
        }
        None
    }

    /// Draws any instance by weight, and returns its lane.
    fn any(&self) -> Option<&LanePicker> {
        let placed = match &self.draws {
            Some(draws) => draws.at(draws.draw(|| self.random.draw()))?,
            None => self.placed.at(self.random.two_below(self.placed.len(), 1).0)?,
        };
        self.lanes.get(&placed.lane)
    }

    /// The lane whose policy has picked it.
    fn lane_of(&self, picked: &Picked) -> Option<&LanePicker> {
        let placed = self.placed.get(picked.instance().instance().id())?;
        self.lanes.get(&placed.lane)
    }
}

impl LanePicker {
    fn pick(&self, call: &CallInfo<'_>, group: Option<&Arc<InstanceGroup>>) -> Pick {
        match (self.picker.pick(call), group) {
            (Pick::Instance(picked), Some(group)) => Pick::Instance(picked.or_within(group)),
            (pick, _) => pick,
        }
    }
}

impl Picker for LanesPicker {
    fn pick(&self, call: &CallInfo<'_>) -> Pick {
        let default = &*self.choice.default;
        let tag = self.tag(call);
        let name = tag.as_deref().unwrap_or(default);
        let lane = self.lane(name);
        if tag.is_none()
            && let Some(shared) = self.shared(call)
        {
            // Where that has no capacity, it is a call of the default lane.
            return shared.pick(call, Some(&lane.unwrap_or(shared).group));
        }
        if let Some(lane) = lane {
            return lane.pick(call, Some(&lane.group));
        }
        if self.choice.fallback == LaneFallback::AnyInstance
            && let Some(lane) = self.any()
        {
            return lane.pick(call, None);
        }
        Pick::Fail(Status::unavailable(match name {
            name if name == default => "no instance of the default lane is ready".to_owned(),
            name => format!("no instance of the lane {name:?} is ready"),
        }))
    }

    fn responding(&self, picked: &Picked, after: Duration) {
        if let Some(lane) = self.lane_of(picked) {
            lane.picker.responding(picked, after);
        }
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        if let Some(lane) = self.lane_of(picked) {
            lane.picker.done(picked, outcome);
        }
    }
}
