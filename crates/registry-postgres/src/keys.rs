//! Keys: adding, removing, changing, replacing, and the device's own rotation.

use std::collections::BTreeMap;

use drawbridge_names::{KeyId, RegistryName, Uid};
use drawbridge_registry::{
    AddKey, AuditEntry, ChangeKey, JtiOutcome, Key, KeyChange, KeyRotation, KeyState, RemoveKey, RotateKey,
};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::audit;
use crate::connection::{Ask, Params};
use crate::fault::Fault;
use crate::jti::{self, Wanted};
use crate::principals::{COUNT_REVISION, LOCK};
use crate::rows::{bits, clamped, read_key, value};
use crate::transaction::Tx;

/// Whether a key is somebody's, or may be nobody's any more.
const TAKEN: &str = "
    SELECT 1 FROM principal_key WHERE registry = $1 AND kid = $2
    UNION ALL SELECT 1 FROM spent_key WHERE registry = $1 AND kid = $2";

/// Which of some keys may be nobody's any more. Asked after they are written, when nobody else can spend
/// them.
pub(crate) const SPENT: &str = "
    SELECT 1 FROM unnest($2::text[]) AS g (kid) CROSS JOIN LATERAL
        (SELECT 1 FROM spent_key s WHERE s.registry = $1 AND s.kid = g.kid LIMIT 1) s";

/// Notes the keys of a principal about to be deleted that may never be registered again.
pub(crate) const SPEND_RETIRED: &str = "
    INSERT INTO spent_key (registry, kid)
    SELECT registry, kid FROM principal_key WHERE registry = $1 AND uid = $2 AND state = 'retired'";

/// All keys of a principal, in the order they were added.
const OF: &str = "
    SELECT kid, spki_der, algorithm, label, state, not_before_s, expires_s, added_s, last_used_s,
           certificate_der
    FROM principal_key WHERE registry = $1 AND uid = $2 ORDER BY ordinal";

/// Adds keys after those that their principals have.
pub(crate) const INSERT: &str = "
    INSERT INTO principal_key (registry, uid, ordinal, kid, spki_der, algorithm, label, state, not_before_s,
                               expires_s, added_s, last_used_s, certificate_der)
    SELECT $1::text, g.uid,
           g.place + COALESCE((SELECT MAX(k.ordinal) FROM principal_key k
                               WHERE k.registry = $1 AND k.uid = g.uid), 0),
           g.kid, g.spki_der, g.algorithm, g.label, g.state, g.not_before_s, g.expires_s, g.added_s,
           g.last_used_s, g.certificate_der
    FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[],
                $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bytea[])
         AS g (uid, place, kid, spki_der, algorithm, label, state, not_before_s, expires_s, added_s,
               last_used_s, certificate_der)
    ORDER BY g.kid";

/// Rows to be written, column by column.
#[derive(Default)]
pub(crate) struct NewKeys<'a> {
    uid: Vec<i64>,
    place: Vec<i64>,
    kid: Vec<&'a str>,
    spki_der: Vec<&'a [u8]>,
    algorithm: Vec<&'a str>,
    label: Vec<Option<&'a str>>,
    state: Vec<&'static str>,
    not_before_s: Vec<Option<i64>>,
    expires_s: Vec<Option<i64>>,
    added_s: Vec<i64>,
    last_used_s: Vec<Option<i64>>,
    certificate_der: Vec<Option<&'a [u8]>>,
}

impl<'a> NewKeys<'a> {
    /// Keys of one principal come in their order, one after the other.
    pub(crate) fn push(&mut self, uid: Uid, key: &'a Key) {
        let uid = bits(uid.0);
        let place = match (self.uid.last(), self.place.last()) {
            (Some(last), Some(place)) if *last == uid => place + 1,
            _ => 1,
        };
        self.uid.push(uid);
        self.place.push(place);
        self.kid.push(key.kid.as_str());
        self.spki_der.push(&key.spki_der);
        self.algorithm.push(&key.algorithm);
        self.label.push(key.label.as_deref());
        self.state.push(key.state.as_str());
        self.not_before_s.push(key.not_before_s.map(bits));
        self.expires_s.push(key.expires_s.map(bits));
        self.added_s.push(bits(key.added_s));
        self.last_used_s.push(key.last_used_s.map(clamped));
        self.certificate_der.push(key.certificate_der.as_deref());
    }

