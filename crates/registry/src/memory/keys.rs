//! Keys, and the `jti` they were used with.

use std::collections::HashMap;

use drawbridge_names::{KeyId, Uid};

use crate::{
    AddKey, AuditEntry, ChangeKey, JtiMark, JtiOutcome, Key, KeyChange, KeyRotation, KeyState, RemoveKey,
    RotateKey,
};

use super::{Owned, Registry};

impl Registry {
    pub(super) fn add_key(&mut self, uid: Uid, key: Key, active_max: usize, audit: AuditEntry) -> AddKey {
        let Some(owned) = self.owned.get(&uid) else { return AddKey::NotFound };
        if let Some(there) = owned.key(&key.kid) {
            return AddKey::AlreadyThere(there.clone());
        }
        if self.is_taken(&key.kid) {
            return AddKey::InUse;
        }
        let Some(owned) = self.owned.get_mut(&uid) else { return AddKey::NotFound };
        let active = owned.active();
        if active >= active_max {
            return AddKey::TooMany { active };
        }
        self.keys.insert(key.kid.clone(), uid);
        owned.known.keys.push(key);
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        AddKey::Added
    }

    pub(super) fn remove_key(
        &mut self,
        uid: Uid,
        kid: &KeyId,
        also_last: bool,
        audit: AuditEntry,
    ) -> RemoveKey {
        let Some(owned) = self.owned.get_mut(&uid) else { return RemoveKey::NotFound };
        let active = owned.active();
        let Some(key) = owned.known.keys.iter_mut().find(|key| key.kid == *kid) else {
            return RemoveKey::NotFound;
        };
        match key.state {
            KeyState::Retired => return RemoveKey::NotFound,
            KeyState::Active if active == 1 && !also_last => return RemoveKey::LastKey,
            KeyState::Active | KeyState::Grace => key.state = KeyState::Retired,
        }
        owned.marks.retain(|_, mark| mark.until_s.is_some() || mark.kid != *kid);
        self.left.retain(|_, mark| mark.kid != *kid);
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        RemoveKey::Removed
    }

    /// The order of the questions is part of the promise: see [`RotateKey`].
    pub(super) fn rotate_key(
        &mut self,
        uid: Uid,
        rotation: KeyRotation,
        now_s: u64,
        audit: AuditEntry,
    ) -> RotateKey {
        let KeyRotation { old, mut new, old_expires_s, mark, active_max } = rotation;
        let new_is_taken = self.is_taken(&new.kid);
        let Some(owned) = self.owned.get_mut(&uid).filter(|owned| owned.is_admitted()) else {
            return RotateKey::OldNotActive;
        };
        let jti = owned.judge_jti(&self.left, &mark, now_s);
        if let JtiOutcome::Seen { token_digest } = jti {
            return RotateKey::Seen { token_digest };
        }
        if let Some(there) = owned.key(&new.kid) {
            return RotateKey::AlreadyThere(there.clone());
        }
        let active = owned.active();
        let old = owned.known.keys.iter_mut().find(|key| key.kid == old && key.state == KeyState::Active);
        let Some(old) = old else { return RotateKey::OldNotActive };
        if new_is_taken {
            return RotateKey::InUse;
        }
        if active + usize::from(old_expires_s.is_none()) > active_max {
            return RotateKey::TooMany { active };
        }
        // A key full of lasting marks has room for the one that replaces it: that is the way out.
        if jti == JtiOutcome::Full && mark.until_s.is_some() {
            return RotateKey::JtiFull;
        }
        if let Some(grace_end_s) = old_expires_s {
            old.enter_grace(grace_end_s);
        }
        new.state = KeyState::Active;
        self.keys.insert(new.kid.clone(), uid);
        owned.known.keys.push(new);
        owned.marks.insert(mark.jti_digest, mark);
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        RotateKey::Rotated
    }

