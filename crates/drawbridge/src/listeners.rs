//! `[listener.NAME]`: where clients come in, what is spoken there, and by which ways they may log in (decision 0034).
//!
//! Two are there always, `mqtts` and `https`: their addresses are those of `[serve]`, unless they name one.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use drawbridge_admission::{Way, Ways};
use drawbridge_names::RegistryName;
use serde::Deserialize;

use crate::certificates::OWN;
use crate::settings::Settings;

/// The listeners that are there without a word in the settings.
pub(crate) const MQTTS: &str = "mqtts";
pub(crate) const HTTPS: &str = "https";

/// Smallest and largest `record_bytes_max`.
const RECORD_BYTES: std::ops::RangeInclusive<u32> = 512..=16_389;

/// `[listener.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct ListenerSettings {
    /// `false`: not there. Default true.
    pub(crate) enabled: bool,
    /// Address and port; port 0 for any. `mqtts` and `https`: default from `[serve]`; all others have to name one.
    pub(crate) address: Option<SocketAddr>,
    /// What is spoken. Default `["mqtt"]`; of `https` `["https", "websocket"]`.
    pub(crate) protocols: Option<Vec<Protocol>>,
    /// Versions of TLS. Default `["1.2", "1.3"]`; with raw keys `["1.3"]`.
    pub(crate) tls: Option<Vec<TlsVersion>>,
    /// How MQTT clients may log in. Default all but `password` and `authz-info`; over WebSocket also not `certificate` and
    /// `raw-key`, since browsers show whatever certificate they have.
    pub(crate) ways: Option<Vec<String>>,
    /// The registry of MQTT clients that name none. Default: `default`.
    pub(crate) registry: Option<String>,
    /// Certificates by their names below `[certificate]`, `own` for the server's own; the first is for clients that
    /// name no server. Default `["own"]`.
    pub(crate) certificates: Vec<String>,
    /// Server names that lead to a registry.
    pub(crate) registries: BTreeMap<String, String>,
    /// Raw public keys (RFC 7250) instead of certificates, on both sides. Default false.
    pub(crate) raw_keys: bool,
    /// Ask for client certificates in TLS 1.2 too, where everybody on the way reads them. Default false.
    pub(crate) tls12_client_certificates: bool,
    /// Largest TLS record that is sent, in bytes; 512 to 16,389. Default 16,389.
    pub(crate) record_bytes_max: u32,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            address: None,
            protocols: None,
            tls: None,
            ways: None,
            registry: None,
            certificates: vec![OWN.to_owned()],
            registries: BTreeMap::new(),
            raw_keys: false,
            tls12_client_certificates: false,
            record_bytes_max: *RECORD_BYTES.end(),
        }
    }
}

/// What is spoken inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// MQTT, at once.
    Mqtt,
    /// MQTT over WebSocket, at `/mqtt`.
    Websocket,
    /// Everything else over HTTPS.
    Https,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum TlsVersion {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

/// A listener, with all defaults in their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerPlan {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) mqtt: bool,
    pub(crate) websocket: bool,
    pub(crate) https: bool,
    pub(crate) tls12: bool,
    pub(crate) tls13: bool,
    pub(crate) ways: Ways,
    /// The same over WebSocket.
    pub(crate) web_socket_ways: Ways,
    pub(crate) registry: Option<RegistryName>,
    pub(crate) certificates: Vec<String>,
    pub(crate) registries: BTreeMap<String, RegistryName>,
    pub(crate) raw_keys: bool,
    pub(crate) tls12_certificates: bool,
    pub(crate) record_bytes_max: Option<usize>,
}

impl ListenerPlan {
    /// Whether HTTP is spoken, for the API or for WebSocket.
    pub(crate) fn http(&self) -> bool {
        self.https || self.websocket
    }

    /// Whether MQTT clients are asked for a certificate; by that of its key a client comes back that has published a token.
    pub(crate) fn asks_certificates(&self) -> bool {
        self.ways.allows(Way::Certificate) || self.ways.allows(Way::AuthzInfo)
    }

