//! Commands, config and state of devices: versions, deadlines, delivery states.
