//! Not beside what they test: the models of synchronisation compile that too, without a runtime.

mod channel;
mod detector;
mod places;
mod probes;
mod runs;