    /// How it is announced at the start.
    pub(crate) fn speaks(&self) -> String {
        let words = [(self.mqtt, "mqtt"), (self.websocket, "websocket"), (self.https, "https")];
        words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
    }
}

/// All listeners, `mqtts` first, then `https`, then the others by name; or every fault.
pub(crate) fn plan(settings: &Settings) -> Result<Vec<ListenerPlan>, Vec<String>> {
    let (mut plans, mut faults) = (Vec::new(), Vec::new());
    let standard =
        [MQTTS, HTTPS].map(|name| (name, settings.listener.get(name).cloned().unwrap_or_default()));
    let further = settings.listener.iter().filter(|(name, _)| ![MQTTS, HTTPS].contains(&name.as_str()));
    let further = further.map(|(name, listener)| (name.as_str(), listener.clone()));
    for (name, listener) in standard.into_iter().chain(further).filter(|(_, listener)| listener.enabled) {
        let serve = &settings.serve;
        let address = listener.address.or(match name {
            MQTTS => Some(SocketAddr::new(serve.listen, serve.mqtts_port)),
            HTTPS => Some(SocketAddr::new(serve.listen, serve.https_port)),
            _ => None,
        });
        match judge(
            name,
            &listener,
            address,
            &settings.certificate.keys().map(String::as_str).collect::<Vec<_>>(),
        ) {
            Ok(plan) => plans.push(plan),
            Err(mut found) => faults.append(&mut found),
        }
    }
    if faults.is_empty() {
        for (speaks, what) in [
            (
                plans.iter().any(|plan| plan.https),
                "`https`: devices get tokens there, and the command line works by it",
            ),
            (plans.iter().any(|plan| plan.mqtt), "`mqtt`"),
        ] {
            if !speaks {
                faults.push(format!("[DB-6023] no listener speaks {what}; enable one"));
            }
        }
    }
    if faults.is_empty() { Ok(plans) } else { Err(faults) }
}