    pub(crate) fn kids(&self) -> &Vec<&'a str> {
        &self.kid
    }

    /// The values of [`INSERT`].
    pub(crate) fn params<'p>(&'p self, registry: &'p &str) -> [&'p (dyn ToSql + Sync); 13] {
        [
            registry,
            &self.uid,
            &self.place,
            &self.kid,
            &self.spki_der,
            &self.algorithm,
            &self.label,
            &self.state,
            &self.not_before_s,
            &self.expires_s,
            &self.added_s,
            &self.last_used_s,
            &self.certificate_der,
        ]
    }
}

pub(crate) async fn add(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    key: &Key,
    active_max: usize,
    audit: &AuditEntry,
) -> Result<AddKey, Fault> {
    let Held { there, keys, new_is_taken, .. } = hold(tx, registry, uid, Some(&key.kid)).await?;
    if !there {
        return Ok(AddKey::NotFound);
    }
    if let Some(there) = keys.iter().find(|there| there.kid == key.kid) {
        return Ok(AddKey::AlreadyThere(there.clone()));
    }
    if new_is_taken {
        return Ok(AddKey::InUse);
    }
    let active = active(&keys);
    if active >= active_max {
        return Ok(AddKey::TooMany { active });
    }
    finish(tx, registry, uid, Some(key), None, &[], audit).await?;
    Ok(AddKey::Added)
}

pub(crate) async fn remove(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    kid: &KeyId,
    also_last: bool,
    audit: &AuditEntry,
) -> Result<RemoveKey, Fault> {
    let Held { keys, .. } = hold(tx, registry, uid, None).await?;
    match keys.iter().find(|key| key.kid == *kid).map(|key| key.state) {
        None | Some(KeyState::Retired) => return Ok(RemoveKey::NotFound),
        Some(KeyState::Active) if active(&keys) == 1 && !also_last => return Ok(RemoveKey::LastKey),
        Some(KeyState::Active | KeyState::Grace) => {}
    }
    let retire = "
        UPDATE principal_key SET state = 'retired', lasting_jti = 0 WHERE registry = $1 AND kid = $2";
    // It can never be registered again, so nobody will be asked for the marks left by another owner.
    let forget_left = "DELETE FROM left_jti WHERE registry = $1 AND kid = $2";
    let forget = "DELETE FROM lasting_jti WHERE registry = $1 AND uid = $3 AND kid = $2";
    let place: Params<'_> = &[&registry.as_str(), &kid.as_str()];
    let marks: Params<'_> = &[&registry.as_str(), &kid.as_str(), &bits(uid.0)];
    let asks = [(retire, place), (forget_left, place), (forget, marks)];
    finish(tx, registry, uid, None, None, &asks, audit).await?;
    Ok(RemoveKey::Removed)
}

/// The order of the questions is part of the promise: see [`RotateKey`].
pub(crate) async fn rotate(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    rotation: &KeyRotation,
    now_s: u64,
    audit: &AuditEntry,
) -> Result<RotateKey, Fault> {
    let KeyRotation { old, new, old_expires_s, mark, active_max } = rotation;
    let wanted = [Wanted { registry, uid, mark, now_s }];
    let columns = jti::Columns::new(&wanted);
    let place: Params<'_> = &[&registry.as_str(), &bits(uid.0)];
    let [held, facts, keys, taken] = tx
        .ask([
            (LOCK, place),
            (jti::FACTS, &columns.facts()),
            (OF, place),
            (TAKEN, &[&registry.as_str(), &new.kid.as_str()]),
        ])
        .await?;
    let Held { there, admitted, keys, new_is_taken } = Held::read(&held, &keys, &taken)?;
    if !there || !admitted {
        return Ok(RotateKey::OldNotActive);
    }
    let facts = jti::Facts::read(facts.first())?;
    let jti = facts.judge(mark);
    if let JtiOutcome::Seen { token_digest } = jti {
        return Ok(RotateKey::Seen { token_digest });
    }
    let replacing = Replacing { old, new, keys: &keys, new_is_taken };
    let old = match replacing.judge(*active_max, old_expires_s.is_none()) {
        Ok(old) => old,
        Err(refused) => return Ok(*refused),
    };
    // A key full of lasting marks has room for the one that replaces it: that is the way out.
    if jti == JtiOutcome::Full && mark.until_s.is_some() {
        return Ok(RotateKey::JtiFull);
    }
    let mut old = old.clone();
    if let Some(until_s) = old_expires_s {
        old.enter_grace(*until_s);
    }
    let keeping = jti::Keeping::new(&columns, mark.until_s.is_some());
    finish_replacing(tx, registry, uid, &old, new, Some(keeping.ask()), audit).await?;
    Ok(RotateKey::Rotated)
}

