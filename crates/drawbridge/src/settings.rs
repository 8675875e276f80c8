//! Settings: one TOML file, a section a part; every `serve` flag is a shorthand of a key. All faults
//! are shown in one run, unknown keys too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;

use drawbridge_bridge::TICKET_LIFE_S_MAX;
use drawbridge_cli::ServeArgs;
use drawbridge_names::PrincipalName;
use rustls_pki_types::DnsName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;

use crate::certificates::{self, CertificateSettings, TicketSettings};
use crate::listeners::{self, ListenerSettings};
use crate::messages::MessageSettings;
use crate::store::{SealSettings, StoreSettings, StoreUrl};

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Where and as whom to serve.
    pub(crate) serve: ServeSettings,
    /// Where clients come in, by name.
    pub(crate) listener: BTreeMap<String, ListenerSettings>,
    /// Certificates of the operator, by name.
    pub(crate) certificate: BTreeMap<String, CertificateSettings>,
    /// Session tickets of TLS.
    pub(crate) tickets: TicketSettings,
    /// Sockets and limits of the MQTT bridge.
    pub(crate) bridge: BridgeSettings,
    /// Sessions and messages that outlive connections and the process.
    pub(crate) messages: MessageSettings,
    /// Rules for what devices send.
    pub(crate) identity: IdentitySettings,
    /// Limits of admission.
    pub(crate) admission: drawbridge_admission::AdmissionConfig,
    /// Bounds of HTTPS.
    pub(crate) http: drawbridge_http::HttpConfig,
    /// What is logged.
    pub(crate) log: LogSettings,
    /// Where the records are kept.
    pub(crate) store: StoreSettings,
    /// What its secrets are sealed with.
    pub(crate) seal: SealSettings,
}

/// `[serve]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct ServeSettings {
    /// The issuer of the default registry; fixed when it is first made. Default: from the first name
    /// (else `localhost`) and the HTTPS port.
    pub(crate) issuer: Option<String>,
    /// Further DNS names and addresses for the server's certificate.
    pub(crate) names: Vec<String>,
    /// Address to listen on. Default 127.0.0.1: nobody else is let near until told otherwise.
    pub(crate) listen: IpAddr,
    /// Port of MQTT over TLS; 0 for any. Default 8883.
    pub(crate) mqtts_port: u16,
    /// Port of HTTPS; 0 for any. Default 8443.
    pub(crate) https_port: u16,
    /// Port of MQTT without TLS, on loopback only. Default: none.
    pub(crate) insecure_mqtt_port: Option<u16>,
    /// The application whose rights clients without any credential get on the insecure port.
    pub(crate) insecure_anonymous: Option<String>,
    /// How often the files of certificates and ticket secrets are looked at, in seconds; SIGHUP does it at once. Default 60.
    pub(crate) certificate_check_s: u64,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            issuer: None,
            names: Vec::new(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            mqtts_port: 8883,
            https_port: 8443,
            insecure_mqtt_port: None,
            insecure_anonymous: None,
            certificate_check_s: 60,
        }
    }
}

/// `[bridge]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct BridgeSettings {
    /// Worker threads with sockets of their own; 0 means one per core. Default 0.
    pub(crate) shards: usize,
    /// Connections per listener that have not authenticated yet. Default 4096.
    pub(crate) unauthenticated_max: usize,
    /// The same per address; the excess waits. Default 1024.
    pub(crate) unauthenticated_per_address_max: usize,
    /// Connections that wait so, in all; the excess is closed. Default 16,384.
    pub(crate) address_queue_max: usize,
    /// Seconds from accept to an admitted CONNECT, TLS included. Default 10.
    pub(crate) connect_timeout_s: u64,
    /// How long TLS handshakes are worked on before those who are in are served again, in microseconds. Default 2000.
    pub(crate) handshake_us_per_turn: u64,
    /// Handshakes that may wait in a shard; beyond it nobody is accepted. Default 512.
    pub(crate) handshakes_waiting_max: usize,
    /// Logins judged at once; beyond it CONNECT is refused unread. Default 1024.
    pub(crate) logins_max: usize,
    /// Seconds from the last whole TLS handshake of a client to the end of its session, however often that is renewed;
    /// 0: no end but that of its token. Default 86,400.
    pub(crate) renewed_session_s_max: u64,
    /// Seconds from one publishing of the numbers below `$SYS` to the next; 0: never. Default 10.
    pub(crate) statistics_s: u64,
    /// Largest packet from an admitted client, in bytes. Default 262,144.
    pub(crate) packet_bytes_max: usize,
    /// Most bytes of messages a shard keeps for subscribers that are behind. Default 67,108,864.
    pub(crate) waiting_bytes_max: usize,
}

