//! The settings of admission.

use crate::LimitsConfig;

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
    /// How many keys a principal may bring by itself in all its life: retired ones are kept for ever, and all of
    /// them are read when it logs in. Default 10,000.
    pub keys_kept_max: usize,
    /// How many `jti` of unexpired assertions are remembered for one principal. Default 1,000.
    pub jti_live_max: usize,
    /// How many `jti` of legacy assertions without `exp` are remembered for one key. Default 65,536.
    pub legacy_jti_max: usize,
    /// Longest JWT over HTTP, in bytes. Default 4,096.
    pub http_token_bytes_max: usize,
    /// Longest JWT in an MQTT CONNECT, in bytes. Default 8,192.
    pub bridge_token_bytes_max: usize,
    /// How many passwords are checked at once, each with `password_memory_kib` of memory; 0: as many as there
    /// are cores. Default 0.
    pub password_checks_max: usize,
    /// How many password checks wait for their turn; who comes then is told to come again. Default 64: two
    /// seconds of work for one core.
    pub password_queue_max: usize,
    /// Memory of one password check (argon2id), in KiB, at most 65,536; passwords set before keep theirs.
    /// Default 19,456.
    pub password_memory_kib: u32,
    /// Passes over that memory, at most 16. Default 2.
    pub password_passes: u32,
    /// How long a right password is remembered (as a MAC, in memory), in seconds; 0: not at all. Default 300.
    pub password_cache_s: u32,
    /// How many devices may register themselves by one software statement that names no key; each of them
    /// waits for approval. Default 1,000.
    pub statement_devices_max: u32,
    /// How many principals are kept in memory, ready to log in. Default 100,000.
    pub principals_cached_max: usize,
    /// How long a key of an issuer signs before the next one does, in seconds. Default 7,776,000, 90 days;
    /// 0: until an operator changes it.
    pub issuer_key_life_s: u32,
    /// How long a key of an issuer is published before it signs, in seconds. Default 86,400: verifiers that
    /// ask for the key set once a day know it then.
    pub issuer_key_lead_s: u32,
    /// How many opaque tokens of one principal are good at a time. Default 1,000.
    pub opaque_tokens_max: usize,
    /// Where clients by RFC 9431 that are refused are told to ask for a token: empty, nowhere (the default);
    /// `issuer`, at the token endpoint of their registry; else this URL.
    pub ace_as: String,
    /// Whether tokens by RFC 9431 must carry a `cnonce` that this broker gave out with that hint. Default false:
    /// its clock tells which tokens are new.
    pub ace_cnonce: bool,
    /// Whether a proof over the TLS connection is also taken when TLS was resumed, which RFC 9431 section 4 does
    /// not allow. Default false.
    pub ace_exporter_when_resumed: bool,
    /// How many tokens that were published to `authz-info` are kept, one for each key. Default 100,000, some
    /// 100 MB.
    pub ace_tokens_max: usize,
    /// How often somebody may ask: section `[limits]`.
    #[serde(skip)]
    pub limits: LimitsConfig,
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
            keys_kept_max: 10_000,
            jti_live_max: 1_000,
            legacy_jti_max: 65_536,
            http_token_bytes_max: 4_096,
            bridge_token_bytes_max: 8_192,
            password_checks_max: 0,
            password_queue_max: 64,
            password_memory_kib: 19 * 1024,
            password_passes: 2,
            password_cache_s: 300,
            statement_devices_max: 1_000,
            principals_cached_max: 100_000,
            issuer_key_life_s: 7_776_000,
            issuer_key_lead_s: 86_400,
            opaque_tokens_max: 1_000,
            ace_as: String::new(),
            ace_cnonce: false,
            ace_exporter_when_resumed: false,
            ace_tokens_max: 100_000,
            limits: LimitsConfig::default(),
            clock_uncertainty_ms: 1_000,
        }
    }
}
