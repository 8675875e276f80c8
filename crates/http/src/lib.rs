//! Token API, discovery, device and operator API over HTTPS.
