//! The `jti` of DPoP proofs, each used once: in memory, exact, bounded, no longer than a proof is good.
//!
//! A proof comes with every request, so it is not worth an fsync. What the memory of an earlier process knew
//! is gone: until the last proof of its time is too old, proofs must carry a nonce of this process.
//! See `docs/decisions/0012-client-binding.md`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use drawbridge_identity::{DpopProven, NONCE_LIFE_S, Refusal};
use drawbridge_jose::{base64url_decode, sha256};
use drawbridge_names::Uid;

use crate::Random;

/// How many are remembered in all: about 25 MB.
const MARKS_MAX: usize = 250_000;
/// The first bytes of the random part of a nonce, in a nonce's own bytes: behind version and time.
const TAG_AT: usize = 5;

type Mark = [u8; 16];

/// What was proven already.
pub(crate) struct Proofs {
    /// In every DPoP nonce of this process.
    tag: [u8; 4],
    started_s: u64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    marks: HashMap<Mark, Uid>,
    by_end: BTreeSet<(u64, Mark)>,
    live: HashMap<Uid, usize>,
}

impl Proofs {
    pub(crate) fn new(random: &dyn Random, now_s: u64) -> Self {
        let mut tag = [0; 4];
        random.fill(&mut tag);
        Self { tag, started_s: now_s, seen: Mutex::default() }
    }

    /// The random part of a nonce of this process.
    pub(crate) fn nonce_random(&self, random: &dyn Random) -> [u8; 8] {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        bytes[..4].copy_from_slice(&self.tag);
        bytes
    }

    /// Whether a nonce, which is judged elsewhere, was made by this process.
    pub(crate) fn is_own(&self, nonce: &str) -> bool {
        let bytes = if nonce.len() <= 64 { base64url_decode(nonce).ok() } else { None };
        bytes.is_some_and(|bytes| bytes.get(TAG_AT..TAG_AT + 4) == Some(&self.tag[..]))
    }

    /// Whether a proof that an earlier process has seen could still be good. `skew_s`: of its registry.
    pub(crate) fn is_young(&self, skew_s: u64, now_s: u64) -> bool {
        // A clock `skew_s` ahead has made it, and it is good until `skew_s` after the time it states.
        let good_s = NONCE_LIFE_S.max(skew_s.saturating_mul(2)).saturating_add(1);
        now_s <= self.started_s.saturating_add(good_s)
    }

    /// Uses up a proof; everything else must have been checked before. `live_max`: of one principal.
    pub(crate) fn use_up(
        &self,
        uid: Uid,
        proven: &DpopProven,
        now_s: u64,
        live_max: usize,
    ) -> Result<(), Refusal> {
        let mut message = proven.thumbprint.clone().into_bytes();
        message.extend_from_slice(&proven.jti.0);
        let mut mark = Mark::default();
        mark.copy_from_slice(&sha256(&message)[..16]);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now_s);
        if seen.marks.contains_key(&mark) {
            return Err(Refusal::Dpop("its `jti` was used before; sign a proof for each request".into()));
        }
        let full = Refusal::JtiFull { for_life: false };
        if seen.marks.len() >= MARKS_MAX {
            return Err(full);
        }
        let live = seen.live.entry(uid).or_default();
        if *live >= live_max {
            return Err(full);
        }
        *live += 1;
        seen.marks.insert(mark, uid);
        seen.by_end.insert((proven.until_s, mark));
        Ok(())
    }
}

impl Seen {
    fn forget(&mut self, now_s: u64) {
        while let Some((until_s, mark)) = self.by_end.first().copied() {
            if until_s > now_s {
                return;
            }
            self.by_end.pop_first();
            let Some(uid) = self.marks.remove(&mark) else { continue };
            if let Some(live) = self.live.get_mut(&uid) {
                *live -= 1;
                if *live == 0 {
                    self.live.remove(&uid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use drawbridge_identity::JtiDigest;

    use super::*;

    struct Counting(std::sync::atomic::AtomicU8);

    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    fn random(first: u8) -> Counting {
        Counting(first.into())
    }

    fn proof(key: &str, jti: u8, until_s: u64) -> DpopProven {
        DpopProven { thumbprint: key.to_owned(), jti: JtiDigest([jti; 16]), until_s, nonce: None }
    }

    #[test]
    fn a_proof_is_used_once_until_it_is_good_no_more() {
        let proofs = Proofs::new(&random(1), 0);
        let uid = Uid(7);
        assert!(proofs.use_up(uid, &proof("a", 1, 110), 100, 9).is_ok());
        for now_s in [100, 109] {
            let refusal = proofs.use_up(uid, &proof("a", 1, 110), now_s, 9).expect_err("used");
            assert_eq!(refusal.word(), "invalid-dpop-proof");
        }
        assert!(proofs.use_up(uid, &proof("b", 1, 110), 109, 9).is_ok(), "of another key");
        assert!(proofs.use_up(uid, &proof("a", 2, 110), 109, 9).is_ok(), "another `jti`");
        assert!(proofs.use_up(uid, &proof("a", 1, 120), 110, 9).is_ok(), "forgotten at its end");
        let seen = proofs.seen.lock().expect("not poisoned");
        assert_eq!((seen.marks.len(), seen.by_end.len(), seen.live.get(&uid)), (1, 1, Some(&1)));
    }

    #[test]
    fn one_principal_fills_its_own_share_and_no_other() {
        let proofs = Proofs::new(&random(1), 0);
        for jti in 0..3 {
            proofs.use_up(Uid(1), &proof("a", jti, 110), 100, 3).expect("room");
        }
        let full = proofs.use_up(Uid(1), &proof("a", 9, 110), 100, 3);
        assert_eq!(full, Err(Refusal::JtiFull { for_life: false }));
        proofs.use_up(Uid(2), &proof("a", 9, 110), 100, 3).expect("room for another");
        proofs.use_up(Uid(1), &proof("a", 8, 120), 110, 3).expect("room again");
    }

    #[test]
    fn a_process_knows_its_own_nonces_and_how_long_those_before_it_matter() {
        let (first, second) = (Proofs::new(&random(1), 1000), Proofs::new(&random(9), 1000));
        let nonces = drawbridge_identity::Nonces::new(&[7; 32]);
        let purpose = drawbridge_identity::NoncePurpose::Dpop;
        let nonce = nonces.mint(purpose, 1000, first.nonce_random(&random(3)));
        assert!(first.is_own(&nonce) && !second.is_own(&nonce));
        assert!(!first.is_own("") && !first.is_own(&"A".repeat(99)));
        for (skew_s, now_s, is_young) in
            [(60, 1000, true), (60, 1121, true), (60, 1122, false), (10, 1061, true), (10, 1062, false)]
        {
            assert_eq!(first.is_young(skew_s, now_s), is_young, "{skew_s} s of skew at {now_s}");
        }
    }
}
