//! The gates, each a tier above the one before it.

pub(crate) mod ci;
