//! Passwords and generated secrets: what is kept of them, and whether one that is presented fits.
//!
//! A password is chosen by somebody and may be guessed: it is kept as argon2id. A generated secret has 256
//! random bits and cannot be: it is kept as SHA-256. What is presented tells by its prefix which of the two
//! it is, so the cost of a check follows from that and from nothing that the server knows.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use drawbridge_jose::sha256;

/// With this every generated secret begins, so that secret scanners know it.
pub const SECRET_PREFIX: &str = "dbs_";
/// Shortest and longest password, in bytes.
pub const PASSWORD_BYTES_MIN: usize = 8;
/// See [`PASSWORD_BYTES_MIN`].
pub const PASSWORD_BYTES_MAX: usize = 1024;

const FORM_PASSWORD: u8 = 1;
const FORM_SECRET: u8 = 2;
const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// Form, memory, passes, lanes; then the salt and the hash.
const PASSWORD_HEAD_BYTES: usize = 1 + 4 + 4 + 1;
/// No stored verifier makes a check dearer than this, in KiB: the memory of all checks stays bounded.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 4;
/// So many blocks of 1 KiB are reserved at least for a check that is not small, though it touches only its own: what is
/// larger than 32 MiB the usual allocators take from the system and give back at once, where a smaller piece
/// stays with the process, one for each thread that ever checked a password.
const RESERVED_BLOCKS: usize = 33 * 1024;
const SMALL_BLOCKS: usize = 1024;

/// What the check of one password costs.
///
/// Source: RFC 9106 section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl PasswordCost {
    /// 19 MiB and 2 passes: about 25 ms of one core.
    pub const DEFAULT: Self = Self { memory_kib: 19 * 1024, passes: 2 };

    /// Within what can be computed and is allowed.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            memory_kib: self.memory_kib.clamp(Params::MIN_M_COST, MEMORY_KIB_MAX),
            passes: self.passes.clamp(1, PASSES_MAX),
        }
    }
}

/// What is kept of a password or secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Verifier {
    /// argon2id of a password.
    Password(PasswordVerifier),
    /// SHA-256 of a generated secret.
    Secret([u8; 32]),
}

/// argon2id of a password, with its salt and cost.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordVerifier {
    memory_kib: u32,
    passes: u32,
    lanes: u8,
    salt: [u8; SALT_BYTES],
    hash: [u8; HASH_BYTES],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Secret(_) => "Secret",
        })
    }
}

impl std::fmt::Debug for PasswordVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordVerifier")
            .field("memory_kib", &self.memory_kib)
            .field("passes", &self.passes)
            .finish_non_exhaustive()
    }
}

/// Why a password cannot be set. No text repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordUnfit(pub &'static str);

impl Verifier {
    /// Reads what [`Self::to_bytes`] wrote; `None`: it is something else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&form, rest) = bytes.split_first()?;
        match form {
            FORM_SECRET => rest.try_into().ok().map(Self::Secret),
            FORM_PASSWORD => {
                let (memory, rest) = rest.split_first_chunk::<4>()?;
                let (passes, rest) = rest.split_first_chunk::<4>()?;
                let (&lanes, rest) = rest.split_first()?;
                let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
                let verifier = PasswordVerifier {
                    memory_kib: u32::from_be_bytes(*memory),
                    passes: u32::from_be_bytes(*passes),
                    lanes,
                    salt: *salt,
                    hash: rest.try_into().ok()?,
                };
                verifier.params().is_some().then_some(Self::Password(verifier))
            }
            _ => None,
        }
    }

    /// The bytes that stores keep; the first names the form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Secret(digest) => [&[FORM_SECRET][..], digest].concat(),
            Self::Password(verifier) => {
                let mut bytes = Vec::with_capacity(PASSWORD_HEAD_BYTES + SALT_BYTES + HASH_BYTES);
                bytes.push(FORM_PASSWORD);
                bytes.extend_from_slice(&verifier.memory_kib.to_be_bytes());
                bytes.extend_from_slice(&verifier.passes.to_be_bytes());
                bytes.push(verifier.lanes);
                bytes.extend_from_slice(&verifier.salt);
                bytes.extend_from_slice(&verifier.hash);
                bytes
            }
        }
    }

    /// Of a generated secret.
    #[must_use]
    pub fn of_secret(secret: &str) -> Self {
        Self::Secret(sha256(secret.as_bytes()))
    }

    /// Whether a presented text with [`SECRET_PREFIX`] is the secret. Costs one SHA-256, whatever is kept.
    #[must_use]
    pub fn fits_secret(kept: Option<&Self>, presented: &[u8]) -> bool {
        let (digest, is_one) = match kept {
            Some(Self::Secret(digest)) => (digest, true),
            _ => (&[0; 32], false),
        };
        same(digest, &sha256(presented)) && is_one
    }
}

