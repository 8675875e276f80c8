//! The certificates that listeners show, and their change while the server runs: read anew at SIGHUP and every
//! `serve.certificate_check_s`. Connections that stand notice nothing; files that cannot be used change nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use drawbridge_admission::{Admission, AesSeal, Clock, Seal as _, SecretPlace};
use drawbridge_bridge::{ServerIdentity, ServerName, ServerTls, TicketSecrets};
use drawbridge_jose::PublicKey;
use drawbridge_names::RegistryName;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::data::{DataError, DataFolder, Mode};
use crate::pki::{self, PkiError};

/// The label of the certificate that the server's own root has signed.
pub(crate) const OWN: &str = "own";
/// That of the key that is shown without a certificate.
const RAW: &str = "raw";
/// In the data folder.
const RAW_KEY: &str = "raw-key.pem";
const RAW_KEY_PUBLIC: &str = "raw-key.pub.pem";
const TICKET_SECRET: &str = "ticket.secret";
/// Before what the sealing key has made of it, in hex.
const SEALED: &str = "sealed:";

/// `[certificate.NAME]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CertificateSettings {
    /// PEM: the leaf first, then what leads to its root.
    pub(crate) chain_file: PathBuf,
    /// PEM: the private key of the leaf.
    pub(crate) key_file: PathBuf,
    /// DNS names that it is shown for. Default: those that stand in it.
    pub(crate) names: Vec<String>,
}

/// `[tickets]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct TicketSettings {
    /// How long a TLS 1.3 session can be resumed, in seconds; 0: never. Default a day.
    pub(crate) life_s: u32,
    /// 64 characters of hex, the same on all nodes; a second line is the secret before, which still opens. Default:
    /// `ticket.secret` in the data folder, made at the first start.
    pub(crate) secret_file: Option<PathBuf>,
}

impl Default for TicketSettings {
    fn default() -> Self {
        Self { life_s: 86_400, secret_file: None }
    }
}

/// Why something to show is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The server's own.
    #[error(transparent)]
    Own(#[from] PkiError),
    /// The data folder.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file that the settings name.
    #[error(
        "[DB-6024] certificate `{label}`: {}: {why}; wanted PEM, the chain with its leaf first and the leaf's private key",
        path.display()
    )]
    File {
        /// Name in the settings.
        label: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The secret of tickets.
    #[error(
        "[DB-6025] {}: {why}; wanted 64 characters of hex on one line or two (`openssl rand -hex 32`)",
        path.display()
    )]
    Tickets {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The secret of tickets is sealed, and does not open.
    #[error(
        "[DB-6027] {}: {why}; name the sealing key that was there when it was made (`seal.key_file`, \
         `seal.previous_key_file`), or remove the file: then each client does one whole handshake",
        path.display()
    )]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Why it does not open.
        why: String,
    },
}

/// Something to show, and the names for which it is.
#[derive(Debug, Clone)]
struct Loaded {
    names: Vec<String>,
    identity: ServerIdentity,
}

/// All that can be shown, by label.
#[derive(Debug, Clone)]
pub(crate) struct Certificates(BTreeMap<String, Loaded>);

/// Where certificates come from.
pub(crate) struct Sources {
    pub(crate) names: Vec<String>,
    pub(crate) files: BTreeMap<String, CertificateSettings>,
    pub(crate) tickets: TicketSettings,
    /// Seals the secret of tickets in the data folder, if its key is kept apart from that.
    pub(crate) seal: Option<Arc<AesSeal>>,
}

impl Sources {
    /// Reads all of them. The server's own is made anew when its end is near or its names have changed.
    pub(crate) fn load(
        &self,
        data: &DataFolder,
        now_s: u64,
    ) -> Result<(Certificates, pki::ServerCertificate), CertificateError> {
        let own = pki::open(data, &self.names, now_s)?;
        let unusable = |why: String| CertificateError::Own(PkiError::Broken { file: "server.pem", why });
        let identity = ServerIdentity::new(own.chain.clone(), own.key.clone_key())
            .map_err(|error| unusable(error.to_string()))?;
        let mut names = vec!["localhost".to_owned()];
        names.extend(self.names.iter().cloned());
        let mut all = BTreeMap::from([(OWN.to_owned(), Loaded { names, identity })]);
        let raw = Loaded { names: Vec::new(), identity: raw_key(data)? };
        all.insert(RAW.to_owned(), raw);
        for (label, files) in &self.files {
            all.insert(label.clone(), load(label, files)?);
        }
        Ok((Certificates(all), own))
    }

