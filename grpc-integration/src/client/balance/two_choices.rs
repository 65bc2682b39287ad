//! The power of two choices: of two random instances the better one.

use hither_core::{HasId, SortedById};

use super::random::Random;
use super::weighted::{Draws, Weighted};
use crate::client::ready_instance::ReadyInstance;

/// One version of the ready instances, of which two are drawn for each call.
#[derive(Debug)]
pub(super) struct TwoChoices<T> {
    all: SortedById<T>,
    /// `None` if all weights are equal.
    weighted: Option<Draws<T>>,
    random: Random,
}

impl<T: AsRef<ReadyInstance> + Clone + HasId> TwoChoices<T> {
    pub(super) fn new(all: &SortedById<T>, weighted: &mut Weighted<T>, seed: Option<u64>) -> Self {
        let random = Random::new(seed.unwrap_or_else(|| fastrand::u64(..)));
        Self { all: all.clone(), weighted: weighted.update(all), random }
    }

    pub(super) fn all(&self) -> &SortedById<T> {
        &self.all
    }

    /// What weights are compared with, `None` if all are equal.
    pub(super) fn mean_weight(&self) -> Option<f64> {
        self.weighted.as_ref().map(Draws::mean_weight)
    }

    /// Returns two different instances, or the only one twice. The first is drawn by weight, and the second is any other
    /// that has a weight: so that with two there always is a choice.
    pub(super) fn draw(&self) -> Option<(&T, &T)> {
        if let Some(draws) = &self.weighted {
            let first = draws.draw(|| self.random.draw());
            let second = self.random.another_below(first, draws.len()).unwrap_or(first);
            return Some((draws.at(first)?, draws.at(second)?));
        }
        let count = self.all.len();
        if count < 2 {
            return self.all.at(0).map(|only| (only, only));
        }
        let (first, further) = self.random.two_below(count, count - 1);
        let second = (first + 1 + further) % count;
        Some((&self.all[first], &self.all[second]))
    }
}
