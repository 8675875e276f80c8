//! A JWT as somebody presents it: read strictly, its kind judged by `typ`, nothing believed until its
//! signature was checked with a key that was known before.
//!
//! Order (it is the same for every kind): size, segments, alphabet, header, `alg`, `typ`, body, then the
//! key of the principal it claims to be from, then the signature, then the claims.

use drawbridge_jose::{Claims, Jws, JwsError, Padding, ParseOptions, PublicKey, Verify};
use drawbridge_names::PrincipalName;

use crate::keys::{Candidate, Checker, Named, Proven};
use crate::refusal::{NotProven, Refusal, shortened};

/// Longest header, in bytes of JSON.
const HEADER_BYTES_MAX: usize = 1024;

/// Which `typ` a kind of JWT has.
pub(crate) struct Wanted {
    /// The kind, for texts.
    pub(crate) kind: &'static str,
    /// The types that name it.
    pub(crate) types: &'static [&'static str],
    /// Whether no `typ`, and `JWT`, are accepted as well.
    pub(crate) plain: bool,
}

pub(crate) struct Presented<'a> {
    bytes: &'a [u8],
    jws: Jws<'a>,
    /// Not believed: they only say whose key to ask for.
    unverified: Claims,
}

impl<'a> Presented<'a> {
    pub(crate) fn parse(jwt: &'a [u8], token_bytes_max: usize, wanted: &Wanted) -> Result<Self, Refusal> {
        Self::read(jwt, token_bytes_max, Padding::Refused, false, wanted)
    }

    pub(crate) fn parse_padded(
        jwt: &'a [u8],
        token_bytes_max: usize,
        wanted: &Wanted,
    ) -> Result<Self, Refusal> {
        Self::read(jwt, token_bytes_max, Padding::Tolerated, false, wanted)
    }

    pub(crate) fn parse_with_jwk(
        jwt: &'a [u8],
        token_bytes_max: usize,
        wanted: &Wanted,
    ) -> Result<Self, Refusal> {
        Self::read(jwt, token_bytes_max, Padding::Refused, true, wanted)
    }

    fn read(
        bytes: &'a [u8],
        token_bytes_max: usize,
        padding: Padding,
        embedded_jwk: bool,
        wanted: &Wanted,
    ) -> Result<Self, Refusal> {
        let options =
            ParseOptions { token_bytes_max, header_bytes_max: HEADER_BYTES_MAX, padding, embedded_jwk };
        let jws = Jws::parse(bytes, &options).map_err(refusal_of)?;
        judge_type(jws.typ(), wanted)?;
        let unverified = jws.unverified_claims().map_err(refusal_of)?;
        Ok(Self { bytes, jws, unverified })
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.jws.kid()
    }

    /// The key in the header.
    pub(crate) fn jwk(&self) -> Option<&PublicKey> {
        self.jws.jwk()
    }

    /// Whose it claims to be: `sub`, or `iss` where there is no `sub`.
    pub(crate) fn claimed(&self) -> Option<PrincipalName> {
        let name = if self.unverified.contains("sub") { "sub" } else { "iss" };
        self.unverified.text(name).ok().flatten().and_then(|text| PrincipalName::parse(text).ok())
    }

    /// `sub` alone; `Err` when it is there and can be nobody's.
    pub(crate) fn subject(&self) -> Result<Option<PrincipalName>, Refusal> {
        let nobody = Refusal::NotProven(NotProven::UnknownPrincipal);
        let sub = self.unverified.text("sub").map_err(|_| nobody.clone())?;
        sub.map(|text| PrincipalName::parse(text).map_err(|_| nobody)).transpose()
    }

    /// A text claim, not believed.
    pub(crate) fn unverified_text(&self, name: &str) -> Option<&str> {
        self.unverified.text(name).ok().flatten()
    }

    /// The audiences, not believed.
    pub(crate) fn audiences(&self) -> Vec<String> {
        let audiences = self.unverified.audience().ok().flatten().unwrap_or_default();
        audiences.into_iter().map(str::to_owned).collect()
    }