    /// The secrets of tickets, the one that seals first.
    pub(crate) fn ticket_secrets(
        &self,
        data: &DataFolder,
        random: &dyn drawbridge_admission::Random,
    ) -> Result<Vec<[u8; 32]>, CertificateError> {
        if let Some(path) = &self.tickets.secret_file {
            let text = std::fs::read_to_string(path);
            let text = text
                .map_err(|error| CertificateError::Tickets { path: path.clone(), why: error.to_string() })?;
            return read_secrets(path, &Zeroizing::new(text));
        }
        if let Some(text) = data.read(TICKET_SECRET)? {
            return self.own_ticket_secrets(data, Zeroizing::new(text), random);
        }
        let mut secret = [0; 32];
        random.fill(&mut secret);
        let mut line = Zeroizing::new(String::new());
        for byte in secret {
            line.push_str(&format!("{byte:02x}"));
        }
        line.push('\n');
        let line = self.sealed(&line, random).unwrap_or(line);
        data.replace(TICKET_SECRET, line.as_bytes(), Mode::Private)?;
        Ok(vec![secret])
    }

    /// Those of the data folder: sealed, or as they are. What can be sealed and is not, or by the key before, is sealed.
    fn own_ticket_secrets(
        &self,
        data: &DataFolder,
        text: Zeroizing<String>,
        random: &dyn drawbridge_admission::Random,
    ) -> Result<Vec<[u8; 32]>, CertificateError> {
        let path = data.path(TICKET_SECRET);
        let wrong = |why: &str| CertificateError::Sealed { path: path.clone(), why: why.to_owned() };
        let (plain, is_current) = match text.trim().strip_prefix(SEALED) {
            None => (text, false),
            Some(digits) => {
                let seal = self.seal.as_ref();
                let seal = seal.ok_or_else(|| wrong("it is sealed, and no sealing key is configured"))?;
                let sealed = bytes_of(digits).ok_or_else(|| wrong("it is damaged"))?;
                let plain = seal.open(place(), &sealed).map_err(|fault| wrong(&fault.to_string()))?;
                let plain = String::from_utf8(plain.to_vec()).map_err(|_| wrong("it is damaged"))?;
                (Zeroizing::new(plain), seal.is_current(&sealed))
            }
        };
        let secrets = read_secrets(&path, &plain)?;
        if !is_current && let Some(sealed) = self.sealed(&plain, random) {
            data.replace(TICKET_SECRET, sealed.as_bytes(), Mode::Private)?;
        }
        Ok(secrets)
    }

    /// As it stands in the file, if there is a key to seal it by.
    fn sealed(&self, plain: &str, random: &dyn drawbridge_admission::Random) -> Option<Zeroizing<String>> {
        let sealed = self.seal.as_ref()?.seal(place(), plain.as_bytes(), random);
        let digits: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Zeroizing::new(format!("{SEALED}{digits}\n")))
    }
}

/// Where the secret of tickets is sealed for: it opens nowhere else.
fn place() -> SecretPlace<'static> {
    static REGISTRY: LazyLock<RegistryName> = LazyLock::new(RegistryName::default_registry);
    SecretPlace { registry: &REGISTRY, name: "tls-ticket-secret" }
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn read_secrets(path: &Path, text: &str) -> Result<Vec<[u8; 32]>, CertificateError> {
    let wrong = |why: &str| CertificateError::Tickets { path: path.to_owned(), why: why.to_owned() };
    let mut secrets = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut secret = [0; 32];
        if line.len() != 64 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong("a line is not 64 characters of hex"));
        }
        for (byte, pair) in secret.iter_mut().zip(line.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong("a line is not 64 characters of hex"))?;
        }
        secrets.push(secret);
    }
    if secrets.is_empty() || secrets.len() > 2 {
        return Err(wrong("it has no secret, or more than two"));
    }
    Ok(secrets)
}

fn load(label: &str, files: &CertificateSettings) -> Result<Loaded, CertificateError> {
    let wrong = |path: &Path, why: String| CertificateError::File {
        label: label.to_owned(),
        path: path.to_owned(),
        why,
    };
    let read = |path: &Path| std::fs::read(path).map_err(|error| wrong(path, error.to_string()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&files.chain_file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&files.chain_file, error.to_string()))?;
    let Some(leaf) = chain.first() else {
        return Err(wrong(&files.chain_file, "there is no certificate in it".to_owned()));
    };
    let mut names = files.names.clone();
    if names.is_empty() {
        let parsed = webpki::EndEntityCert::try_from(leaf);
        let parsed = parsed.map_err(|error| wrong(&files.chain_file, error.to_string()))?;
        names = parsed.valid_dns_names().map(str::to_owned).collect();
    }
    let pem = Zeroizing::new(read(&files.key_file)?);
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| wrong(&files.key_file, error.to_string()))?;
    let identity =
        ServerIdentity::new(chain, key).map_err(|error| wrong(&files.key_file, error.to_string()))?;
    Ok(Loaded { names, identity })
}