impl Default for BridgeSettings {
    fn default() -> Self {
        Self {
            shards: 0,
            unauthenticated_max: 4096,
            unauthenticated_per_address_max: 1024,
            address_queue_max: 16_384,
            connect_timeout_s: 10,
            handshake_us_per_turn: 2000,
            handshakes_waiting_max: 512,
            logins_max: 1024,
            renewed_session_s_max: 86_400,
            statistics_s: 10,
            packet_bytes_max: 256 * 1024,
            waiting_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// `[identity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct IdentitySettings {
    /// How far a device's clock may be off, in seconds; for registries made from now on. Default 60.
    pub(crate) clock_skew_s: u32,
    /// Life of an access token in seconds; for registries made from now on. Default 3600.
    pub(crate) token_life_s: u32,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self { clock_skew_s: 60, token_life_s: 3600 }
    }
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct LogSettings {
    /// Which events: `info`, or directives such as `warn,drawbridge_bridge=debug`. Default `info`.
    pub(crate) filter: String,
    /// One JSON object a line instead of text. Default false.
    pub(crate) json: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

impl Settings {
    /// The file (if one is named) with the flags laid over it, or every fault of both.
    pub(crate) fn gather(args: &ServeArgs) -> Result<Self, Vec<String>> {
        let (mut settings, mut faults) = match &args.config {
            None => (Self::default(), Vec::new()),
            Some(file) => Self::read(file),
        };
        let serve = &mut settings.serve;
        if args.issuer.is_some() {
            serve.issuer.clone_from(&args.issuer);
        }
        serve.names.extend(args.names.iter().cloned());
        serve.listen = args.listen.unwrap_or(serve.listen);
        serve.mqtts_port = args.mqtts_port.unwrap_or(serve.mqtts_port);
        serve.https_port = args.https_port.unwrap_or(serve.https_port);
        serve.insecure_mqtt_port = args.insecure_mqtt_port.or(serve.insecure_mqtt_port);
        if args.insecure_anonymous.is_some() {
            serve.insecure_anonymous.clone_from(&args.insecure_anonymous);
        }
        if let Some(url) = &args.store {
            settings.store.url = Some(url.0.clone().into());
        }
        faults.extend(settings.faults());
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }

    /// The file as far as it can be read, and what is wrong with it.
    fn read(file: &Path) -> (Self, Vec<String>) {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) => {
                let fault = format!("[DB-6001] {}: {e}; name a readable TOML file", file.display());
                return (Self::default(), vec![fault]);
            }
        };
        let (settings, faults) = Self::parse(&text);
        (settings, faults.into_iter().map(|fault| format!("{}: {fault}", file.display())).collect())
    }

    /// Reads a text key by key, so that one fault hides no other.
    pub(crate) fn parse(text: &str) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        let mut document: toml::Table = match text.parse() {
            Ok(document) => document,
            Err(e) => return (Self::default(), vec![format!("[DB-6001] no TOML: {e}")]),
        };
        let settings = Self {
            serve: section(&mut document, "serve", &mut faults),
            listener: sections(&mut document, "listener", &mut faults),
            certificate: sections(&mut document, "certificate", &mut faults),
            tickets: section(&mut document, "tickets", &mut faults),
            bridge: section(&mut document, "bridge", &mut faults),
            messages: section(&mut document, "messages", &mut faults),
            identity: section(&mut document, "identity", &mut faults),
            admission: drawbridge_admission::AdmissionConfig {
                limits: section(&mut document, "limits", &mut faults),
                ..section(&mut document, "admission", &mut faults)
            },
            http: section(&mut document, "http", &mut faults),
            log: section(&mut document, "log", &mut faults),
            store: section(&mut document, "store", &mut faults),
            seal: section(&mut document, "seal", &mut faults),
        };
        faults.extend(document.keys().map(|name| unknown(name)));
        (settings, faults)
    }