    /// Checks the signature with the keys of the candidate: one check, or as many as it has keys of
    /// this algorithm when `kid` names none, at most five. Without any such key one check is spent on
    /// nobody's key. All failures are one to the peer.
    pub(crate) fn prove<'p>(
        &'p self,
        candidate: Option<&'p Candidate<'p>>,
        now_s: u64,
        checker: &Checker,
    ) -> Result<Proven<'p>, Refusal> {
        let algorithm = self.jws.algorithm();
        let named = candidate
            .map(|candidate| (candidate, candidate.ring.candidates(self.jws.kid(), algorithm, now_s)));
        let why = match named {
            None => NotProven::UnknownPrincipal,
            Some((_, Named::OtherAlgorithm)) => NotProven::AlgorithmOfKey,
            Some((_, Named::Keys(keys))) if keys.is_empty() => NotProven::NoKey,
            Some((candidate, Named::Keys(keys))) => {
                for key in keys {
                    checker.count();
                    if let Ok(verified) = self.jws.verify(&key.public) {
                        let claims = verified.claims().map_err(refusal_of)?;
                        return Ok(Proven { claims, key, candidate });
                    }
                }
                return Err(Refusal::NotProven(NotProven::Signature));
            }
        };
        checker.count();
        // The answer does not matter: there is nobody whose signature this could be.
        let _ = self.jws.verify(checker.nobody(algorithm));
        Err(Refusal::NotProven(why))
    }

    /// Checks the signature with one key that something verified before has named.
    pub(crate) fn prove_by(&self, key: &dyn Verify, checker: &Checker) -> Result<Claims, Refusal> {
        checker.count();
        self.jws.verify(key).and_then(|verified| verified.claims()).map_err(refusal_of)
    }

    /// The key in the header and its `kid`, where there are any, are `key` and no other.
    pub(crate) fn names_only(&self, key: &PublicKey) -> Result<(), Refusal> {
        let jwk_fits = self.jws.jwk().is_none_or(|jwk| jwk.thumbprint() == key.thumbprint());
        let kid_fits = self.jws.kid().is_none_or(|kid| kid == key.thumbprint());
        if jwk_fits && kid_fits {
            return Ok(());
        }
        Err(Refusal::Subject("`jwk` or `kid` of the header is not the new key".into()))
    }
}

/// `typ` decides the kind. Without a `/` it is read as `application/...`, and case does not matter.
///
/// Source: RFC 7515 section 4.1.9, RFC 10070 (a missing `typ` of a client assertion is not refused).
fn judge_type(typ: Option<&str>, wanted: &Wanted) -> Result<(), Refusal> {
    let Some(typ) = typ else {
        return if wanted.plain { Ok(()) } else { Err(other_type("", wanted)) };
    };
    let is = |name: &str| {
        typ.eq_ignore_ascii_case(name)
            || typ.split_once('/').is_some_and(|(tree, rest)| {
                tree.eq_ignore_ascii_case("application") && rest.eq_ignore_ascii_case(name)
            })
    };
    if wanted.types.iter().any(|name| is(name)) || (wanted.plain && is("JWT")) {
        return Ok(());
    }
    Err(other_type(typ, wanted))
}

fn other_type(found: &str, wanted: &Wanted) -> Refusal {
    Refusal::Type { found: shortened(found), wanted: wanted.kind }
}

/// What `jose` found, in the words of this crate.
fn refusal_of(error: JwsError) -> Refusal {
    match error {
        JwsError::AlgorithmRefused => Refusal::Algorithm("of the header".into()),
        JwsError::AlgorithmMismatch { .. } => Refusal::NotProven(NotProven::AlgorithmOfKey),
        JwsError::HeaderMemberRefused { .. } | JwsError::EmbeddedKey(_) => Refusal::Header(error.to_string()),
        JwsError::SignatureLength { .. }
        | JwsError::SignatureRange
        | JwsError::SignatureEncoding
        | JwsError::Signature(_) => Refusal::NotProven(NotProven::Signature),
        other => Refusal::JwsFormat(other.to_string()),
    }
}
