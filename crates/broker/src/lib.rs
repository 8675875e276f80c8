//! Many MQTT sessions without I/O: routing, retained messages, wills, the log and its cursors.