    /// What is well-formed and cannot be meant.
    fn faults(&self) -> Vec<String> {
        let (bridge, identity, admission, http) = (&self.bridge, &self.identity, &self.admission, &self.http);
        let (messages, million) = (&self.messages, 1_000_000);
        let ranges = [
            ("serve.certificate_check_s", self.serve.certificate_check_s, 1, 86_400),
            ("tickets.life_s", self.tickets.life_s.into(), 0, TICKET_LIFE_S_MAX.into()),
            ("bridge.shards", bridge.shards as u64, 0, 256),
            ("bridge.unauthenticated_max", bridge.unauthenticated_max as u64, 1, million),
            (
                "bridge.unauthenticated_per_address_max",
                bridge.unauthenticated_per_address_max as u64,
                1,
                million,
            ),
            ("bridge.address_queue_max", bridge.address_queue_max as u64, 0, million),
            ("bridge.connect_timeout_s", bridge.connect_timeout_s, 1, 120),
            ("bridge.handshake_us_per_turn", bridge.handshake_us_per_turn, 0, million),
            ("bridge.handshakes_waiting_max", bridge.handshakes_waiting_max as u64, 1, million),
            ("bridge.logins_max", bridge.logins_max as u64, 1, million),
            ("bridge.statistics_s", bridge.statistics_s, 0, 86_400),
            ("bridge.packet_bytes_max", bridge.packet_bytes_max as u64, 1024, 268_435_455),
            ("bridge.waiting_bytes_max", bridge.waiting_bytes_max as u64, 65_536, 1 << 40),
            ("messages.session_expiry_s_max", messages.session_expiry_s_max.into(), 0, u64::from(u32::MAX)),
            ("messages.queue_messages_max", messages.queue_messages_max as u64, 1, 100 * million),
            ("messages.queue_bytes_max", messages.queue_bytes_max as u64, 65_536, 1 << 40),
            ("messages.segment_bytes", messages.segment_bytes, 4096, 1 << 30),
            ("messages.bytes_max", messages.bytes_max, 8 * messages.segment_bytes, 1 << 50),
            ("messages.age_s_max", messages.age_s_max, 60, 3_153_600_000),
            ("identity.clock_skew_s", u64::from(identity.clock_skew_s), 0, 3600),
            ("identity.token_life_s", u64::from(identity.token_life_s), 1, 86_400),
            ("admission.assertion_life_s_max", u64::from(admission.assertion_life_s_max), 1, 86_400),
            ("admission.connect_life_s_max", u64::from(admission.connect_life_s_max), 1, 31_622_400),
            ("admission.key_grace_s", u64::from(admission.key_grace_s), 1, 31_622_400),
            ("admission.keys_active_max", admission.keys_active_max as u64, 1, 100),
            ("admission.keys_kept_max", admission.keys_kept_max as u64, 1, million),
            ("admission.jti_live_max", admission.jti_live_max as u64, 1, million),
            ("admission.legacy_jti_max", admission.legacy_jti_max as u64, 1, 100 * million),
            ("admission.http_token_bytes_max", admission.http_token_bytes_max as u64, 512, 16_384),
            ("admission.bridge_token_bytes_max", admission.bridge_token_bytes_max as u64, 512, 16_384),
            ("admission.password_checks_max", admission.password_checks_max as u64, 0, 1024),
            ("admission.password_queue_max", admission.password_queue_max as u64, 0, million),
            ("admission.password_memory_kib", admission.password_memory_kib.into(), 8_192, 65_536),
            ("admission.password_passes", admission.password_passes.into(), 1, 16),
            ("admission.password_cache_s", admission.password_cache_s.into(), 0, 86_400),
            ("admission.statement_devices_max", admission.statement_devices_max.into(), 1, million),
            ("admission.issuer_key_life_s", admission.issuer_key_life_s.into(), 0, 315_360_000),
            ("admission.issuer_key_lead_s", admission.issuer_key_lead_s.into(), 0, 31_622_400),
            ("admission.opaque_tokens_max", admission.opaque_tokens_max as u64, 1, million),
            ("admission.ace_tokens_max", admission.ace_tokens_max as u64, 0, 10 * million),
            ("admission.clock_uncertainty_ms", admission.clock_uncertainty_ms.into(), 0, 3_600_000),
            ("admission.principals_cached_max", admission.principals_cached_max as u64, 1, 100 * million),
            ("limits.address_burst", admission.limits.address_burst.into(), 1, million),
            ("limits.address_per_s", admission.limits.address_per_s.into(), 1, million),
            ("limits.principal_burst", admission.limits.principal_burst.into(), 1, million),
            ("limits.principal_per_s", admission.limits.principal_per_s.into(), 1, million),
            ("limits.strangers_burst", admission.limits.strangers_burst.into(), 1, million),
            ("limits.strangers_per_s", admission.limits.strangers_per_s.into(), 1, million),
            ("limits.remembered_max", admission.limits.remembered_max as u64, 32, 100 * million),
            ("http.handshake_s_max", http.handshake_s_max, 1, 120),
            ("http.header_s_max", http.header_s_max, 1, 600),
            ("http.body_s_max", http.body_s_max, 1, 600),
            ("http.handshakes_max", http.handshakes_max as u64, 1, million),
            ("http.connections_max", http.connections_max as u64, 1, million),
            ("http.connections_per_address_max", http.connections_per_address_max as u64, 1, million),
            ("http.command_wait_s", http.command_wait_s, 1, 3600),
            ("http.command_wait_s_max", http.command_wait_s_max, 1, 3600),
            ("http.config_wait_s", http.config_wait_s, 0, 3600),
        ];
        let mut faults: Vec<String> = ranges
            .into_iter()
            .filter(|(_, found, least, most)| !(least..=most).contains(&found))
            .map(|(key, found, least, most)| {
                format!("[DB-6003] `{key}` is {found}; wanted {least} to {most}")
            })
            .collect();
        let hint = admission.ace_as.as_str();
        if !hint.is_empty() && hint != "issuer" && !hint.starts_with("https://") {
            faults.push(format!(
                "[DB-6003] `admission.ace_as` is {hint:?}; wanted nothing, `issuer`, or the https URL of a token endpoint"
            ));
        }
        faults.extend(self.store.url.as_ref().and_then(StoreUrl::fault));
        faults.extend(listeners::plan(self).err().into_iter().flatten());
        for (name, certificate) in &self.certificate {
            let missing = [("chain_file", &certificate.chain_file), ("key_file", &certificate.key_file)];
            for (key, _) in missing.iter().filter(|(_, path)| path.as_os_str().is_empty()) {
                faults.push(format!("[DB-6024] `certificate.{name}.{key}` is missing; name a PEM file"));
            }
            if name == certificates::OWN {
                faults
                    .push("[DB-6024] `certificate.own` is the server's own; choose another name".to_owned());
            }
        }
        for name in &self.serve.names {
            if name.parse::<IpAddr>().is_err() && DnsName::try_from(name.as_str()).is_err() {
                faults.push(format!(
                    "[DB-6015] the name {name:?} (--name, `serve.names`) is no DNS name or IP address; wanted such as `core.example`"
                ));
            }
        }
        if let Some(Err(why)) = self.serve.insecure_anonymous.as_deref().map(PrincipalName::parse) {
            faults.push(format!("[DB-6006] `serve.insecure_anonymous` is no name of an application: {why}"));
        }
        if let Err(why) = EnvFilter::builder().parse(&self.log.filter) {
            faults.push(format!(
                "[DB-6007] `log.filter` {:?} is no filter: {why}; wanted such as `info` or `warn,drawbridge_bridge=debug`",
                self.log.filter
            ));
        }
        if let Some(issuer) = &self.serve.issuer
            && let Err(why) = judge_issuer(issuer)
        {
            faults.push(format!(
                "[DB-6004] `serve.issuer` {issuer:?} {why}; wanted such as `https://core.example:8443`"
            ));
        }
        if self.serve.insecure_anonymous.is_some() && self.serve.insecure_mqtt_port.is_none() {
            faults.push(
                "[DB-6005] `serve.insecure_anonymous` needs `serve.insecure_mqtt_port`; set both or neither"
                    .to_owned(),
            );
        }
        faults
    }
}

