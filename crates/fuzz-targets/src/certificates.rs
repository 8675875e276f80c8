//! Certificates of clients.

use drawbridge_identity::{LeafCertificate, SubjectField, verify_client_chain};
use drawbridge_jose::{base64url_encode, sha256};

use crate::Outcome;

pub(crate) mod client_certificate {
    use super::*;

    /// Signed `LEAF`; its private key is gone.
    const AUTHORITY: &[u8] = include_bytes!("authority.der");
    const LEAF: &[u8] = include_bytes!("leaf.der");
    /// A second of the year 2030, within the dates of both.
    const AT_S: u64 = 1_900_000_000;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let ca = AUTHORITY.to_vec();
        let vouched = verify_client_chain(&[data.to_vec()], std::slice::from_ref(&ca), AT_S);
        // What the CA has not signed, byte for byte, it does not vouch for; and no time but its own is good.
        assert_eq!(vouched.is_ok(), data == LEAF);
        if let Err(why) = &vouched {
            assert!(!why.is_empty() && why.len() < 400, "{why}");
        }
        for (chain, cas, now_s) in [
            (vec![data.to_vec()], vec![], AT_S),
            (vec![data.to_vec()], vec![data.to_vec()], AT_S),
            (vec![data.to_vec(), ca.clone()], vec![], AT_S),
            (vec![data.to_vec()], vec![ca.clone()], 0),
        ] {
            assert!(verify_client_chain(&chain, &cas, now_s).is_err());
        }
        let Some(leaf) = LeafCertificate::parse(data) else { return Outcome::refused("unread") };
        assert_eq!(leaf.digest, base64url_encode(&sha256(data)));
        assert!(leaf.is_in_time(AT_S) == (leaf.not_before_s <= AT_S && AT_S <= leaf.not_after_s));
        if let Ok(read) = drawbridge_jose::CertificateKey::from_der(data) {
            assert_eq!(leaf.thumbprint.as_deref(), Some(read.key.thumbprint()));
            assert_eq!((leaf.not_before_s, leaf.not_after_s), (read.not_before_s, read.not_after_s));
            assert_eq!(read.der, data);
        } else {
            assert_eq!(leaf.thumbprint, None);
        }
        for field in [
            SubjectField::Dn(""),
            SubjectField::Dns(""),
            SubjectField::Uri(""),
            SubjectField::Ip(""),
            SubjectField::Ip("*"),
        ] {
            assert!(!leaf.names(field), "{field:?}");
        }
        let named = [
            leaf.names(SubjectField::Dns("SENSOR-17.core.example")),
            leaf.names(SubjectField::Uri("urn:device:sensor-17")),
            leaf.names(SubjectField::Email("sensor-17@core.example")),
            leaf.names(SubjectField::Ip("192.0.2.7")),
            leaf.names(SubjectField::Dn("CN=sensor-17,O=Core")),
        ];
        assert!(data != LEAF || named == [true; 5], "{named:?}");
        if vouched.is_ok() { Outcome::accepted() } else { Outcome(format!("accepted unsigned {named:?}")) }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        vec![LEAF.to_vec(), AUTHORITY.to_vec(), include_bytes!("certificate.der").to_vec()]
    }
}
