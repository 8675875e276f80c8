//! Sockets and TLS: drives the MQTT cores, one poll loop a shard.