/// Takes one section out of the document. Every key of it is judged by itself.
fn section<T: DeserializeOwned + Default>(
    document: &mut toml::Table,
    name: &str,
    faults: &mut Vec<String>,
) -> T {
    let keys = match document.remove(name) {
        None => return T::default(),
        Some(toml::Value::Table(keys)) => keys,
        Some(other) => {
            let found = other.type_str();
            faults.push(format!("[DB-6001] `{name}` is {found}; wanted a section, `[{name}]`"));
            return T::default();
        }
    };
    let mut good = toml::Table::new();
    for (key, value) in keys {
        let alone = toml::Value::Table(toml::Table::from_iter([(key.clone(), value.clone())]));
        let mut ignored = Vec::new();
        match serde_ignored::deserialize::<_, _, T>(alone, |path| {
            ignored.push(unknown(&format!("{name}.{path}")))
        }) {
            Ok(_) if ignored.is_empty() => drop(good.insert(key, value)),
            Ok(_) => faults.append(&mut ignored),
            Err(e) => faults.push(format!("[DB-6001] `{name}.{key}`: {}", e.to_string().trim_end())),
        }
    }
    toml::Value::Table(good).try_into().unwrap_or_default()
}

/// As [`section`], for all `[name.*]`.
fn sections<T: DeserializeOwned + Default>(
    document: &mut toml::Table,
    name: &str,
    faults: &mut Vec<String>,
) -> BTreeMap<String, T> {
    let all = match document.remove(name) {
        None => return BTreeMap::new(),
        Some(toml::Value::Table(all)) => all,
        Some(other) => {
            let found = other.type_str();
            faults.push(format!("[DB-6001] `{name}` is {found}; wanted sections, `[{name}.NAME]`"));
            return BTreeMap::new();
        }
    };
    let mut found = BTreeMap::new();
    for (key, value) in all {
        let path = format!("{name}.{key}");
        let mut alone = toml::Table::from_iter([(path.clone(), value)]);
        found.insert(key, section(&mut alone, &path, faults));
    }
    found
}

