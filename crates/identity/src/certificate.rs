//! Client certificates: whose key it is, whether a CA of the registry vouches for it, and for whom.
//!
//! TLS has proven before that the peer holds the private key of the first certificate; nothing else of what
//! it sent is believed. Revocation lists are not looked at: who takes the certificate's principal out of the
//! registry, or the CA, or blocks the principal, revokes it at once.

use std::net::IpAddr;

use drawbridge_jose::{PublicKey, base64url_encode, sha256};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Most certificates in the chain of a client.
pub const CLIENT_CHAIN_MAX: usize = 4;
/// And most bytes of all of them.
pub const CLIENT_CHAIN_BYTES_MAX: usize = 16 * 1024;

/// The certificate of a client, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafCertificate {
    /// SHA-256 of the certificate, base64url: `x5t#S256` (RFC 8705 section 3.1).
    pub digest: String,
    /// The RFC 7638 thumbprint of its key; `None` for a key that no principal could have registered.
    pub thumbprint: Option<String>,
    /// The second from which it is good.
    pub not_before_s: u64,
    /// The last second at which it is good.
    pub not_after_s: u64,
    subject: Option<Vec<Rdn>>,
    dns: Vec<String>,
    uris: Vec<String>,
    emails: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// The one field by which a certificate names its principal.
///
/// Source: RFC 8705 section 2.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectField<'a> {
    /// The subject's distinguished name, as RFC 4514 writes it.
    Dn(&'a str),
    /// A dNSName.
    Dns(&'a str),
    /// A uniformResourceIdentifier.
    Uri(&'a str),
    /// An iPAddress, as text.
    Ip(&'a str),
    /// An rfc822Name.
    Email(&'a str),
}

/// The attributes of one place of a distinguished name, sorted: type (dotted), value.
type Rdn = Vec<(String, String)>;

impl LeafCertificate {
    /// Reads a certificate; nothing of it is believed yet. `None`: it cannot be read.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let second = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = certificate.validity();
        let mut leaf = Self {
            digest: base64url_encode(&sha256(der)),
            thumbprint: PublicKey::from_spki_der(certificate.public_key().raw)
                .ok()
                .map(|key| key.thumbprint().to_owned()),
            not_before_s: second(validity.not_before),
            not_after_s: second(validity.not_after),
            subject: subject_of(&certificate),
            dns: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            addresses: Vec::new(),
        };
        if let Some(names) = certificate.subject_alternative_name().ok()? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => leaf.dns.push((*name).to_owned()),
                    GeneralName::URI(uri) => leaf.uris.push((*uri).to_owned()),
                    GeneralName::RFC822Name(name) => leaf.emails.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => leaf.addresses.extend(address_of(bytes)),
                    _ => {}
                }
            }
        }
        Some(leaf)
    }

    /// Whether its dates include this second.
    #[must_use]
    pub fn is_in_time(&self, now_s: u64) -> bool {
        (self.not_before_s..=self.not_after_s).contains(&now_s)
    }

    /// The attributes of its subject, first to last as RFC 4514 writes them: type (dotted), value. None where it
    /// holds a value that is no text.
    pub fn subject(&self) -> impl Iterator<Item = (&str, &str)> {
        let attributes = self.subject.iter().flatten().flatten();
        attributes.map(|(kind, value)| (kind.as_str(), value.as_str()))
    }

    /// The common name of its subject, if it has exactly one.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        let mut names = self.subject().filter(|(kind, _)| *kind == COMMON_NAME);
        let (_, name) = names.next()?;
        names.next().is_none().then_some(name)
    }

    /// Whether it names this principal: the field that its operator has chosen, compared whole. DNS names are
    /// compared without case, all else byte for byte; a wildcard in the certificate stands for nothing.
    #[must_use]
    pub fn names(&self, field: SubjectField<'_>) -> bool {
        match field {
            SubjectField::Dn(wanted) => {
                let wanted = parse_dn(wanted);
                wanted.is_some_and(|wanted| !wanted.is_empty() && self.subject.as_ref() == Some(&wanted))
            }
            SubjectField::Dns(wanted) => self.dns.iter().any(|name| name.eq_ignore_ascii_case(wanted)),
            SubjectField::Uri(wanted) => self.uris.iter().any(|uri| uri == wanted),
            SubjectField::Email(wanted) => self.emails.iter().any(|name| name == wanted),
            SubjectField::Ip(wanted) => {
                wanted.parse().is_ok_and(|wanted: IpAddr| self.addresses.contains(&wanted))
            }
        }
    }
}

