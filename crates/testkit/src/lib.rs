//! Fake clock, seeded randomness and test devices.
//!
//! For tests only: nothing here is fit to keep a secret.

mod ambient;
mod device;
mod store;

pub use ambient::{FakeClock, RecordingWatcher, SeededRandom, sealer};
pub use device::{Draft, TestDevice};
pub use store::FlakyStore;
