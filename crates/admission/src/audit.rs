//! The audit's own rows: summaries of logins, and checkpoints that the issuer signs.
//!
//! A change has its row, written with it. Logins and refusals are counted, and the counts of a minute are
//! one row. A checkpoint names the newest row of every writer's chain and is signed with the issuer key: who
//! can write the store but has not that key cannot rewrite what a checkpoint names, and the chains of several
//! writers hold each other. Nor does the server sign a past that is another than the one it has signed before:
//! else whoever writes the chain anew, without its checkpoints, would get the next one for it.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_identity::Refusal;
use drawbridge_jose::base64url_encode;
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName};
use drawbridge_registry::audit::continues;
use drawbridge_registry::{AuditHead, StoreError};
use serde_json::{Value, json};

use crate::registries::Realm;
use crate::{Actor, Admission, AdmissionError};

/// The `typ` of a checkpoint.
pub const CHECKPOINT_TYP: &str = "audit-checkpoint+jwt";
/// The action of a row whose detail is a checkpoint: `{"jws": "..."}`.
pub const CHECKPOINT_ACTION: &str = "audit.checkpoint";
/// The action of a row that sums up the logins of a while.
pub const SUMMARY_ACTION: &str = "login.summary";

/// A checkpoint comes after so many rows, or so long after a row.
const ROWS_MAX: u64 = 1_000;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// How often the heads of a registry are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const SUMMARY_EVERY_MS: u64 = 60_000;
/// So many principals of a while are told apart; beyond that the number is a lower bound.
const PRINCIPALS_MAX: usize = 65_536;

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Desk {
    hasher: RandomState,
    tallies: Mutex<BTreeMap<RegistryName, Tally>>,
    seen: Mutex<BTreeMap<RegistryName, Seen>>,
}

/// The logins of a registry since its last summary.
#[derive(Debug, Clone, Default)]
struct Tally {
    since_ms: u64,
    admitted: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    refused: BTreeMap<&'static str, u64>,
    principals: HashSet<u64>,
    more_principals: bool,
}

/// What the last checkpoint of a registry named.
#[derive(Debug, Clone, Default)]
struct Seen {
    heads: BTreeMap<String, AuditHead>,
    signed: Option<Instant>,
    looked: Option<Instant>,
}

impl Desk {
    fn with(&self, registry: &RegistryName, now_ms: u64, count: impl FnOnce(&mut Tally)) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = tallies.get_mut(registry) {
            return count(tally);
        }
        let tally = tallies.entry(registry.clone()).or_default();
        tally.since_ms = now_ms;
        count(tally);
    }

    /// The tallies that are due, taken out.
    fn due(&self, now_ms: u64, all: bool) -> Vec<(RegistryName, Tally)> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |tally: &Tally| all || now_ms.saturating_sub(tally.since_ms) >= SUMMARY_EVERY_MS;
        let due: Vec<RegistryName> =
            tallies.iter().filter(|(_, tally)| is_due(tally)).map(|(name, _)| name.clone()).collect();
        due.into_iter().filter_map(|name| tallies.remove_entry(&name)).collect()
    }

    /// Puts back what could not be written.
    fn put_back(&self, registry: RegistryName, tally: Tally) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let now = tallies.insert(registry.clone(), tally);
        let (Some(now), Some(tally)) = (now, tallies.get_mut(&registry)) else { return };
        for (what, kinds) in now.admitted {
            for (kind, count) in kinds {
                *tally.admitted.entry(what).or_default().entry(kind).or_default() += count;
            }
        }
        for (reason, count) in now.refused {
            *tally.refused.entry(reason).or_default() += count;
        }
        tally.more_principals |= now.more_principals;
        for principal in now.principals {
            tally.meet(principal);
        }
    }
}

impl Tally {
    fn meet(&mut self, principal: u64) {
        if self.principals.len() < PRINCIPALS_MAX {
            self.principals.insert(principal);
        } else if !self.principals.contains(&principal) {
            self.more_principals = true;
        }
    }

    fn detail(&self, until_ms: u64) -> Value {
        json!({
            "from_ms": self.since_ms,
            "until_ms": until_ms,
            "admitted": self.admitted,
            "refused": self.refused,
            "principals": self.principals.len(),
            "principals_at_least": self.more_principals,
        })
    }
}

impl Admission {
    /// Counts a login or connection for the summary.
    pub(crate) fn tally_admitted(
        &self,
        what: &'static str,
        registry: &RegistryName,
        kind: PrincipalKind,
        name: &PrincipalName,
    ) {
        let desk = &self.inner.desk;
        let principal = desk.hasher.hash_one(name);
        desk.with(registry, self.inner.clock.now_ms(), |tally| {
            *tally.admitted.entry(what).or_default().entry(kind.as_str()).or_default() += 1;
            tally.meet(principal);
        });
    }

    /// Counts a refusal for the summary: of the registry that was asked, if there is one, else of `default`.
    pub(crate) fn tally_refused(&self, registry: Option<&RegistryName>, refusal: &Refusal) {
        let default = RegistryName::default_registry();
        let registry = registry.filter(|name| self.realm(name).is_some()).unwrap_or(&default);
        self.inner.desk.with(registry, self.inner.clock.now_ms(), |tally| {
            *tally.refused.entry(refusal.reason()).or_default() += 1;
        });
    }