/// The key of listeners with raw public keys: made once, because clients pin it.
fn raw_key(data: &DataFolder) -> Result<ServerIdentity, CertificateError> {
    let broken = |why: String| CertificateError::Own(PkiError::Broken { file: RAW_KEY, why });
    let pem = match data.read(RAW_KEY)? {
        Some(pem) => pem,
        None => {
            let key =
                KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| broken(error.to_string()))?;
            let pem = key.serialize_pem();
            data.replace(RAW_KEY, pem.as_bytes(), Mode::Private)?;
            pem
        }
    };
    let pem = Zeroizing::new(pem);
    let pair = KeyPair::from_pem(&pem).map_err(|error| broken(error.to_string()))?;
    let public = pair.public_key_pem();
    if data.read(RAW_KEY_PUBLIC)?.as_ref() != Some(&public) {
        data.replace(RAW_KEY_PUBLIC, public.as_bytes(), Mode::Public)?;
    }
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| broken(error.to_string()))?;
    ServerIdentity::raw(key).map_err(|error| broken(error.to_string()))
}

impl Certificates {
    /// What a listener shows. `labels`: the first is for clients that name nobody; `registries`: where names lead.
    pub(crate) fn shown(
        &self,
        labels: &[String],
        registries: &BTreeMap<String, RegistryName>,
        raw_keys: bool,
    ) -> Vec<ServerName> {
        let labels: Vec<&str> = match raw_keys {
            true => vec![RAW],
            false => labels.iter().map(String::as_str).collect(),
        };
        let mut shown = Vec::new();
        for (label, loaded) in labels.iter().filter_map(|label| Some((*label, self.0.get(*label)?))) {
            let (identity, names) = (loaded.identity.clone(), loaded.names.clone());
            shown.push(ServerName { label: label.to_owned(), names, registry: None, identity });
        }
        // Each in front of the certificate that has its name, so that it wins; never first of all.
        for (name, registry) in registries {
            let Some(has) = shown
                .iter()
                .position(|shown| covers(&shown.names, name))
                .or((!shown.is_empty()).then_some(0))
            else {
                continue;
            };
            let (label, identity) = (shown[has].label.clone(), shown[has].identity.clone());
            for other in &mut shown {
                other.names.retain(|other| !other.eq_ignore_ascii_case(name));
            }
            shown.push(ServerName {
                label,
                names: vec![name.clone()],
                registry: Some(registry.clone()),
                identity,
            });
        }
        shown
    }

    /// The key that the broker proves in TLS wherever clients of MQTT come in: `rs_cnf` of tokens by RFC 9431. `None`
    /// when they may meet one key or another; those that pin a raw key do not ask for it.
    ///
    /// Source: RFC 9201 section 3.2.
    pub(crate) fn broker_key(&self, listeners: &[Kept]) -> Option<PublicKey> {
        let asked = listeners.iter().filter(|kept| kept.mqtt && !kept.raw_keys);
        let shown = asked.flat_map(|kept| self.shown(&kept.labels, &kept.registries, false));
        let mut keys = shown.map(|name| PublicKey::from_certificate_der(name.identity.shown()).ok());
        let first = keys.next()??;
        keys.all(|key| key.as_ref() == Some(&first)).then_some(first)
    }

    /// Whether the same is shown as there.
    fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((label, a), (other, b))| {
                label == other && a.names == b.names && a.identity.chain() == b.identity.chain()
            })
    }

    /// SHA-256 over the SubjectPublicKeyInfo that raw keys are pinned by, in hex.
    pub(crate) fn raw_key_fingerprint(&self) -> Option<String> {
        let digest = drawbridge_jose::sha256(self.0.get(RAW)?.identity.shown());
        Some(digest.map(|byte| format!("{byte:02x}")).concat())
    }
}

fn covers(names: &[String], name: &str) -> bool {
    let wildcard = name.find('.').and_then(|dot| name.get(dot..)).map(|suffix| format!("*{suffix}"));
    names.iter().any(|found| {
        found.eq_ignore_ascii_case(name)
            || wildcard.as_deref().is_some_and(|wild| found.eq_ignore_ascii_case(wild))
    })
}

/// A listener whose certificates are looked after.
pub(crate) struct Kept {
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) labels: Vec<String>,
    pub(crate) registries: BTreeMap<String, RegistryName>,
    pub(crate) raw_keys: bool,
    /// MQTT is spoken, at once or over WebSocket.
    pub(crate) mqtt: bool,
}