fn unknown(key: &str) -> String {
    format!("[DB-6002] unknown key `{key}`; remove it or correct its name")
}

/// RFC 8414 section 2: an https URL without query and fragment; here also without a final slash, so
/// that issuer + path is a URL.
fn judge_issuer(issuer: &str) -> Result<(), &'static str> {
    let rest = issuer.strip_prefix("https://").ok_or("is no https URL")?;
    if rest.is_empty() || rest.starts_with('/') {
        return Err("has no host");
    }
    if rest.ends_with('/') {
        return Err("ends with a slash");
    }
    if rest.contains(['?', '#', '@']) || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has a query, fragment, user or a character that is not allowed");
    }
    Ok(())
}

/// `drawbridge check-config FILE`: judges a file and starts nothing.
#[expect(clippy::print_stderr, reason = "a command line talks to its terminal")]
pub(crate) fn check(file: &Path) -> ExitCode {
    let (settings, mut faults) = Settings::read(file);
    faults.extend(settings.faults());
    if faults.is_empty() {
        say!("{} is good", file.display());
        say!("next: drawbridge serve --config {}", file.display());
        return ExitCode::SUCCESS;
    }
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything wrong with a text, in order of text.
    fn wrong_with(text: &str) -> Vec<String> {
        let (settings, mut faults) = Settings::parse(text);
        faults.extend(settings.faults());
        faults.sort();
        faults
    }

    #[test]
    fn one_fault_hides_no_other() {
        let faults = wrong_with(
            "[serve]\nnam = 1\nmqtts_port = 99999\nissuer = \"http://x\"\nnames = [\"a b\"]\n\
             insecure_anonymous = \"a/b\"\n[brige]\nx = 1\n[http]\ny = 1\nbody_s_max = 0\n\
             [admission]\nz = 1\nkey_grace_s = 0\n[bridge]\nshards = 1000\nconnect_timeout_s = \"1\"\n\
             [log]\nfilter = \"=!=\"\n",
        );
        let wanted = [
            ("DB-6001", "bridge.connect_timeout_s"),
            ("DB-6001", "serve.mqtts_port"),
            ("DB-6002", "admission.z"),
            ("DB-6002", "brige"),
            ("DB-6002", "http.y"),
            ("DB-6002", "serve.nam"),
            ("DB-6003", "admission.key_grace_s"),
            ("DB-6003", "bridge.shards"),
            ("DB-6003", "http.body_s_max"),
            ("DB-6004", "serve.issuer"),
            ("DB-6005", "serve.insecure_mqtt_port"),
            ("DB-6006", "serve.insecure_anonymous"),
            ("DB-6007", "log.filter"),
            ("DB-6015", "a b"),
        ];
        assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
        for (fault, (code, key)) in faults.iter().zip(wanted) {
            assert!(fault.contains(code) && fault.contains(key), "{fault} against {code} {key}");
        }
    }

    #[test]
    fn what_is_no_toml_and_what_is_no_section_is_said() {
        assert!(wrong_with("[serve")[0].contains("DB-6001"));
        assert!(wrong_with("serve = 1")[0].contains("[serve]"));
    }

    #[test]
    fn an_issuer_is_an_https_url_without_ornaments() {
        for good in ["https://localhost:8443", "https://core.example", "https://core.example/r/x"] {
            assert_eq!(judge_issuer(good), Ok(()), "{good}");
        }
        for bad in
            ["http://x", "https://", "https:///x", "https://x/", "https://x?y", "https://x#y", "https://u@x"]
        {
            assert!(judge_issuer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_empty_file_is_the_default() {
        let (settings, faults) = Settings::parse("");
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(settings.serve.mqtts_port, 8883);
        assert!(settings.serve.listen.is_loopback());
        assert!(settings.faults().is_empty());
    }

    #[test]
    fn the_documented_settings_are_all_there_are_with_their_defaults() {
        let document = include_str!("../../../docs/operations.md");
        let begun = document.split("cat > settings.toml <<'END'\n").nth(1).expect("the document shows them");
        let shown = begun.split("\nEND\n").next().expect("to their end");
        let (settings, faults) = Settings::parse(shown);
        assert!(faults.is_empty(), "{faults:?}");
        let default = format!("{:?}", Settings::default());
        assert_eq!(format!("{settings:?}"), default);
        let names = default.split([' ', '{']).filter_map(|word| word.strip_suffix(':'));
        // The last two are parts of an address.
        let missing: Vec<&str> =
            names.filter(|name| !["address", "prefix"].contains(name) && !shown.contains(*name)).collect();
        assert_eq!(missing, [""; 0]);
    }
}
