//! Settings: one TOML file, a section a part; every `serve` flag is a shorthand of a key. All faults
//! are shown in one run, unknown keys too.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;

use drawbridge_cli::ServeArgs;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Where and as whom to serve.
    pub(crate) serve: ServeSettings,
    /// Sockets and limits of the MQTT bridge.
    pub(crate) bridge: BridgeSettings,
    /// Rules for what devices send.
    pub(crate) identity: IdentitySettings,
    /// Limits of admission.
    pub(crate) admission: drawbridge_admission::AdmissionConfig,
    /// Bounds of HTTPS.
    pub(crate) http: drawbridge_http::HttpConfig,
    /// What is logged.
    pub(crate) log: LogSettings,
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
    /// The same per address. Default 1024.
    pub(crate) unauthenticated_per_address_max: usize,
    /// Seconds from accept to an admitted CONNECT, TLS included. Default 10.
    pub(crate) connect_timeout_s: u64,
    /// Largest packet from an admitted client, in bytes. Default 262,144.
    pub(crate) packet_bytes_max: usize,
    /// Most bytes of messages a shard keeps for subscribers that are behind. Default 67,108,864.
    pub(crate) log_bytes_max: usize,
}

impl Default for BridgeSettings {
    fn default() -> Self {
        Self {
            shards: 0,
            unauthenticated_max: 4096,
            unauthenticated_per_address_max: 1024,
            connect_timeout_s: 10,
            packet_bytes_max: 256 * 1024,
            log_bytes_max: 64 * 1024 * 1024,
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
        let mut settings = match &args.config {
            None => Self::default(),
            Some(file) => Self::read(file)?,
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
        let faults = settings.faults();
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }

    fn read(file: &Path) -> Result<Self, Vec<String>> {
        let text = std::fs::read_to_string(file)
            .map_err(|e| vec![format!("[DB-6001] {}: {e}; name a readable TOML file", file.display())])?;
        Self::parse(&text).map_err(|faults| {
            faults.into_iter().map(|fault| format!("{}: {fault}", file.display())).collect()
        })
    }

    /// Reads a text; unknown keys are faults, all of them at once.
    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let document = toml::Deserializer::parse(text).map_err(|e| vec![format!("[DB-6001] {e}")])?;
        let mut unknown = Vec::new();
        let parsed = serde_ignored::deserialize(document, |path| {
            unknown.push(format!("[DB-6002] unknown key `{path}`; remove it or correct its name"));
        });
        match parsed {
            Ok(settings) if unknown.is_empty() => Ok(settings),
            Ok(_) => Err(unknown),
            Err(e) => {
                unknown.push(format!("[DB-6001] {e}"));
                Err(unknown)
            }
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut range = |key: &str, found: u64, wanted: std::ops::RangeInclusive<u64>| {
            if !wanted.contains(&found) {
                faults.push(format!(
                    "[DB-6003] `{key}` is {found}; wanted {} to {}",
                    wanted.start(),
                    wanted.end()
                ));
            }
        };
        range("bridge.shards", self.bridge.shards as u64, 0..=256);
        range("bridge.unauthenticated_max", self.bridge.unauthenticated_max as u64, 1..=1_000_000);
        range(
            "bridge.unauthenticated_per_address_max",
            self.bridge.unauthenticated_per_address_max as u64,
            1..=1_000_000,
        );
        range("bridge.connect_timeout_s", self.bridge.connect_timeout_s, 1..=120);
        range("bridge.packet_bytes_max", self.bridge.packet_bytes_max as u64, 1024..=268_435_455);
        range("bridge.log_bytes_max", self.bridge.log_bytes_max as u64, 65_536..=1 << 40);
        range("identity.clock_skew_s", u64::from(self.identity.clock_skew_s), 0..=3600);
        range("identity.token_life_s", u64::from(self.identity.token_life_s), 1..=86_400);
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
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to its terminal")]
pub(crate) fn check(file: &Path) -> ExitCode {
    let faults = match Settings::read(file) {
        Ok(settings) => settings.faults(),
        Err(faults) => faults,
    };
    if faults.is_empty() {
        println!("{} is good", file.display());
        println!("next: drawbridge serve --config {}", file.display());
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

    #[test]
    fn every_unknown_key_is_shown_in_one_run() {
        let text = "[serve]\nnam = 1\nmqtts_port = 1\n[brige]\nx = 1\n[http]\ny = 1\n[admission]\nz = 1\n";
        let mut faults = Settings::parse(text).expect_err("four unknown");
        faults.sort();
        assert_eq!(faults.len(), 4, "{faults:?}");
        for (fault, key) in faults.iter().zip(["admission.z", "brige", "http.y", "serve.nam"]) {
            assert!(fault.contains(key), "{fault} against {key}");
        }
    }

    #[test]
    fn every_value_out_of_range_is_shown_in_one_run() {
        let text = "[serve]\nissuer = \"http://x\"\n[bridge]\nshards = 1000\nconnect_timeout_s = 0\n";
        let faults = Settings::parse(text).expect("well formed").faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
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
        let settings = Settings::parse("").expect("empty");
        assert_eq!(settings.serve.mqtts_port, 8883);
        assert!(settings.serve.listen.is_loopback());
        assert!(settings.faults().is_empty());
    }
}