    /// Writes the summaries and checkpoints that are due; `all`: that are not, too. A fault is logged, and
    /// what was not written stays due.
    pub(crate) async fn maintain_audit(&self, all: bool) {
        let now_ms = self.inner.clock.now_ms();
        for (registry, tally) in self.inner.desk.due(now_ms, all) {
            let entry = self.audit(&Actor::Server, SUMMARY_ACTION, registry.as_str(), &tally.detail(now_ms));
            match self.inner.store.record(&registry, entry).await {
                Ok(()) | Err(StoreError::UnknownRegistry(_)) => {}
                Err(error) => {
                    tracing::warn!(%registry, "the summary of logins was not written: {error}");
                    self.inner.desk.put_back(registry, tally);
                }
            }
        }
        for (registry, realm) in self.realms().iter() {
            if let Err(error) = self.checkpoint_if_due(registry, realm, all).await {
                tracing::warn!(%registry, "no checkpoint of the audit was written: {error}");
            }
        }
    }

    async fn checkpoint_if_due(
        &self,
        registry: &RegistryName,
        realm: &Arc<Realm>,
        all: bool,
    ) -> Result<(), AdmissionError> {
        let now = self.inner.clock.instant();
        let passed =
            |since: Option<Instant>, span| since.is_none_or(|s| now.saturating_duration_since(s) >= span);
        let known = {
            let seen = self.inner.desk.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.get(registry).cloned()
        };
        let mut seen = match known {
            Some(seen) if !all && !passed(seen.looked, LOOK_EVERY) => return Ok(()),
            Some(seen) => seen,
            None => Seen { heads: self.last_checkpoint(registry).await?, ..Seen::default() },
        };
        seen.looked = Some(now);
        self.remember(registry, seen.clone());
        let heads = self.inner.store.audit_heads(registry).await?;
        let news = self.rows_since(registry, &heads, &seen).await?;
        if news == 0 || !(all || news >= ROWS_MAX || passed(seen.signed, CHECKPOINT_EVERY)) {
            return Ok(());
        }
        self.must_continue(registry, &seen).await?;
        let body = checkpoint(&realm.record.issuer, registry, self.inner.clock.now_ms(), &heads);
        let jws = realm.keys.current().sign(CHECKPOINT_TYP, &body);
        let jws = jws.map_err(|error| AdmissionError::Secret(error.to_string()))?;
        let entry = self.audit(&Actor::Server, CHECKPOINT_ACTION, registry.as_str(), &json!({ "jws": jws }));
        self.inner.store.record(registry, entry).await?;
        let heads = heads.into_iter().map(|head| (head.writer.clone(), head)).collect();
        self.remember(registry, Seen { heads, signed: Some(now), looked: Some(now) });
        Ok(())
    }

    fn remember(&self, registry: &RegistryName, seen: Seen) {
        self.inner.desk.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(registry.clone(), seen);
    }

    /// Whether what the last checkpoint named is still there.
    async fn must_continue(&self, registry: &RegistryName, seen: &Seen) -> Result<(), AdmissionError> {
        for head in seen.heads.values() {
            let rows = self.inner.store.audit_rows(registry, &head.writer, head.seq, 1).await?;
            continues(&rows, registry, head).map_err(|fault| {
                let found = format!("the audit of {}: {fault}; it is not signed", head.writer);
                AdmissionError::Store(StoreError::Corrupt(found))
            })?;
        }
        Ok(())
    }

    /// How many rows there are that no checkpoint names, checkpoints apart: they need none of their own.
    async fn rows_since(
        &self,
        registry: &RegistryName,
        heads: &[AuditHead],
        seen: &Seen,
    ) -> Result<u64, AdmissionError> {
        let mut news = 0;
        for head in heads {
            let before = seen.heads.get(&head.writer).map_or(0, |head| head.seq);
            let new = head.seq.saturating_sub(before);
            if new == 0 || new > 2 {
                news += new;
                continue;
            }
            let rows = self.inner.store.audit_rows(registry, &head.writer, before + 1, 2).await?;
            news += rows.iter().filter(|row| row.entry.action != CHECKPOINT_ACTION).count() as u64;
        }
        Ok(news)
    }

    /// What the newest row names, if it is a checkpoint: after a restart nothing new has to be signed then.
    async fn last_checkpoint(
        &self,
        registry: &RegistryName,
    ) -> Result<BTreeMap<String, AuditHead>, AdmissionError> {
        let newest = self.inner.store.audit_tail(registry, None, 1).await?;
        let heads = newest.first().filter(|row| row.entry.action == CHECKPOINT_ACTION).and_then(|row| {
            let detail: Value = serde_json::from_str(&row.entry.detail).ok()?;
            let payload = detail["jws"].as_str()?.split('.').nth(1)?;
            let payload: Value =
                serde_json::from_slice(&drawbridge_jose::base64url_decode(payload).ok()?).ok()?;
            let heads = payload["heads"].as_array()?.iter();
            let head = |head: &Value| {
                let writer = head["writer"].as_str()?.to_owned();
                let hash = drawbridge_jose::base64url_decode(head["hash"].as_str()?).ok()?.try_into().ok()?;
                Some((writer.clone(), AuditHead { writer, seq: head["seq"].as_u64()?, hash }))
            };
            Some(heads.filter_map(head).collect())
        });
        Ok(heads.unwrap_or_default())
    }
}

fn checkpoint(issuer: &str, registry: &RegistryName, now_ms: u64, heads: &[AuditHead]) -> Value {
    let heads: Vec<Value> = heads
        .iter()
        .map(|head| json!({ "writer": head.writer, "seq": head.seq, "hash": base64url_encode(&head.hash) }))
        .collect();
    json!({
        "iss": issuer,
        "registry": registry.as_str(),
        "iat": now_ms / 1000,
        "at_ms": now_ms,
        "heads": heads,
    })
}