impl PasswordVerifier {
    /// Of a password; `salt`: random. Takes as long as a check.
    #[must_use]
    pub fn of(password: &str, salt: [u8; SALT_BYTES], cost: PasswordCost) -> Self {
        let PasswordCost { memory_kib, passes } = cost.bounded();
        let mut made = Self { memory_kib, passes, lanes: 1, salt, hash: [0; HASH_BYTES] };
        made.hash = made.hashed(password.as_bytes()).unwrap_or_default();
        made
    }

    /// One that fits no password, to spend a check on.
    #[must_use]
    pub fn of_nobody(cost: PasswordCost) -> Self {
        let PasswordCost { memory_kib, passes } = cost.bounded();
        Self { memory_kib, passes, lanes: 1, salt: [0; SALT_BYTES], hash: [0; HASH_BYTES] }
    }

    /// Whether a presented password is the one. Slow: not for a thread that others wait for.
    #[must_use]
    pub fn fits(&self, presented: &[u8]) -> bool {
        let computed = self.hashed(presented);
        // A hash of nothing but zeros is nobody's.
        computed.is_some_and(|computed| same(&computed, &self.hash)) && self.hash != [0; HASH_BYTES]
    }

    fn params(&self) -> Option<Params> {
        let allowed = self.memory_kib <= MEMORY_KIB_MAX
            && self.passes <= PASSES_MAX
            && u32::from(self.lanes) <= LANES_MAX;
        Params::new(self.memory_kib, self.passes, self.lanes.into(), Some(HASH_BYTES))
            .ok()
            .filter(|_| allowed)
    }

    fn hashed(&self, password: &[u8]) -> Option<[u8; HASH_BYTES]> {
        let params = self.params()?;
        let count = params.block_count();
        let reserved = if count > SMALL_BLOCKS { count.max(RESERVED_BLOCKS) } else { count };
        let mut blocks: Vec<Block> = Vec::with_capacity(reserved);
        blocks.resize(count, Block::new());
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut hash = [0; HASH_BYTES];
        let hashed = argon2.hash_password_into_with_memory(password, &self.salt, &mut hash, &mut blocks);
        hashed.ok().map(|()| hash)
    }
}

/// Whether somebody may choose this password. `looks_like_a_token` is for the caller to say: it knows what a
/// token looks like where passwords are presented.
///
/// # Errors
/// [`PasswordUnfit`].
pub fn judge_password(password: &str, looks_like_a_token: bool) -> Result<(), PasswordUnfit> {
    if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) {
        return Err(PasswordUnfit("it has fewer than 8 or more than 1,024 bytes"));
    }
    if password.chars().any(char::is_control) {
        return Err(PasswordUnfit("it holds a control character"));
    }
    if looks_like_a_token || is_prefixed(password) {
        return Err(PasswordUnfit("it looks like a JWT or one of our tokens, and would be taken for one"));
    }
    Ok(())
}

