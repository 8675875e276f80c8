//! Fixed keys, names and times: an input means the same in every run.

use std::sync::LazyLock;

use drawbridge_identity::{
    AssertionRules, Candidate, Checker, ConnectRules, DeviceClock, IssuerKey, KeyRing, NoncePurpose, Nonces,
    RingKey,
};
use drawbridge_jose::{Algorithm, Sign as _, SigningKey, base64url_encode};
use drawbridge_names::{KeyId, PrincipalName};

/// The second at which everything happens.
pub(crate) const NOW_S: u64 = 1_795_301_000;
pub(crate) const SKEW_S: u64 = 60;
pub(crate) const LIFE_S_MAX: u64 = 300;
pub(crate) const CONNECT_LIFE_S_MAX: u64 = 86_400;
pub(crate) const ISSUER: &str = "https://core.example";
pub(crate) const BRIDGE: &str = "https://core.example/mqtt";
pub(crate) const PROJECT: &str = "factory-7";
pub(crate) const DEVICE: &str = "sensor-17";
/// JWTs up to this second are dead.
pub(crate) const NOT_BEFORE_S: u64 = NOW_S - 1000;
pub(crate) const TOKEN_BYTES_MAX: usize = 4096;

/// The exporter of the connection that a CONNECT comes over.
pub(crate) const EXPORTER: [u8; 32] = [12; 32];

/// The device with its keys, a new key of its own, a stranger, and the issuer.
pub(crate) struct World {
    /// Ed25519 first: it signs fastest, and always the same.
    pub(crate) keys: Vec<SigningKey>,
    pub(crate) new_key: SigningKey,
    pub(crate) stranger: SigningKey,
    pub(crate) issuer: IssuerKey,
    pub(crate) issuer_signing: SigningKey,
    pub(crate) name: PrincipalName,
    pub(crate) ring: KeyRing,
    pub(crate) checker: Checker,
    pub(crate) nonces: Nonces,
}

pub(crate) static WORLD: LazyLock<World> = LazyLock::new(|| {
    let keys = vec![ed25519(1), p256(2), p384(3)];
    let ring = keys.iter().map(|key| RingKey {
        kid: KeyId::parse(key.public_key().thumbprint()).expect("a thumbprint is a key id"),
        public: key.public_key().clone(),
        label: (key.algorithm() == Algorithm::Es256).then(|| "factory".to_owned()),
        in_grace: false,
        not_before_s: None,
        expires_s: None,
    });
    World {
        ring: KeyRing::new(ring.collect()),
        keys,
        new_key: p256(4),
        stranger: ed25519(5),
        issuer: IssuerKey::new(ed25519(6)),
        issuer_signing: ed25519(6),
        name: PrincipalName::parse(DEVICE).expect("a name"),
        checker: Checker::new(),
        nonces: Nonces::new(&[8; 32]),
    }
});

impl World {
    pub(crate) fn candidate(&self, clock: DeviceClock) -> Candidate<'_> {
        Candidate {
            name: &self.name,
            ring: &self.ring,
            not_before_s: NOT_BEFORE_S,
            legacy_assertions: true,
            clock: Some(clock),
        }
    }

    pub(crate) fn rules(&self) -> AssertionRules<'_> {
        AssertionRules {
            issuer: ISSUER,
            skew_s: SKEW_S,
            life_s_max: LIFE_S_MAX,
            clock: DeviceClock::Good,
            nonces: Some(&self.nonces),
        }
    }

    /// Of a CONNECT, or of a session that is open and renewed.
    pub(crate) fn connect_rules(&self, renews: bool) -> ConnectRules<'_> {
        ConnectRules {
            bridge_audience: BRIDGE,
            project: Some(PROJECT),
            skew_s: SKEW_S,
            life_s_max: CONNECT_LIFE_S_MAX,
            clock: DeviceClock::Good,
            nonces: Some(&self.nonces),
            channel_binding: Some(&EXPORTER),
            renews,
        }
    }

    /// A nonce that was made so many seconds ago.
    pub(crate) fn nonce(&self, purpose: NoncePurpose, age_s: u64) -> String {
        self.nonces.mint(purpose, NOW_S - age_s, [9; 8])
    }
}

/// A token over exactly these bytes, rightly signed.
pub(crate) fn signed(header: &[u8], payload: &[u8], key: &SigningKey) -> String {
    let mut token = format!("{}.{}", base64url_encode(header), base64url_encode(payload));
    let signature = key.sign(token.as_bytes()).expect("the key signs");
    token.push('.');
    token.push_str(&base64url_encode(&signature));
    token
}

/// Keys out of one byte: for tests only, everybody knows them.
pub(crate) fn ed25519(byte: u8) -> SigningKey {
    let frame = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    private([&frame[..], &[byte; 32]].concat())
}

pub(crate) fn p256(byte: u8) -> SigningKey {
    let frame = [
        0x30, 0x41, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 3, 1, 7, 4, 0x27, 0x30, 0x25, 2, 1, 1, 4, 0x20,
    ];
    private([&frame[..], &[byte; 32]].concat())
}

pub(crate) fn p384(byte: u8) -> SigningKey {
    let frame = [
        0x30, 0x4e, 2, 1, 0, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0,
        0x22, 4, 0x37, 0x30, 0x35, 2, 1, 1, 4, 0x30,
    ];
    private([&frame[..], &[byte; 48]].concat())
}

fn private(pkcs8: Vec<u8>) -> SigningKey {
    SigningKey::from_pkcs8_der(&pkcs8).expect("a key made of one byte")
}
