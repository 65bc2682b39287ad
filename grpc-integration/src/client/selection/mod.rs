//! Selection: which of the registered instances are connected to, and which of those take calls.

mod choice;
mod cut;
mod first;
mod rank;
mod selector;
mod servers;
#[cfg(test)]
mod sim;
mod steps;
mod tier;
mod tiered;

pub(crate) use choice::{Condition, List, Placed, Share};
pub(crate) use selector::Selector;
pub use steps::Selection;