/// Reads certificates and ticket secrets anew, as long as the server runs.
pub(crate) struct Keeper<'a> {
    pub(crate) data: &'a DataFolder,
    pub(crate) sources: &'a Sources,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) random: &'a dyn drawbridge_admission::Random,
    pub(crate) admission: Admission,
    pub(crate) listeners: Vec<Kept>,
    pub(crate) tickets: Option<Arc<TicketSecrets>>,
    pub(crate) certificates: Certificates,
    pub(crate) secrets: Vec<[u8; 32]>,
    /// What was said last of files that cannot be used: said once.
    pub(crate) fault: Option<String>,
}

impl Keeper<'_> {
    /// Takes what has changed. `asked`: by SIGHUP, so it is said also that nothing has.
    pub(crate) fn look(&mut self, asked: bool) {
        match self.take() {
            Ok(changed) => {
                if changed {
                    tracing::info!("certificates and ticket secrets were read anew; connections stand");
                } else if asked {
                    tracing::info!("certificates and ticket secrets have not changed");
                }
                self.fault = None;
            }
            Err(error) => {
                let error = error.to_string();
                if asked || self.fault.as_ref() != Some(&error) {
                    tracing::error!(
                        code = "DB-6026",
                        word = "certificates-kept",
                        "{error}; what was shown before stays"
                    );
                }
                self.fault = Some(error);
            }
        }
    }

    fn take(&mut self) -> Result<bool, CertificateError> {
        let (certificates, _) = self.sources.load(self.data, self.clock.now_ms() / 1000)?;
        let secrets = match &self.tickets {
            Some(_) => self.sources.ticket_secrets(self.data, self.random)?,
            None => Vec::new(),
        };
        let mut changed = false;
        if let Some(tickets) = self.tickets.as_ref().filter(|_| secrets != self.secrets) {
            tickets.replace(&secrets);
            self.secrets = secrets;
            changed = true;
        }
        if !certificates.is_same(&self.certificates) {
            for kept in &self.listeners {
                let shown = certificates.shown(&kept.labels, &kept.registries, kept.raw_keys);
                let unusable =
                    |why: String| CertificateError::Own(PkiError::Broken { file: "server.pem", why });
                kept.tls.replace(&shown).map_err(|error| unusable(error.to_string()))?;
            }
            // Tokens of RFC 9431 tell it.
            self.admission.set_broker_key(certificates.broker_key(&self.listeners));
            self.certificates = certificates;
            changed = true;
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::SystemRandom;

    fn secrets(data: &DataFolder, seal: Option<AesSeal>) -> Result<Vec<[u8; 32]>, String> {
        let (names, files, tickets) = (Vec::new(), BTreeMap::new(), TicketSettings::default());
        let sources = Sources { names, files, tickets, seal: seal.map(Arc::new) };
        sources.ticket_secrets(data, &SystemRandom).map_err(|error| error.to_string())
    }

    #[test]
    fn the_secret_of_tickets_is_sealed_where_its_key_is_kept_apart_and_opens_by_that_alone() {
        let place = tempfile::tempdir().expect("a folder");
        let data = DataFolder::open(place.path()).expect("opens");
        let file = || std::fs::read_to_string(data.path(TICKET_SECRET)).expect("there");
        let first = secrets(&data, None).expect("made");
        let digits: String = first[0].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(file().trim(), digits, "nothing to seal it by");
        // What was there before a key was named is sealed by it, and stays the same.
        assert_eq!(secrets(&data, Some(AesSeal::new([1; 32]))), Ok(first.clone()));
        let sealed = file();
        assert!(sealed.starts_with(SEALED) && !sealed.contains(&digits), "{sealed}");
        assert_eq!(secrets(&data, Some(AesSeal::new([1; 32]))), Ok(first.clone()));
        assert_eq!(file(), sealed, "once");
        for other in [None, Some(AesSeal::new([2; 32]))] {
            let fault = secrets(&data, other).expect_err("another key, or none");
            assert!(fault.contains("DB-6027") && fault.contains(TICKET_SECRET), "{fault}");
            assert_eq!(file(), sealed, "nothing is replaced");
        }
        // The next key seals it anew.
        let both = AesSeal::with_previous([2; 32], Some([1; 32]));
        assert_eq!(secrets(&data, Some(both)), Ok(first.clone()));
        assert_eq!(secrets(&data, Some(AesSeal::new([2; 32]))), Ok(first));
        std::fs::write(data.path(TICKET_SECRET), format!("{SEALED}00\n")).expect("written");
        assert!(secrets(&data, Some(AesSeal::new([2; 32]))).expect_err("damaged").contains("DB-6027"));
        // One that is made is sealed at once.
        std::fs::remove_file(data.path(TICKET_SECRET)).expect("removed");
        secrets(&data, Some(AesSeal::new([2; 32]))).expect("made");
        assert!(file().starts_with(SEALED));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(data.path(TICKET_SECRET)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
