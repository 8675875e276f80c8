//! What was decided, counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use drawbridge_identity::Refusal;

/// Counts since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionStats {
    /// Signatures checked, those on nobody's key included.
    pub signature_checks: u64,
    /// Passwords checked by argon2id, those on nobody's password included.
    pub password_checks: u64,
    /// Logins, connections, bearer tokens and key updates that were admitted.
    pub admitted: u64,
    /// Those that were refused, by [`Refusal::word`].
    pub refused: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
pub(crate) struct Counters {
    admitted: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    pub(crate) fn admitted(&self) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        let mut refused = self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *refused.entry(refusal.word()).or_default() += 1;
    }

    pub(crate) fn read(&self, signature_checks: u64, password_checks: u64) -> AdmissionStats {
        let refused = self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        AdmissionStats {
            signature_checks,
            password_checks,
            admitted: self.admitted.load(Ordering::Relaxed),
            refused,
        }
    }
}
