//! The gates, each a tier above the one before it: `check`, `test`, `ci`, `nightly`.

mod check;
mod ci;
mod nightly;
mod package;
mod requirements;
mod test;

pub(crate) use check::run as check;
pub(crate) use ci::run as ci;
pub(crate) use nightly::run as nightly;
pub(crate) use package::run as package;
pub(crate) use test::{CONCURRENCY, run as test};