/// `dba_`, `dbe_`, `dbo_`, `dbs_` and whatever comes after them.
fn is_prefixed(text: &str) -> bool {
    matches!(text.as_bytes(), [b'd', b'b', b'a'..=b'z', b'_', ..])
}

/// Compares without telling by its time where the first difference is.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1 };

    #[test]
    fn a_verifier_survives_its_bytes_and_fits_its_own_password_only() {
        let made = PasswordVerifier::of("correct horse", [7; 16], CHEAP);
        let bytes = Verifier::Password(made.clone()).to_bytes();
        assert_eq!(bytes.len(), PASSWORD_HEAD_BYTES + SALT_BYTES + HASH_BYTES);
        assert_eq!(Verifier::from_bytes(&bytes), Some(Verifier::Password(made.clone())));
        assert!(made.fits(b"correct horse"));
        for wrong in ["correct hors", "correct horse ", "Correct horse", ""] {
            assert!(!made.fits(wrong.as_bytes()), "{wrong}");
        }
        assert_ne!(made, PasswordVerifier::of("correct horse", [8; 16], CHEAP), "the salt counts");
        assert!(!PasswordVerifier::of_nobody(CHEAP).fits(b"correct horse"));
    }

    /// The value is of the reference implementation, by way of `argon2-cffi`:
    /// `hash_secret_raw(b"password", b"somesaltsomesalt", 2, 64, 1, 32, Type.ID)`.
    #[test]
    fn the_function_is_the_argon2id_that_others_compute() {
        let cost = PasswordCost { memory_kib: 64, passes: 2 };
        let made = PasswordVerifier::of("password", *b"somesaltsomesalt", cost);
        let hex: String = made.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "1a98fba8e6394425c9bdc333a9c750aaf811df070f5fb4a5788e1cf4db5793a1");
    }

    #[test]
    fn a_generated_secret_is_kept_as_its_digest() {
        let kept = Verifier::of_secret("dbs_x");
        assert_eq!(Verifier::from_bytes(&kept.to_bytes()), Some(kept.clone()));
        assert!(Verifier::fits_secret(Some(&kept), b"dbs_x"));
        assert!(!Verifier::fits_secret(Some(&kept), b"dbs_y"));
        assert!(!Verifier::fits_secret(None, b"dbs_x"));
        let password = Verifier::Password(PasswordVerifier::of("dbs_x", [0; 16], CHEAP));
        assert!(!Verifier::fits_secret(Some(&password), b"dbs_x"));
    }

    #[test]
    fn bytes_of_another_form_or_of_a_price_out_of_bounds_are_no_verifier() {
        let good = Verifier::Password(PasswordVerifier::of("correct horse", [7; 16], CHEAP)).to_bytes();
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        for (case, bytes) in [
            ("nothing", vec![]),
            ("another form", changed(0, 9)),
            ("a secret too short", vec![FORM_SECRET; 32]),
            ("4 GiB", changed(1, 0xff)),
            ("too many passes", changed(5, 1)),
            ("no passes", changed(8, 0)),
            ("no lanes", changed(9, 0)),
            ("cut", good[..good.len() - 1].to_vec()),
            ("longer", [good.as_slice(), &[0]].concat()),
        ] {
            assert_eq!(Verifier::from_bytes(&bytes), None, "{case}");
        }
    }

    #[test]
    fn a_password_has_its_length_no_control_character_and_no_look_of_a_token() {
        for (password, token, good) in [
            ("12345678", false, true),
            ("пароль пароль", false, true),
            (&"x".repeat(1024), false, true),
            ("1234567", false, false),
            (&"x".repeat(1025), false, false),
            ("1234\n5678", false, false),
            ("1234\u{0}5678", false, false),
            ("e30.x.yyyyy", true, false),
            ("dbo_abcdefgh", false, false),
            ("dbz_abcdefgh", false, false),
            ("dbX_abcdefgh", false, true),
        ] {
            assert_eq!(judge_password(password, token).is_ok(), good, "{password:?}");
        }
    }
}