/// Whether a chain leads from its first certificate to one of the CAs (DER each), all of it good at this
/// second, the first for authenticating a client. Answers the SHA-256 of that CA. A CA that is none
/// (`basicConstraints`) or whose own time is over vouches for nobody. `Err` says why, for the log.
///
/// Source: RFC 5280 section 6, RFC 8705 section 2.1.
///
/// # Errors
/// Text for the log.
pub fn verify_client_chain(chain: &[Vec<u8>], cas: &[Vec<u8>], now_s: u64) -> Result<[u8; 32], String> {
    let bytes: usize = chain.iter().map(Vec::len).sum();
    if chain.is_empty() || chain.len() > CLIENT_CHAIN_MAX || bytes > CLIENT_CHAIN_BYTES_MAX {
        return Err(format!("the chain has {} certificates and {bytes} bytes", chain.len()));
    }
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let cas: Vec<CertificateDer<'_>> = cas
        .iter()
        .filter(|der| is_live_ca(der, now_s))
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let known: Vec<(&CertificateDer<'_>, TrustAnchor<'_>)> =
        cas.iter().filter_map(|der| Some((der, anchor_from_trusted_cert(der).ok()?))).collect();
    if known.is_empty() {
        return Err("the registry has no CA that is good now".to_owned());
    }
    let anchors: Vec<TrustAnchor<'_>> = known.iter().map(|(_, anchor)| anchor.clone()).collect();
    let leaf = EndEntityCert::try_from(&chain[0]).map_err(|error| error.to_string())?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_s));
    let path = leaf
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &chain[1..],
            now,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|error| error.to_string())?;
    let ca = known.iter().find(|(_, anchor)| anchor == path.anchor());
    ca.map(|(der, _)| sha256(der)).ok_or_else(|| "the path ends at no CA of the registry".to_owned())
}

fn is_live_ca(der: &[u8], now_s: u64) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let now = i64::try_from(now_s).ok().and_then(|now| x509_parser::time::ASN1Time::from_timestamp(now).ok());
    certificate.is_ca() && now.is_some_and(|now| certificate.validity().is_valid_at(now))
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// `None`: it holds a value that is no text, which no setting can name.
fn subject_of(certificate: &X509Certificate<'_>) -> Option<Vec<Rdn>> {
    let mut name = Vec::new();
    for rdn in certificate.subject().iter() {
        let mut attributes = Vec::new();
        for attribute in rdn.iter() {
            let value = attribute.as_str().ok()?;
            attributes.push((attribute.attr_type().to_id_string(), value.to_owned()));
        }
        attributes.sort();
        name.push(attributes);
    }
    // RFC 4514 writes the last one first.
    name.reverse();
    Some(name)
}

const COMMON_NAME: &str = "2.5.4.3";