fn judge(
    name: &str,
    listener: &ListenerSettings,
    address: Option<SocketAddr>,
    certificates: &[&str],
) -> Result<ListenerPlan, Vec<String>> {
    let mut faults = Vec::new();
    let mut wrong =
        |key: &str, what: String| faults.push(format!("[DB-6023] `listener.{name}.{key}` {what}"));
    let raw_keys = listener.raw_keys;
    let protocols = listener.protocols.clone().unwrap_or_else(|| match name {
        HTTPS => vec![Protocol::Https, Protocol::Websocket],
        _ => vec![Protocol::Mqtt],
    });
    if protocols.is_empty() {
        wrong("protocols", "is empty; wanted \"mqtt\", \"websocket\", \"https\" or some of them".into());
    }
    let tls = listener.tls.clone().unwrap_or_else(|| match raw_keys {
        true => vec![TlsVersion::V13],
        false => vec![TlsVersion::V12, TlsVersion::V13],
    });
    if tls.is_empty() {
        wrong("tls", "is empty; wanted \"1.3\", \"1.2\" or both".into());
    }
    let mut ways = match &listener.ways {
        None => Ways::default().without(if raw_keys { Way::Certificate } else { Way::RawKey }),
        Some(_) => Ways::NONE,
    };
    for word in listener.ways.iter().flatten() {
        match Way::parse(word) {
            Some(way) => ways = ways.with(way),
            None => {
                let known = Way::ALL.map(Way::as_str).join(", ");
                wrong("ways", format!("has {word:?}; wanted some of {known}"));
            }
        }
    }
    if listener.ways.as_ref().is_some_and(Vec::is_empty) {
        wrong("ways", "is empty, so nobody could log in; name at least one way".into());
    }
    if raw_keys && tls != [TlsVersion::V13] {
        wrong("tls", "has 1.2, and raw public keys are of TLS 1.3; write `tls = [\"1.3\"]`".into());
    }
    if raw_keys && protocols != [Protocol::Mqtt] {
        wrong("protocols", "has more than \"mqtt\"; raw public keys have a listener of their own".into());
    }
    if raw_keys && ways.allows(Way::Certificate) {
        wrong(
            "ways",
            "has \"certificate\", and nobody shows one where raw keys are; take one of them away".into(),
        );
    }
    if !raw_keys && ways.allows(Way::RawKey) {
        wrong("ways", "has \"raw-key\" without `raw_keys = true`; set it, on a listener of its own".into());
    }
    if listener.tls12_client_certificates && !tls.contains(&TlsVersion::V12) {
        wrong("tls12_client_certificates", "is true, and TLS 1.2 is off; take one of them away".into());
    }
    if !RECORD_BYTES.contains(&listener.record_bytes_max) {
        let (least, most) = (RECORD_BYTES.start(), RECORD_BYTES.end());
        wrong("record_bytes_max", format!("is {}; wanted {least} to {most}", listener.record_bytes_max));
    }
    if listener.certificates.is_empty() {
        wrong("certificates", "is empty; wanted \"own\" or names below `[certificate]`".into());
    }
    for label in listener.certificates.iter().filter(|label| label.as_str() != OWN) {
        if !certificates.contains(&label.as_str()) {
            wrong("certificates", format!("has {label:?}, and there is no `[certificate.{label}]`; add it"));
        }
    }
    let mut registry = |key: &str, name: &str| match RegistryName::parse(name) {
        Ok(name) => Some(name),
        Err(why) => {
            wrong(key, format!("has {name:?}, which is no name of a registry: {why}"));
            None
        }
    };
    let default_registry = listener.registry.as_deref().and_then(|name| registry("registry", name));
    let registries = listener.registries.iter();
    let registries =
        registries.filter_map(|(host, name)| Some((host.clone(), registry("registries", name)?))).collect();
    if address.is_none() {
        wrong("address", "is missing; wanted such as `\"0.0.0.0:443\"`".into());
    }
    let (Some(address), true) = (address, faults.is_empty()) else { return Err(faults) };
    let most = *RECORD_BYTES.end();
    Ok(ListenerPlan {
        name: name.to_owned(),
        address,
        mqtt: protocols.contains(&Protocol::Mqtt),
        websocket: protocols.contains(&Protocol::Websocket),
        https: protocols.contains(&Protocol::Https),
        tls12: tls.contains(&TlsVersion::V12),
        tls13: tls.contains(&TlsVersion::V13),
        ways,
        web_socket_ways: match &listener.ways {
            None => Ways::default_of_web_socket(),
            Some(_) => ways,
        },
        registry: default_registry,
        certificates: listener.certificates.clone(),
        registries,
        raw_keys,
        tls12_certificates: listener.tls12_client_certificates,
        record_bytes_max: (listener.record_bytes_max < most).then_some(listener.record_bytes_max as usize),
    })
}

/// A listener whose address is taken.
pub(crate) struct Bound {
    pub(crate) plan: ListenerPlan,
    pub(crate) socket: TcpListener,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(text: &str) -> Result<Vec<ListenerPlan>, Vec<String>> {
        let (settings, faults) = Settings::parse(text);
        if faults.is_empty() { plan(&settings) } else { Err(faults) }
    }

    #[test]
    fn without_a_word_there_are_mqtts_and_https_and_no_passwords() {
        let plans = planned("[serve]\nmqtts_port = 1\nhttps_port = 2\n").expect("good");
        let found: Vec<_> =
            plans.iter().map(|p| (p.name.as_str(), p.address.to_string(), p.speaks())).collect();
        let wanted = [
            ("mqtts", "127.0.0.1:1".into(), "mqtt".into()),
            ("https", "127.0.0.1:2".into(), "websocket, https".into()),
        ];
        assert_eq!(found, wanted);
        for plan in plans {
            assert!(!plan.ways.allows(Way::Password) && !plan.ways.allows(Way::AuthzInfo));
            assert!(plan.asks_certificates() && !plan.tls12_certificates, "{plan:?}");
            assert_eq!(plan.web_socket_ways, plan.ways.without(Way::Certificate));
        }
    }

