//! Enrolments: devices that register themselves.

use drawbridge_names::Uid;

use crate::{AuditEntry, Enrol, Enrolment, Key, Known, Principal};

use super::Registry;

impl Registry {
    pub(super) fn enrolments(&self) -> Vec<Enrolment> {
        let mut all: Vec<Enrolment> = self.enrolments.values().cloned().collect();
        // They come in byte order of id, and the sort keeps that among those of one second.
        all.sort_by_key(|enrolment| std::cmp::Reverse(enrolment.created_s));
        all
    }

    pub(super) fn end_enrolment(&mut self, id: &str, audit: AuditEntry) -> bool {
        match self.enrolments.get_mut(id) {
            Some(enrolment) if !enrolment.ended => enrolment.ended = true,
            _ => return false,
        }
        self.record_audit(audit);
        true
    }

    /// The order of the questions is part of the promise.
    pub(super) fn enrol(
        &mut self,
        id: &str,
        principal: Principal,
        keys: Vec<Key>,
        now_s: u64,
        audit: AuditEntry,
    ) -> Enrol {
        let is_open = |enrolment: &&Enrolment| !enrolment.ended && enrolment.expires_s > now_s;
        let Some(enrolment) = self.enrolments.get(id).filter(is_open) else { return Enrol::Ended };
        if let Some(refused) = self.refusal(&principal, &keys) {
            return Enrol::Refused(refused);
        }
        if enrolment.claims >= enrolment.claims_max {
            return Enrol::Spent;
        }
        self.count_claim(id, |claims| claims.saturating_add(1));
        let principal =
            Principal { registry: self.record.name.clone(), enrolment: Some(id.to_owned()), ..principal };
        self.insert(principal, keys);
        self.record_audit(audit);
        Enrol::Enrolled
    }

    pub(super) fn undo_enrolment(&mut self, uid: Uid, audit: AuditEntry) -> bool {
        let Some(owned) = self.owned.get(&uid) else { return false };
        let Some(id) = owned.known.principal.enrolment.clone() else { return false };
        self.count_claim(&id, |claims| claims.saturating_sub(1));
        self.delete_principal(uid, audit)
    }

    /// Whether a principal came by this enrolment (`None`: by any).
    pub(super) fn is_enrolled(known: &Known, enrolment: Option<&str>, pending_only: bool) -> bool {
        let principal = &known.principal;
        principal.enrolment.as_deref().is_some_and(|by| enrolment.is_none_or(|asked| asked == by))
            && (principal.pending || !pending_only)
    }

    fn count_claim(&mut self, id: &str, count: impl Fn(u32) -> u32) {
        if let Some(enrolment) = self.enrolments.get_mut(id) {
            enrolment.claims = count(enrolment.claims);
        }
    }
}