/// The words of RFC 4514 section 3, and two that OpenSSL writes.
const TYPES: [(&str, &str); 11] = [
    ("CN", COMMON_NAME),
    ("serialNumber", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
];

/// Reads a distinguished name in the form of RFC 4514, spaces around its signs left out of account.
fn parse_dn(text: &str) -> Option<Vec<Rdn>> {
    let mut name = Vec::new();
    let mut rdn = Rdn::new();
    let mut rest = text.trim_start();
    if rest.is_empty() {
        return Some(name);
    }
    loop {
        let (kind, after) = rest.split_once('=')?;
        let kind = kind.trim();
        let dotted = kind.split('.').count() > 1 && kind.split('.').all(|arc| arc.parse::<u64>().is_ok());
        let known = TYPES.iter().find(|(word, _)| word.eq_ignore_ascii_case(kind)).map(|(_, id)| *id);
        let kind = known.or(dotted.then_some(kind))?;
        let (value, sign, left) = dn_value(after.trim_start())?;
        rdn.push((kind.to_owned(), value));
        if sign != Some('+') {
            rdn.sort();
            name.push(std::mem::take(&mut rdn));
        }
        rest = left.trim_start();
        if sign.is_none() {
            return Some(name);
        }
    }
}

/// A value, the sign that ended it, and what follows.
fn dn_value(text: &str) -> Option<(String, Option<char>, &str)> {
    let mut bytes = Vec::new();
    // Unescaped spaces at the end do not belong to the value.
    let mut kept = 0;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ',' | ';' | '+' => {
                bytes.truncate(kept);
                let sign = if c == '+' { '+' } else { ',' };
                return Some((String::from_utf8(bytes).ok()?, Some(sign), &text[at + 1..]));
            }
            '\\' => {
                let (_, first) = chars.next()?;
                match first.to_digit(16) {
                    Some(high) => {
                        let low = chars.next()?.1.to_digit(16)?;
                        bytes.push(u8::try_from(high * 16 + low).ok()?);
                    }
                    None if " \"#+,;<=>\\".contains(first) => bytes.extend(first.to_string().bytes()),
                    None => return None,
                }
                kept = bytes.len();
            }
            '"' | '<' | '>' | '\0' => return None,
            // A value in hexadecimal DER: nothing that could be compared with text.
            '#' if bytes.is_empty() => return None,
            _ => {
                let mut buffer = [0; 4];
                bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                if c != ' ' {
                    kept = bytes.len();
                }
            }
        }
    }
    bytes.truncate(kept);
    Some((String::from_utf8(bytes).ok()?, None, ""))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
        ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
    };

    use super::*;

    const NOW_S: u64 = 1_795_301_000; // 22 Nov 2026

    /// Case, chain, CAs, and whether it is good.
    type Row<'a> = (&'a str, Vec<Vec<u8>>, &'a [Vec<u8>], bool);

    struct TestCa {
        der: Vec<u8>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = DistinguishedName::new();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        params
    }

    fn ca_params(name: &str) -> CertificateParams {
        let mut params = params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn ca_of(params: CertificateParams) -> TestCa {
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("signed").der().to_vec();
        TestCa { der, issuer: Issuer::new(params, key) }
    }

    fn below(ca: &TestCa, params: CertificateParams) -> TestCa {
        let key = KeyPair::generate().expect("a key");
        let der = params.signed_by(&key, &ca.issuer).expect("signed").der().to_vec();
        TestCa { der, issuer: Issuer::new(params, key) }
    }

    fn leaf(ca: &TestCa, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = params();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        below(ca, params).der
    }

    #[test]
    fn a_chain_is_good_up_to_a_ca_of_the_registry_in_its_time_for_a_client() {
        let root = ca_of(ca_params("root"));
        let other = ca_of(ca_params("root"));
        let between = below(&root, ca_params("between"));
        let mut expired = ca_params("expired");
        expired.not_after = date_time_ymd(2026, 2, 1);
        let expired = ca_of(expired);
        let no_ca = ca_of(params());
        let good = leaf(&root, |_| {});
        let far = leaf(&between, |_| {});
        let without_usage = leaf(&root, |params| params.extended_key_usages.clear());
        let for_servers =
            leaf(&root, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        let old = leaf(&root, |params| params.not_after = date_time_ymd(2026, 2, 1));
        let young = leaf(&root, |params| params.not_before = date_time_ymd(2026, 12, 1));
        let is_ca = leaf(&root, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        let critical = leaf(&root, |params| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        });
        let self_signed = ca_of(params()).der;
        let by_no_ca = leaf(&no_ca, |_| {});
        let mut changed = good.clone();
        *changed.last_mut().expect("bytes") ^= 1;
        let roots = std::slice::from_ref(&root.der);
        let table: Vec<Row<'_>> = vec![
            ("by the root", vec![good.clone()], roots, true),
            ("by one between", vec![far.clone(), between.der.clone()], roots, true),
            ("without extended key usage", vec![without_usage], roots, true),
            ("with the root sent along", vec![good.clone(), root.der.clone()], roots, true),
            ("the one between is missing", vec![far.clone()], roots, false),
            ("another CA of the same name", vec![good.clone()], std::slice::from_ref(&other.der), false),
            ("no CA", vec![good.clone()], &[], false),
            ("sent its own root", vec![leaf(&other, |_| {}), other.der.clone()], roots, false),
            ("for servers", vec![for_servers], roots, false),
            ("over", vec![old], roots, false),
            ("not yet", vec![young], roots, false),
            ("is a CA itself", vec![is_ca], roots, false),
            ("the root itself", vec![root.der.clone()], roots, false),
            ("a critical extension", vec![critical], roots, false),
            ("self-signed", vec![self_signed.clone()], roots, false),
            (
                "self-signed, registered as a CA",
                vec![self_signed.clone()],
                std::slice::from_ref(&self_signed),
                false,
            ),
            ("by what is no CA", vec![by_no_ca], std::slice::from_ref(&no_ca.der), false),
            (
                "a CA whose time is over",
                vec![leaf(&expired, |_| {})],
                std::slice::from_ref(&expired.der),
                false,
            ),
            ("a changed byte", vec![changed], roots, false),
            ("no bytes", vec![vec![]], roots, false),
            ("no chain", vec![], roots, false),
            ("too long a chain", vec![good.clone(); 5], roots, false),
            ("too many bytes", vec![good, vec![0; CLIENT_CHAIN_BYTES_MAX]], roots, false),
        ];
        for (case, chain, cas, is_good) in table {
            let found = verify_client_chain(&chain, cas, NOW_S);
            assert_eq!(found.is_ok(), is_good, "{case}: {found:?}");
        }
    }

    #[test]
    fn a_certificate_names_a_principal_by_exactly_the_field_that_was_chosen() {
        let ca = ca_of(ca_params("root"));
        let der = leaf(&ca, |params| {
            params.distinguished_name.push(DnType::CountryName, "DE");
            params.distinguished_name.push(DnType::OrganizationName, "Pumps, Inc.");
            params.distinguished_name.push(DnType::CommonName, "pump-1");
            params.subject_alt_names = vec![
                SanType::DnsName("pump-1.example".try_into().expect("a name")),
                SanType::DnsName("*.wild.example".try_into().expect("a name")),
                SanType::URI("urn:pump:1".try_into().expect("a URI")),
                SanType::Rfc822Name("pump@example.org".try_into().expect("a name")),
                SanType::IpAddress("192.0.2.7".parse().expect("an address")),
                SanType::IpAddress("2001:db8::7".parse().expect("an address")),
            ];
        });
        let leaf = LeafCertificate::parse(&der).expect("read");
        for (field, is_named) in [
            (SubjectField::Dn(r"CN=pump-1,O=Pumps\, Inc.,C=DE"), true),
            (SubjectField::Dn(r"cn = pump-1 , o=Pumps\2C Inc. ; 2.5.4.6=DE"), true),
            (SubjectField::Dn(r"C=DE,O=Pumps\, Inc.,CN=pump-1"), false),
            (SubjectField::Dn("CN=pump-1"), false),
            (SubjectField::Dn(r"CN=Pump-1,O=Pumps\, Inc.,C=DE"), false),
            (SubjectField::Dn(r"CN=pump-1+O=Pumps\, Inc.,C=DE"), false),
            (SubjectField::Dn("CN=pump-1,O=Pumps, Inc.,C=DE"), false),
            (SubjectField::Dn(""), false),
            (SubjectField::Dn("pump-1"), false),
            (SubjectField::Dns("PUMP-1.example"), true),
            (SubjectField::Dns("pump-2.example"), false),
            (SubjectField::Dns("a.wild.example"), false),
            (SubjectField::Dns("urn:pump:1"), false),
            (SubjectField::Dns(""), false),
            (SubjectField::Uri("urn:pump:1"), true),
            (SubjectField::Uri("URN:pump:1"), false),
            (SubjectField::Email("pump@example.org"), true),
            (SubjectField::Email("pump@EXAMPLE.org"), false),
            (SubjectField::Ip("192.0.2.7"), true),
            (SubjectField::Ip("2001:DB8:0::7"), true),
            (SubjectField::Ip("192.0.2.8"), false),
            (SubjectField::Ip("::ffff:192.0.2.7"), false),
        ] {
            assert_eq!(leaf.names(field), is_named, "{field:?}");
        }
        let bare = LeafCertificate::parse(&ca_of(self::params()).der).expect("read");
        assert!(!bare.names(SubjectField::Dn("")), "a subject that is empty names nobody");
    }

    #[test]
    fn the_ca_that_vouches_is_told_of_several() {
        let (one, other) = (ca_of(ca_params("one")), ca_of(ca_params("other")));
        let between = below(&other, ca_params("between"));
        let cas = [one.der.clone(), other.der.clone()];
        let by = |chain: Vec<Vec<u8>>| verify_client_chain(&chain, &cas, NOW_S).expect("vouched");
        assert_eq!(by(vec![leaf(&one, |_| {})]), sha256(&one.der));
        assert_eq!(by(vec![leaf(&other, |_| {})]), sha256(&other.der));
        assert_eq!(by(vec![leaf(&between, |_| {}), between.der.clone()]), sha256(&other.der));
    }

    #[test]
    fn a_common_name_counts_if_it_is_the_only_one() {
        let ca = ca_of(ca_params("root"));
        let of = |names: &[&str]| {
            let der = leaf(&ca, |params| {
                params.distinguished_name.push(DnType::OrganizationName, "pumps");
                for (at, name) in names.iter().enumerate() {
                    // rcgen keeps one value of each type, so a second one needs a type of its own making.
                    let kind =
                        if at == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
                    params.distinguished_name.push(kind, *name);
                }
            });
            LeafCertificate::parse(&der).expect("read").common_name().map(str::to_owned)
        };
        assert_eq!(of(&["pump-1"]).as_deref(), Some("pump-1"));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["pump-1", "pump-2"]), None, "whichever counts would be for its holder to say");
    }

    #[test]
    fn a_certificate_has_its_digest_its_dates_and_the_thumbprint_of_its_key() {
        let key = KeyPair::generate().expect("a key");
        let der = params().self_signed(&key).expect("signed").der().to_vec();
        let leaf = LeafCertificate::parse(&der).expect("read");
        let public = PublicKey::from_pem(&key.public_key_pem()).expect("a key");
        assert_eq!(leaf.thumbprint.as_deref(), Some(public.thumbprint()));
        assert_eq!(leaf.digest, base64url_encode(&sha256(&der)));
        assert!(leaf.is_in_time(NOW_S) && !leaf.is_in_time(leaf.not_after_s + 1));
        assert!(!leaf.is_in_time(leaf.not_before_s - 1));
        assert_eq!(LeafCertificate::parse(&[der.as_slice(), &[0]].concat()), None);
        assert_eq!(LeafCertificate::parse(&der[..der.len() - 1]), None);
        assert_eq!(LeafCertificate::parse(b""), None);
    }

    #[test]
    fn a_distinguished_name_is_read_as_rfc_4514_writes_it() {
        let one = |kind: &str, value: &str| vec![(kind.to_owned(), value.to_owned())];
        for (text, expected) in [
            ("", Some(vec![])),
            ("CN=a", Some(vec![one("2.5.4.3", "a")])),
            (r"CN=\ a\ ", Some(vec![one("2.5.4.3", " a ")])),
            ("CN=  a b  ", Some(vec![one("2.5.4.3", "a b")])),
            (r"CN=Lu\C4\8Di\C4\87", Some(vec![one("2.5.4.3", "Lučić")])),
            ("1.3.6.1=x,DC=y", Some(vec![one("1.3.6.1", "x"), one("0.9.2342.19200300.100.1.25", "y")])),
            ("CN=a=b", Some(vec![one("2.5.4.3", "a=b")])),
            ("CN=a,", None),
            ("CN=a+", None),
            ("CN", None),
            ("XX=a", None),
            ("CN=#0401", None),
            (r"CN=a\", None),
            (r"CN=a\q", None),
            ("CN=\"a\"", None),
        ] {
            assert_eq!(parse_dn(text), expected, "{text}");
        }
        let both = parse_dn("OU=b+CN=a").expect("read");
        assert_eq!(both, parse_dn("CN=a + OU=b").expect("read"));
    }
}
