//! One version of the lanes, for calls.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hither_core::SortedById;
use tonic::{Code, Status};

use super::super::policy::{CallInfo, Outcome, Pick, Picker};
use super::super::random::Random;
use super::super::weighted::Draws;
use super::division::{Division, LanePicker, Placed};
use super::{Choice, Lane, LaneFallback};
use crate::client::outcomes::Standing;
use crate::client::ready_instance::{InstanceGroup, Picked, ReadyInstance};

#[derive(Debug)]
pub(super) struct LanesPicker {
    choice: Choice,
    /// None is empty.
    lanes: BTreeMap<Arc<str>, LanePicker>,
    /// Lanes with instances and without a picker, and why.
    broken: BTreeMap<Arc<str>, Arc<str>>,
    /// Lanes of which some are being connected to that are better than what is ready, and whether they are waited for where
    /// there is another place to go to.
    awaited: BTreeMap<Arc<str>, bool>,
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
        let (lanes, broken, awaited) = (division.pickers(), division.broken(), division.awaited());
        Self { choice, lanes, broken, awaited, placed: division.placed().clone(), draws, random }
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

    /// Where a call that names this lane goes.
    fn way(&self, name: &str) -> Way<'_> {
        let (own, fallback) = (self.lane(name), self.choice.fallback);
        if let Some(own) = own.filter(|own| own.has_weight) {
            return Way::Lane(own);
        }
        let instead = match fallback {
            LaneFallback::Fail => own.map_or(Way::Nowhere, Way::Lane),
            LaneFallback::AnyInstance => Way::Anywhere,
            LaneFallback::DefaultLane => {
                let default = self.lane(&self.choice.default);
                let weighty = default.filter(|default| default.has_weight);
                weighty.or(own).or(default).map_or(Way::Nowhere, Way::Lane)
            }
        };
        let is_waited = |lane| match (self.awaited.get(lane), &instead) {
            (Some(_), Way::Nowhere) => true,
            (awaited, _) => awaited == Some(&true),
        };
        let has_weight = matches!(instead, Way::Lane(instead) if instead.has_weight);
        let is_default = fallback == LaneFallback::DefaultLane && !has_weight;
        if is_waited(name) || is_default && is_waited(&self.choice.default) { Way::Wait } else { instead }
    }

    /// The lane of this name, if it can be called.
    fn lane(&self, name: &str) -> Option<&LanePicker> {
        self.lanes.get(name).filter(|lane| lane.is_callable())
    }

    /// Draws the lane of an untagged call, once for each attempt: `None` for the default lane.
    fn shared(&self, call: &CallInfo<'_>) -> Option<&LanePicker> {
        if self.choice.shares.is_empty() {
            return None;
        }
        // The upper 53 bits, which are what a number can have, as a part of one.
        let mut place = (call.chance(&self.random) >> 11) as f64 * (0.5_f64).powi(53);
        for (name, part) in &self.choice.shares {
            if place < *part {
                return self.lanes.get(name).filter(|lane| lane.has_weight && !lane.is_draining);
            }
            place -= part;
        }
        None
    }

    /// Draws any instance by weight, and picks in its lane.
    fn any(&self, call: &CallInfo<'_>) -> Option<Pick> {
        let placed = match &self.draws {
            Some(draws) => draws.at(draws.draw(|| self.random.draw()))?,
            None => self.placed.at(self.random.two_below(self.placed.len(), 1).0)?,
        };
        Some(match self.lanes.get(&placed.lane) {
            Some(lane) => lane.pick(call, None),
            None => Pick::Instance(placed.instance.clone().into()),
        })
    }

    /// The lane whose policy has picked it.
    fn lane_of(&self, picked: &Picked) -> Option<&LanePicker> {
        let id = picked.instance().instance().id();
        if let Some(placed) = self.placed.get(id) {
            return self.lanes.get(&placed.lane);
        }
        let mut draining = self.lanes.values().filter(|lane| lane.is_draining);
        draining.find(|lane| lane.group.instances().get(id).is_some())
    }
}

/// Where a call goes.
enum Way<'a> {
    Lane(&'a LanePicker),
    Anywhere,
    /// To none that is ready yet.
    Wait,
    Nowhere,
}

impl LanePicker {
    fn pick(&self, call: &CallInfo<'_>, group: Option<&Arc<InstanceGroup>>) -> Pick {
        let pick = match self.picker.pick(&call.within()) {
            Pick::Instance(picked) if self.is_old || !self.calls(picked.instance()) => {
                Pick::Instance(self.still_there(picked))
            }
            pick => pick,
        };
        match (pick, group) {
            (Pick::Instance(picked), Some(group)) => Pick::Instance(picked.or_within(group)),
            (pick, _) => pick,
        }
    }

    /// Whether any of its instances is called. Those that are ready are by being so.
    fn is_callable(&self) -> bool {
        !self.is_draining || self.group.instances().iter().any(|instance| self.calls(instance))
    }

    /// Whether this instance of the lane is called: not if it is draining and ejected, for of those the channel filters none.
    fn calls(&self, instance: &ReadyInstance) -> bool {
        !self.is_draining || !is_ejected(instance)
    }

    /// Returns what the picker has picked if it is of the lane now and called, and any other of the lane's instances if not.
    fn still_there(&self, picked: Picked) -> Picked {
        let instances = self.group.instances();
        let now = instances.get(picked.instance().instance().id());
        let takes = |now: &ReadyInstance| (now.weight() > 0.0 || !self.has_weight) && self.calls(now);
        if now.is_some_and(|now| now == picked.instance() && takes(now)) {
            return picked;
        }
        let first = fastrand::usize(..instances.len().max(1));
        let others = (first..instances.len()).chain(0..first).filter_map(|index| instances.at(index));
        let mut others = others.filter(|other| self.calls(other));
        let weighty = others.clone().find(|other| other.weight() > 0.0);
        let Some(other) = weighty.or_else(|| others.next()) else { return picked };
        self.picker.done(&picked, &Outcome::new(Code::Cancelled, Duration::ZERO).unsent());
        other.clone().into()
    }
}

fn is_ejected(instance: &ReadyInstance) -> bool {
    instance.outcomes().is_some_and(|outcomes| outcomes.probation().standing() == Standing::Ejected)
}

impl Picker for LanesPicker {
    fn pick(&self, call: &CallInfo<'_>) -> Pick {
        let default = &*self.choice.default;
        let tag = self.tag(call);
        let name = tag.as_deref().unwrap_or(default);
        let way = self.way(name);
        if tag.is_none()
            && let Some(shared) = self.shared(call)
        {
            let instead = if let Way::Lane(lane) = way { lane } else { shared };
            // Where that has no capacity, or calls wait for it that may go nowhere else, it is a call of the default lane.
            let is_awaited = shared.group.waiters().any();
            return if is_awaited { instead } else { shared }.pick(call, Some(&instead.group));
        }
        let is_wait = match way {
            Way::Lane(lane) => return lane.pick(call, Some(&lane.group)),
            Way::Anywhere => match self.any(call) {
                Some(pick) => return pick,
                None => false,
            },
            Way::Wait => true,
            Way::Nowhere => false,
        };
        if let Some(panic) = self.broken.get(name) {
            return Pick::Fail(Status::internal(&**panic));
        }
        let reason = if name == default {
            Cow::Borrowed("no instance of the default lane is ready")
        } else {
            Cow::Owned(format!("no instance of the lane {name:?} is ready"))
        };
        if is_wait { Pick::Wait(reason) } else { Pick::Fail(Status::unavailable(reason)) }
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