    /// The order of the questions is that of [`RotateKey`].
    pub(super) fn replace_key(
        &mut self,
        uid: Uid,
        old: &KeyId,
        mut new: Key,
        old_expires_s: u64,
        active_max: usize,
        audit: AuditEntry,
    ) -> RotateKey {
        let new_is_taken = self.is_taken(&new.kid);
        let Some(owned) = self.owned.get_mut(&uid) else { return RotateKey::OldNotActive };
        if let Some(there) = owned.key(&new.kid) {
            return RotateKey::AlreadyThere(there.clone());
        }
        let active = owned.active();
        let old = owned.known.keys.iter_mut().find(|key| key.kid == *old && key.state == KeyState::Active);
        let Some(old) = old else { return RotateKey::OldNotActive };
        if new_is_taken {
            return RotateKey::InUse;
        }
        if active > active_max {
            return RotateKey::TooMany { active };
        }
        old.enter_grace(old_expires_s);
        new.state = KeyState::Active;
        self.keys.insert(new.kid.clone(), uid);
        owned.known.keys.push(new);
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        RotateKey::Rotated
    }

    pub(super) fn change_key(
        &mut self,
        uid: Uid,
        kid: &KeyId,
        change: KeyChange,
        audit: AuditEntry,
    ) -> ChangeKey {
        let Some(owned) = self.owned.get_mut(&uid) else { return ChangeKey::NotFound };
        let is_wanted = |key: &&mut Key| key.kid == *kid && key.state != KeyState::Retired;
        let Some(key) = owned.known.keys.iter_mut().find(is_wanted) else { return ChangeKey::NotFound };
        change.apply_to(key);
        let changed = ChangeKey::Done(key.clone());
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        changed
    }

    pub(super) fn touch_keys(&mut self, used: Vec<(KeyId, u64)>) {
        for (kid, used_s) in used {
            let owned = self.keys.get(&kid).and_then(|uid| self.owned.get_mut(uid));
            let key = owned.and_then(|owned| owned.known.keys.iter_mut().find(|key| key.kid == kid));
            if let Some(key) = key {
                key.last_used_s = key.last_used_s.max(Some(used_s));
            }
        }
    }

    /// Whether a key is somebody's, or may be nobody's any more.
    pub(super) fn is_taken(&self, kid: &KeyId) -> bool {
        self.keys.contains_key(kid) || self.spent_keys.contains(kid)
    }
}

impl Owned {
    pub(super) fn key(&self, kid: &KeyId) -> Option<&Key> {
        self.known.keys.iter().find(|key| key.kid == *kid)
    }

    pub(super) fn is_admitted(&self) -> bool {
        !self.known.principal.blocked && !self.known.principal.pending
    }

    pub(super) fn active(&self) -> usize {
        self.known.keys.iter().filter(|key| key.state == KeyState::Active).count()
    }

    /// Whether a `jti` could be remembered now; forgets those whose time is over.
    pub(super) fn judge_jti(
        &mut self,
        left: &HashMap<(KeyId, [u8; 16]), JtiMark>,
        mark: &JtiMark,
        now_s: u64,
    ) -> JtiOutcome {
        let is_live = |mark: &JtiMark| mark.until_s.is_none_or(|until_s| until_s > now_s);
        self.marks.retain(|_, mark| is_live(mark));
        let left = || left.get(&(mark.kid.clone(), mark.jti_digest)).filter(|mark| is_live(mark));
        if let Some(seen) = self.marks.get(&mark.jti_digest).or_else(left) {
            return JtiOutcome::Seen { token_digest: seen.token_digest };
        }
        let same_sort = |other: &&JtiMark| match mark.until_s {
            Some(_) => other.until_s.is_some(),
            None => other.until_s.is_none() && other.kid == mark.kid,
        };
        if self.marks.values().filter(same_sort).count() >= mark.live_max {
            return JtiOutcome::Full;
        }
        JtiOutcome::Fresh
    }
}
