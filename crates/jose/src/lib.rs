//! Strict compact JWS: parse, verify, sign (RFC 7515 to 7518), and the keys it needs.
//!
//! One text has one meaning here, and everything that could have two is refused: padding, stray bits,
//! members named twice, `crit`, `b64`, keys or addresses of keys inside the header, algorithms outside
//! [`Algorithm`], signatures in another encoding. The algorithm belongs to the key; the header is only
//! compared with it. What a token says is worth nothing before [`Jws::verify`] gave a [`Verified`].
//!
//! ```
//! # #[cfg(feature = "aws-lc")] {
//! use drawbridge_jose::{Algorithm, Header, Jws, ParseOptions, SigningKey, sign_compact};
//!
//! let key = SigningKey::generate(Algorithm::Es256)?;
//! let header = Header { typ: Some("JWT"), ..Header::default() };
//! let token = sign_compact(&header, br#"{"sub":"lamp"}"#, &key)?;
//!
//! let jws = Jws::parse(token.as_bytes(), &ParseOptions::default())?;
//! let verified = jws.verify(key.public_key())?;
//! assert_eq!(verified.claims()?.text("sub")?, Some("lamp"));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without the default feature `aws-lc` the crate is `no_std` + `alloc`: building, parsing, key
//! formats and claims are there, the primitives come through [`Sign`] and [`Verify`].

// Always, so that a slip shows in every build and not only in the one for devices.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod algorithm;
mod base64url;
#[cfg(feature = "aws-lc")]
mod certificate;
mod claims;
mod compact;
mod curve;
mod der;
mod ecdsa;
mod json;
mod jwk;
mod pem;
mod public_key;
mod rsa_modulus;
#[cfg(feature = "aws-lc")]
mod signing_key;
mod spki;

pub use algorithm::{Algorithm, BadSignature, Sign, SignError, Verify};
pub use base64url::{Base64Error, base64url_decode, base64url_encode};
#[cfg(feature = "aws-lc")]
pub use certificate::CertificateKey;
pub use claims::{ClaimError, Claims};
pub use compact::{Header, Jws, JwsError, Padding, ParseOptions, Segment, Verified, sign_compact};
pub use ecdsa::ecdsa_der_to_raw;
pub use json::JsonError;
pub use public_key::{KeyError, PublicKey, sha256};
#[cfg(feature = "aws-lc")]
pub use signing_key::SigningKey;