/// An operator replaces a key: the questions are those of [`rotate`], without a `jti`.
#[expect(clippy::too_many_arguments, reason = "a change and its audit entry")]
pub(crate) async fn replace(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    old: &KeyId,
    new: &Key,
    old_expires_s: u64,
    active_max: usize,
    audit: &AuditEntry,
) -> Result<RotateKey, Fault> {
    let Held { keys, new_is_taken, .. } = hold(tx, registry, uid, Some(&new.kid)).await?;
    let old = match (Replacing { old, new, keys: &keys, new_is_taken }).judge(active_max, false) {
        Ok(old) => old,
        Err(refused) => return Ok(*refused),
    };
    let mut old = old.clone();
    old.enter_grace(old_expires_s);
    finish_replacing(tx, registry, uid, &old, new, None, audit).await?;
    Ok(RotateKey::Rotated)
}

pub(crate) async fn change(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    kid: &KeyId,
    change: KeyChange,
    audit: &AuditEntry,
) -> Result<ChangeKey, Fault> {
    let is_wanted = |key: &Key| key.kid == *kid && key.state != KeyState::Retired;
    let found = hold(tx, registry, uid, None).await?.keys.into_iter().find(is_wanted);
    let Some(mut key) = found else { return Ok(ChangeKey::NotFound) };
    change.apply_to(&mut key);
    let update = "
        UPDATE principal_key SET label = $3, not_before_s = $4, expires_s = $5
        WHERE registry = $1 AND kid = $2";
    let params: Params<'_> = &[
        &registry.as_str(),
        &kid.as_str(),
        &key.label,
        &key.not_before_s.map(bits),
        &key.expires_s.map(bits),
    ];
    finish(tx, registry, uid, None, None, &[(update, params)], audit).await?;
    Ok(ChangeKey::Done(key))
}

pub(crate) async fn touch(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    used: &[(KeyId, u64)],
) -> Result<(), Fault> {
    // Each key once, in the order in which every caller goes through them.
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    for (kid, used_s) in used {
        let kept_s = newest.entry(kid.as_str()).or_default();
        *kept_s = clamped(*used_s).max(*kept_s);
    }
    let (kids, times): (Vec<&str>, Vec<i64>) = newest.into_iter().unzip();
    let update = "
        WITH due AS MATERIALIZED (
            SELECT k.kid, g.used_s FROM unnest($2::text[], $3::bigint[]) AS g (kid, used_s) CROSS JOIN LATERAL
                (SELECT k.kid FROM principal_key k
                 WHERE k.registry = $1 AND k.kid = g.kid
                   AND (k.last_used_s IS NULL OR k.last_used_s < g.used_s)
                 LIMIT 1 FOR UPDATE) k
        )
        UPDATE principal_key k SET last_used_s = GREATEST(k.last_used_s, due.used_s) FROM due
        WHERE k.registry = $1 AND k.kid = due.kid";
    tx.commit([(update, &[&registry.as_str(), &kids, &times])]).await?;
    Ok(())
}

/// A principal that is held, and its keys.
struct Held {
    there: bool,
    /// Neither blocked nor waiting for approval.
    admitted: bool,
    keys: Vec<Key>,
    new_is_taken: bool,
}

