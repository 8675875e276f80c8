//! The log as the broker sees it, on a disk with faults and on a real one.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the log runs on threads of its own, by the real clock; a test stops at the first fault"
)]

mod basics;
mod damage;
mod hangs;
mod power_cuts;
mod space;
mod world;
