//! MQTT 3.1.1 and 5 without I/O: the codec, and the state machine of one client.
