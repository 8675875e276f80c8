//! MQTT 3.1.1 and 5 without I/O: the codec, and the state machine of one client.
//!
//! [`codec`] turns bytes into packets and back; [`connection`] is what one client may say when.
//! Neither knows a socket, a clock or a source of randomness.

pub mod codec;
pub mod connection;
