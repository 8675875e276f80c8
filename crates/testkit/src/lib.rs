//! Fake clock, seeded randomness and test devices.
