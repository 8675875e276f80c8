//! The settings of admission.

/// Section `[admission]` of the settings file. What a single registry may choose (issuer, skew, life of
/// its tokens) stands in its record, not here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct AdmissionConfig {
    /// How far ahead the `exp` of a client assertion may be, in seconds, before the skew is added.
    /// Default 300: an assertion is made to be used at once.
    pub assertion_life_s_max: u32,
    /// Longest `exp - iat` of a device's own JWT in CONNECT, in seconds, before the skew is added.
    /// Default 86,400, as Google Cloud IoT Core had it.
    pub connect_life_s_max: u32,
    /// How long a key that its device has replaced may still log in, in seconds. Default 86,400; it
    /// ends earlier with the first login by the new key.
    pub key_grace_s: u32,
    /// How many keys of a principal may be active. Default 5.
    pub keys_active_max: usize,
    /// How many `jti` of unexpired assertions are remembered for one principal. Default 1,000.
    pub jti_live_max: usize,
    /// How many `jti` of legacy assertions without `exp` are remembered for one key. Default 65,536.
    pub legacy_jti_max: usize,
    /// Longest JWT over HTTP, in bytes. Default 4,096.
    pub http_token_bytes_max: usize,
    /// Longest JWT in an MQTT CONNECT, in bytes. Default 8,192.
    pub bridge_token_bytes_max: usize,
    /// How many principals are kept in memory, ready to log in. Default 100,000.
    pub principals_cached_max: usize,
    /// So far may this server's own clock be off, in ms: what `/v1/time` says of it. Default 1,000, which a
    /// machine that keeps its time by NTP holds easily.
    pub clock_uncertainty_ms: u32,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            assertion_life_s_max: 300,
            connect_life_s_max: 86_400,
            key_grace_s: 86_400,
            keys_active_max: 5,
            jti_live_max: 1_000,
            legacy_jti_max: 65_536,
            http_token_bytes_max: 4_096,
            bridge_token_bytes_max: 8_192,
            principals_cached_max: 100_000,
            clock_uncertainty_ms: 1_000,
        }
    }
}
