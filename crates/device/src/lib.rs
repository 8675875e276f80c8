//! Client library for devices: keys, tokens, MQTT.
