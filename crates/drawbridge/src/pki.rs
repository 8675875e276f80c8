//! The server's own small PKI: a root, and one leaf under it. Devices pin the root, so the chain that
//! travels is one certificate long.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::data::{DataError, DataFolder, Mode};

/// The root lives so long: it is what devices carry.
const ROOT_LIFE_DAYS: i64 = 20 * 365;
/// The leaf lives so long, and is made anew at a start when fewer than [`LEAF_RENEW_DAYS`] are left.
const LEAF_LIFE_DAYS: i64 = 397;
const LEAF_RENEW_DAYS: i64 = 60;

/// Why there is no server certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// The folder.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A stored file is broken.
    #[error("[DB-6014] {file} in the data folder cannot be used: {why}; restore it from a backup")]
    Broken {
        /// The file.
        file: &'static str,
        /// Why.
        why: String,
    },
    /// A `--name` is no DNS name or address.
    #[error("[DB-6015] `{name}` is no DNS name or IP address: {why}")]
    Name {
        /// As given.
        name: String,
        /// Why.
        why: String,
    },
}

/// What the listeners need.
pub(crate) struct ServerCertificate {
    /// The leaf alone; the root is pinned by clients.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub(crate) key: PrivateKeyDer<'static>,
    /// The root, PEM.
    #[cfg(test)]
    pub(crate) root_pem: String,
    /// SHA-256 of the root certificate, as `AB:CD:...`.
    pub(crate) root_fingerprint: String,
}

/// Loads the PKI of a folder, making what is missing: the root once, the leaf when the names change or
/// it nears its end.
pub(crate) fn open(data: &DataFolder, names: &[String], now_s: u64) -> Result<ServerCertificate, PkiError> {
    let now = OffsetDateTime::from_unix_timestamp(i64::try_from(now_s).unwrap_or(i64::MAX))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (root_pem, root_key) = match (data.read("ca.pem")?, data.read("ca-key.pem")?) {
        (Some(root), Some(key)) => (root, key_pair("ca-key.pem", &key)?),
        (None, None) => make_root(data, now)?,
        (Some(_), None) => return Err(broken("ca-key.pem", "it is missing although ca.pem is there")),
        (None, Some(_)) => return Err(broken("ca.pem", "it is missing although ca-key.pem is there")),
    };
    let mut all_names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    all_names.extend(
        names.iter().filter(|name| !["localhost", "127.0.0.1", "::1"].contains(&name.as_str())).cloned(),
    );
    // First line: when to renew; then the names the leaf was made for.
    let stamp = data.read("server-names")?.unwrap_or_default();
    let mut lines = stamp.lines();
    let renew_at: i64 = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
    let fits = lines.eq(all_names.iter().map(String::as_str)) && now.unix_timestamp() < renew_at;
    let (leaf_pem, leaf_key_pem) = match (fits, data.read("server.pem")?, data.read("server-key.pem")?) {
        (true, Some(leaf), Some(key)) => (leaf, key),
        _ => make_leaf(data, &root_pem, root_key, &all_names, now)?,
    };
    let parse = |file: &'static str, pem: &str| {
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| broken(file, &e.to_string()))
    };
    let root = parse("ca.pem", &root_pem)?;
    let digest = drawbridge_jose::sha256(&root);
    let root_fingerprint = digest.map(|byte| format!("{byte:02X}")).join(":");
    Ok(ServerCertificate {
        chain: vec![parse("server.pem", &leaf_pem)?],
        key: PrivateKeyDer::from_pem_slice(leaf_key_pem.as_bytes())
            .map_err(|e| broken("server-key.pem", &e.to_string()))?,
        #[cfg(test)]
        root_pem,
        root_fingerprint,
    })
}

fn make_root(data: &DataFolder, now: OffsetDateTime) -> Result<(String, KeyPair), PkiError> {
    let key = new_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Drawbridge");
    params.distinguished_name.push(DnType::CommonName, "Drawbridge root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(ROOT_LIFE_DAYS);
    let pem = params.self_signed(&key).map_err(|e| broken("ca.pem", &e.to_string()))?.pem();
    data.replace("ca-key.pem", key.serialize_pem().as_bytes(), Mode::Private)?;
    data.replace("ca.pem", pem.as_bytes(), Mode::Public)?;
    Ok((pem, key))
}

fn make_leaf(
    data: &DataFolder,
    root_pem: &str,
    root_key: KeyPair,
    names: &[String],
    now: OffsetDateTime,
) -> Result<(String, String), PkiError> {
    let issuer =
        Issuer::from_ca_cert_pem(root_pem, root_key).map_err(|e| broken("ca.pem", &e.to_string()))?;
    let key = new_key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names.get(3).unwrap_or(&names[0]).as_str());
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(
                name.as_str()
                    .try_into()
                    .map_err(|e: rcgen::Error| PkiError::Name { name: name.clone(), why: e.to_string() })?,
            ),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(LEAF_LIFE_DAYS);
    let leaf = params.signed_by(&key, &issuer).map_err(|e| broken("server.pem", &e.to_string()))?.pem();
    let key = key.serialize_pem();
    data.replace("server-key.pem", key.as_bytes(), Mode::Private)?;
    data.replace("server.pem", leaf.as_bytes(), Mode::Public)?;
    let renew_at = (now + Duration::days(LEAF_LIFE_DAYS - LEAF_RENEW_DAYS)).unix_timestamp();
    // Written last: a crash before it only means that the leaf is made once more.
    data.replace("server-names", format!("{renew_at}\n{}\n", names.join("\n")).as_bytes(), Mode::Private)?;
    Ok((leaf, key))
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| broken("a new key", &e.to_string()))
}

fn key_pair(file: &'static str, pem: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem).map_err(|e| broken(file, &e.to_string()))
}

fn broken(file: &'static str, why: &str) -> PkiError {
    PkiError::Broken { file, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_795_000_000;

    #[test]
    fn the_root_stays_and_the_leaf_follows_the_names() {
        let place = tempfile::tempdir().expect("temporary folder");
        let data = DataFolder::open(place.path()).expect("opens");
        let first = open(&data, &[], NOW_S).expect("first start");
        let again = open(&data, &[], NOW_S + 5).expect("second start");
        assert_eq!(first.root_pem, again.root_pem);
        assert_eq!(first.chain, again.chain, "same names, same leaf");
        let named = open(&data, &["core.example".to_owned()], NOW_S + 10).expect("with a name");
        assert_eq!(first.root_pem, named.root_pem);
        assert_ne!(first.chain, named.chain, "a new name needs a new leaf");
        let later = open(&data, &["core.example".to_owned()], NOW_S + 380 * 86_400).expect("a year later");
        assert_ne!(named.chain, later.chain, "a leaf near its end is made anew");
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let place = tempfile::tempdir().expect("temporary folder");
        let data = DataFolder::open(place.path()).expect("opens");
        assert!(matches!(open(&data, &["bad name ä".to_owned()], NOW_S), Err(PkiError::Name { .. })));
    }

    #[test]
    fn a_lost_root_key_is_an_error_and_never_a_new_root() {
        let place = tempfile::tempdir().expect("temporary folder");
        let data = DataFolder::open(place.path()).expect("opens");
        open(&data, &[], NOW_S).expect("first start");
        std::fs::remove_file(data.path("ca-key.pem")).expect("remove");
        assert!(matches!(open(&data, &[], NOW_S), Err(PkiError::Broken { file: "ca-key.pem", .. })));
    }
}