    #[test]
    fn a_listener_is_what_its_table_says() {
        let plans = planned(
            "[listener.fleet]\naddress = \"127.0.0.1:443\"\nprotocols = [\"mqtt\", \"https\"]\ntls = [\"1.3\"]\n\
             ways = [\"password\", \"certificate\"]\nregistry = \"plant\"\nrecord_bytes_max = 1024\n\
             certificates = [\"own\", \"shop\"]\nregistries = { \"a.example\" = \"plant\" }\n\
             [certificate.shop]\nchain_file = \"x\"\nkey_file = \"y\"\n\
             [listener.raw]\naddress = \"127.0.0.1:8884\"\nraw_keys = true\n\
             [listener.mqtts]\nenabled = false\n",
        )
        .expect("good");
        let [https, fleet, raw] = &plans[..] else { panic!("{plans:?}") };
        assert_eq!(https.name, "https");
        assert_eq!((fleet.tls12, fleet.tls13, fleet.record_bytes_max), (false, true, Some(1024)));
        assert_eq!(fleet.ways, Ways::NONE.with(Way::Password).with(Way::Certificate));
        assert_eq!(fleet.web_socket_ways, fleet.ways, "what is asked for by name holds there too");
        assert_eq!(fleet.registries["a.example"].as_str(), "plant");
        assert!(fleet.mqtt && fleet.https && !fleet.websocket && fleet.http());
        assert!(raw.raw_keys && !raw.tls12 && raw.ways.allows(Way::RawKey) && !raw.asks_certificates());
    }

    #[test]
    fn what_cannot_be_meant_is_said_with_its_mend() {
        let at = "address = \"127.0.0.1:1\"\n";
        let table = [
            ("[listener.x]\n".to_owned(), "`listener.x.address` is missing"),
            (format!("[listener.x]\n{at}protocols = []\n"), "`listener.x.protocols` is empty"),
            (format!("[listener.x]\n{at}protocols = [\"coap\"]\n"), "listener.x.protocols"),
            (format!("[listener.x]\n{at}tls = []\n"), "`listener.x.tls` is empty"),
            (format!("[listener.x]\n{at}tls = [\"1.1\"]\n"), "listener.x.tls"),
            (format!("[listener.x]\n{at}ways = []\n"), "nobody could log in"),
            (format!("[listener.x]\n{at}ways = [\"magic\"]\n"), "listener.x.ways"),
            (format!("[listener.x]\n{at}ways = [\"raw-key\"]\n"), "raw_keys = true"),
            (format!("[listener.x]\n{at}raw_keys = true\ntls = [\"1.2\", \"1.3\"]\n"), "tls = [\"1.3\"]"),
            (
                format!("[listener.x]\n{at}raw_keys = true\nprotocols = [\"mqtt\", \"https\"]\n"),
                "of their own",
            ),
            (
                format!("[listener.x]\n{at}raw_keys = true\nways = [\"certificate\"]\n"),
                "take one of them away",
            ),
            (
                format!("[listener.x]\n{at}tls = [\"1.3\"]\ntls12_client_certificates = true\n"),
                "TLS 1.2 is off",
            ),
            (format!("[listener.x]\n{at}record_bytes_max = 100\n"), "wanted 512 to 16389"),
            (format!("[listener.x]\n{at}certificates = [\"shop\"]\n"), "no `[certificate.shop]`"),
            (format!("[listener.x]\n{at}certificates = []\n"), "wanted \"own\""),
            (format!("[listener.x]\n{at}registry = \"a/b\"\n"), "no name of a registry"),
            (format!("[listener.x]\n{at}registries = {{ \"x\" = \"a/b\" }}\n"), "no name of a registry"),
            (format!("[listener.x]\n{at}nam = 1\n"), "unknown key `listener.x.nam`"),
            ("[listener.https]\nenabled = false\n".to_owned(), "no listener speaks `https`"),
            ("[listener.mqtts]\nenabled = false\n".to_owned(), "no listener speaks `mqtt`"),
            ("[listener]\nx = 1\n".to_owned(), "[listener.x]"),
        ];
        for (text, wanted) in table {
            let faults = planned(&text).expect_err(wanted);
            assert!(faults.len() == 1 && faults[0].contains(wanted), "{text}: {faults:?}");
        }
    }
}
