//! The cases, one file for each part.

mod capacity;
mod cutter;
mod driver_waker;
mod queue;
mod ready_instance;
mod replay;
mod resets;
mod ticket;