impl Held {
    fn read(held: &[Row], keys: &[Row], taken: &[Row]) -> Result<Self, Fault> {
        let held = held.first().map(|row| value::<bool>(row, 0)).transpose()?;
        Ok(Self {
            there: held.is_some(),
            admitted: held == Some(false),
            keys: keys.iter().map(|row| read_key(row, 0)).collect::<Result<_, Fault>>()?,
            new_is_taken: !taken.is_empty(),
        })
    }
}

/// Holds a principal and reads its keys in one round trip.
async fn hold(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    new: Option<&KeyId>,
) -> Result<Held, Fault> {
    let place: Params<'_> = &[&registry.as_str(), &bits(uid.0)];
    // No key id is empty.
    let new = new.map_or("", KeyId::as_str);
    let [held, keys, taken] =
        tx.ask([(LOCK, place), (OF, place), (TAKEN, &[&registry.as_str(), &new])]).await?;
    Held::read(&held, &keys, &taken)
}

/// A key takes another's place.
struct Replacing<'a> {
    old: &'a KeyId,
    new: &'a Key,
    keys: &'a [Key],
    new_is_taken: bool,
}

impl<'a> Replacing<'a> {
    /// The old key, or why not.
    fn judge(&self, active_max: usize, old_stays: bool) -> Result<&'a Key, Box<RotateKey>> {
        if let Some(there) = self.keys.iter().find(|key| key.kid == self.new.kid) {
            return Err(Box::new(RotateKey::AlreadyThere(there.clone())));
        }
        let is_old = |key: &&Key| key.kid == *self.old && key.state == KeyState::Active;
        let Some(old) = self.keys.iter().find(is_old) else {
            return Err(Box::new(RotateKey::OldNotActive));
        };
        if self.new_is_taken {
            return Err(Box::new(RotateKey::InUse));
        }
        let active = active(self.keys);
        if active + usize::from(old_stays) > active_max {
            return Err(Box::new(RotateKey::TooMany { active }));
        }
        Ok(old)
    }
}

/// Writes the old key as it is now, the new one as active and the mark, if there is one, and commits.
async fn finish_replacing(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    old: &Key,
    new: &Key,
    mark: Option<Ask<'_>>,
    audit: &AuditEntry,
) -> Result<(), Fault> {
    let update = "UPDATE principal_key SET state = $3, expires_s = $4 WHERE registry = $1 AND kid = $2";
    let params: Params<'_> =
        &[&registry.as_str(), &old.kid.as_str(), &old.state.as_str(), &old.expires_s.map(bits)];
    let new = Key { state: KeyState::Active, ..new.clone() };
    finish(tx, registry, uid, Some(&new), mark, &[(update, params)], audit).await
}

/// Writes a new key and a mark, if there are such, counts the change and commits.
async fn finish(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    new: Option<&Key>,
    mark: Option<Ask<'_>>,
    more: &[Ask<'_>],
    audit: &AuditEntry,
) -> Result<(), Fault> {
    let registry_text = registry.as_str();
    let mut rows = NewKeys::default();
    if let Some(key) = new {
        rows.push(uid, key);
    }
    let key_params = rows.params(&registry_text);
    let kid_params: Params<'_> = &[&registry_text, rows.kids()];
    let place: Params<'_> = &[&registry_text, &bits(uid.0)];
    let mut asks: Vec<Ask<'_>> = mark.into_iter().collect();
    asks.extend_from_slice(more);
    asks.push((COUNT_REVISION, place));
    if new.is_some() {
        asks.push((INSERT, key_params.as_slice()));
    }
    asks.push((SPENT, kid_params));
    let is_as_judged = |answers: &[Vec<Row>]| {
        let spent = answers.last().is_some_and(|rows| !rows.is_empty());
        let kept = mark.is_none() || answers.first().is_some_and(|rows| !rows.is_empty());
        if spent || !kept { Err(Fault::Again) } else { Ok(()) }
    };
    audit::finish(tx, registry, &asks, is_as_judged, audit).await
}

fn active(keys: &[Key]) -> usize {
    keys.iter().filter(|key| key.state == KeyState::Active).count()
}
