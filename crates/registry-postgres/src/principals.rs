//! Principals: registering, reading, changing, deleting.

use std::collections::{HashMap, HashSet};

use drawbridge_names::{KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, AuditEntry, Changed, Key, Known, Principal, PrincipalChange, StoreError,
};
use tokio_postgres::Row;

use crate::connection::Params;
use crate::fault::Fault;
use crate::keys::NewKeys;
use crate::pool::{Lane, Pool};
use crate::rows::{
    attributes_json, bits, kind, limit, number, principal_name, read_known, select_known, text, value,
};
use crate::transaction::Tx;
use crate::{audit, jti, keys, registries};

const BY_NAME: &str =
    select_known!("(SELECT * FROM principal WHERE registry = $1 AND name = $2) p", "k.ordinal");

const BY_UID: &str =
    select_known!("(SELECT * FROM principal WHERE registry = $1 AND uid = $2) p", "k.ordinal");

/// Holds a principal until the transaction ends: whoever changes anything that belongs to it asks this
/// first, so those changes follow each other, and what is read after it is the present.
pub(crate) const LOCK: &str = "
    SELECT blocked OR pending, revision, config_version FROM principal WHERE registry = $1 AND uid = $2
    FOR UPDATE";

/// Which names, numbers and keys are taken: one statement, so that all are of one moment. Whoever comes
/// second after another of the same name is told of the name, never of what else they have in common.
const TAKEN: &str = "
    SELECT p.name, p.kind, NULL::bigint, NULL::text FROM unnest($2::text[]) AS g (name) CROSS JOIN LATERAL
        (SELECT p.name, p.kind FROM principal p WHERE p.registry = $1 AND p.name = g.name LIMIT 1) p
    UNION ALL
    SELECT NULL, NULL, g.uid, NULL FROM unnest($3::bigint[]) AS g (uid) CROSS JOIN LATERAL
        (SELECT 1 FROM principal p WHERE p.registry = $1 AND p.uid = g.uid LIMIT 1) p
    UNION ALL
    SELECT NULL, NULL, g.uid, NULL FROM unnest($3::bigint[]) AS g (uid) CROSS JOIN LATERAL
        (SELECT 1 FROM spent_uid s WHERE s.registry = $1 AND s.uid = g.uid LIMIT 1) s
    UNION ALL
    SELECT NULL, NULL, NULL, g.kid FROM unnest($4::text[]) AS g (kid) CROSS JOIN LATERAL
        (SELECT 1 FROM principal_key k WHERE k.registry = $1 AND k.kid = g.kid LIMIT 1) k
    UNION ALL
    SELECT NULL, NULL, NULL, g.kid FROM unnest($4::text[]) AS g (kid) CROSS JOIN LATERAL
        (SELECT 1 FROM spent_key s WHERE s.registry = $1 AND s.kid = g.kid LIMIT 1) s";

pub(crate) const COUNT_REVISION: &str =
    "UPDATE principal SET revision = revision + 1 WHERE registry = $1 AND uid = $2";

pub(crate) async fn add(
    tx: &mut Tx<'_>,
    principal: &Principal,
    given: &[Key],
    audit: &AuditEntry,
) -> Result<AddPrincipal, Fault> {
    let batch = [(principal, given)];
    let answers = import(tx, &principal.registry, &batch, audit).await?;
    Ok(answers.into_iter().next().expect("one was asked for"))
}

/// Registers those that can be; each is judged with what those before it have taken.
pub(crate) async fn import(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    batch: &[(&Principal, &[Key])],
    audit: &AuditEntry,
) -> Result<Vec<AddPrincipal>, Fault> {
    let mut taken = Taken::ask(tx, registry, batch).await?;
    let mut added = NewPrincipals::default();
    let mut answers = Vec::with_capacity(batch.len());
    for (principal, given) in batch {
        answers.push(match taken.refusal(principal, given) {
            Some(refused) => refused,
            None => {
                taken.take(principal, given);
                added.push(principal, given);
                AddPrincipal::Added
            }
        });
    }
    if !added.is_empty() {
        added.finish(tx, registry, &[], audit).await?;
    }
    Ok(answers)
}

/// What of a batch is taken already.
pub(crate) struct Taken {
    names: HashMap<String, PrincipalKind>,
    uids: HashSet<Uid>,
    keys: HashSet<String>,
}

impl Taken {
    /// Asks for it, and for the registry, in one round trip.
    pub(crate) async fn ask(
        tx: &mut Tx<'_>,
        registry: &RegistryName,
        batch: &[(&Principal, &[Key])],
    ) -> Result<Self, Fault> {
        let registry_text = registry.as_str();
        let names: Vec<&str> = batch.iter().map(|(principal, _)| principal.name.as_str()).collect();
        let uids: Vec<i64> = batch.iter().map(|(principal, _)| bits(principal.uid.0)).collect();
        let kids: Vec<&str> =
            batch.iter().flat_map(|(_, given)| given.iter().map(|key| key.kid.as_str())).collect();
        let params: Params<'_> = &[&registry_text, &names, &uids, &kids];
        let [exists, found] = tx.ask([(registries::EXISTS, &[&registry_text]), (TAKEN, params)]).await?;
        registries::must_exist(&exists, registry)?;
        let mut taken = Self { names: HashMap::new(), uids: HashSet::new(), keys: HashSet::new() };
        for row in &found {
            if let Some(name) = value::<Option<String>>(row, 0)? {
                taken.names.insert(name, kind(text(row, 1)?)?);
            } else if let Some(uid) = value::<Option<i64>>(row, 2)? {
                taken.uids.insert(Uid(uid.cast_unsigned()));
            } else {
                taken.keys.insert(value(row, 3)?);
            }
        }
        Ok(taken)
    }

    /// Why a principal cannot be registered, if it cannot.
    pub(crate) fn refusal(&self, principal: &Principal, given: &[Key]) -> Option<AddPrincipal> {
        if let Some(kind) = self.names.get(principal.name.as_str()) {
            return Some(AddPrincipal::NameTaken(*kind));
        }
        if self.uids.contains(&principal.uid) {
            return Some(AddPrincipal::UidTaken);
        }
        let taken = |(at, key): (usize, &Key)| {
            let twice = given[..at].iter().any(|earlier| earlier.kid == key.kid);
            (twice || self.keys.contains(key.kid.as_str())).then(|| AddPrincipal::KeyInUse(key.kid.clone()))
        };
        given.iter().enumerate().find_map(taken)
    }

    fn take(&mut self, principal: &Principal, given: &[Key]) {
        self.names.insert(principal.name.as_str().to_owned(), principal.kind);
        self.uids.insert(principal.uid);
        self.keys.extend(given.iter().map(|key| key.kid.as_str().to_owned()));
    }
}

/// Rows to be written, column by column.
#[derive(Default)]
pub(crate) struct NewPrincipals<'a> {
    name: Vec<&'a str>,
    uid: Vec<i64>,
    kind: Vec<&'static str>,
    blocked: Vec<bool>,
    pending: Vec<bool>,
    epoch: Vec<i64>,
    not_before_s: Vec<i64>,
    legacy_assertions: Vec<bool>,
    policy: Vec<Option<&'a str>>,
    attributes: Vec<String>,
    password: Vec<Option<&'a [u8]>>,
    settings: Vec<String>,
    enrolment: Vec<Option<&'a str>>,
    registration: Vec<Option<&'a [u8]>>,
    created_s: Vec<i64>,
    revision: Vec<i64>,
    keys: NewKeys<'a>,
}

impl<'a> NewPrincipals<'a> {
    pub(crate) fn push(&mut self, principal: &'a Principal, given: &'a [Key]) {
        self.name.push(principal.name.as_str());
        self.uid.push(bits(principal.uid.0));
        self.kind.push(principal.kind.as_str());
        self.blocked.push(principal.blocked);
        self.pending.push(principal.pending);
        self.epoch.push(bits(principal.epoch.0));
        self.not_before_s.push(bits(principal.not_before_s));
        self.legacy_assertions.push(principal.legacy_assertions);
        self.policy.push(principal.policy.as_ref().map(|policy| policy.as_str()));
        self.attributes.push(attributes_json(&principal.attributes));
        self.password.push(principal.password.as_deref());
        self.settings.push(principal.settings.to_json());
        self.enrolment.push(principal.enrolment.as_deref());
        self.registration.push(principal.registration.as_ref().map(<[u8; 32]>::as_slice));
        self.created_s.push(bits(principal.created_s));
        self.revision.push(bits(principal.revision));
        for key in given {
            self.keys.push(principal.uid, key);
        }
    }

    fn is_empty(&self) -> bool {
        self.name.is_empty()
    }

    /// Writes the rows, after `first` statements, and commits. Names, then numbers, then keys, each in
    /// their order: two that meet wait for one another in one direction only.
    pub(crate) async fn finish(
        &self,
        tx: &mut Tx<'_>,
        registry: &RegistryName,
        first: &[crate::connection::Ask<'_>],
        audit: &AuditEntry,
    ) -> Result<(), Fault> {
        let insert = "
            INSERT INTO principal (registry, name, uid, kind, blocked, pending, epoch, not_before_s,
                                   legacy_assertions, policy, attributes, password, settings, enrolment,
                                   registration, created_s, revision)
            SELECT $1::text, g.* FROM unnest(
                $2::text[], $3::bigint[], $4::text[], $5::boolean[], $6::boolean[], $7::bigint[], $8::bigint[],
                $9::boolean[], $10::text[], $11::text[], $12::bytea[], $13::text[], $14::text[], $15::bytea[],
                $16::bigint[], $17::bigint[]
            ) AS g (name) ORDER BY g.name";
        // Asked after the rows are written, when nobody else can spend these any more.
        let spent_uids = "
            SELECT 1 FROM unnest($2::bigint[]) AS g (uid) CROSS JOIN LATERAL
                (SELECT 1 FROM spent_uid s WHERE s.registry = $1 AND s.uid = g.uid LIMIT 1) s";
        let registry_text = registry.as_str();
        let principal_params: Params<'_> = &[
            &registry_text,
            &self.name,
            &self.uid,
            &self.kind,
            &self.blocked,
            &self.pending,
            &self.epoch,
            &self.not_before_s,
            &self.legacy_assertions,
            &self.policy,
            &self.attributes,
            &self.password,
            &self.settings,
            &self.enrolment,
            &self.registration,
            &self.created_s,
            &self.revision,
        ];
        let key_params = self.keys.params(&registry_text);
        let uid_params: Params<'_> = &[&registry_text, &self.uid];
        let kid_params: Params<'_> = &[&registry_text, self.keys.kids()];
        let mut asks = first.to_vec();
        let spent_from = asks.len() + 2;
        asks.extend([
            (insert, principal_params),
            (keys::INSERT, key_params.as_slice()),
            (spent_uids, uid_params),
            (keys::SPENT, kid_params),
        ]);
        let none_spent = |answers: &[Vec<Row>]| {
            let spent = answers[spent_from..].iter().any(|rows| !rows.is_empty());
            if spent { Err(Fault::Again) } else { Ok(()) }
        };
        audit::finish(tx, registry, &asks, none_spent, audit).await
    }
}

pub(crate) async fn known(
    pool: &Pool,
    registry: &RegistryName,
    name: &PrincipalName,
) -> Result<Option<Known>, StoreError> {
    let rows = pool.read(Lane::Lookup, BY_NAME, &[&registry.as_str(), &name.as_str()]).await?;
    Ok(read_known(registry, &rows)?.pop())
}

pub(crate) async fn known_by_uid(
    pool: &Pool,
    registry: &RegistryName,
    uid: Uid,
) -> Result<Option<Known>, StoreError> {
    let rows = pool.read(Lane::Lookup, BY_UID, &[&registry.as_str(), &bits(uid.0)]).await?;
    Ok(read_known(registry, &rows)?.pop())
}

pub(crate) async fn owner_of_key(
    pool: &Pool,
    registry: &RegistryName,
    kid: &KeyId,
) -> Result<Option<(Uid, PrincipalName)>, StoreError> {
    let sql = "
        SELECT p.uid, p.name FROM principal_key k JOIN principal p ON p.registry = k.registry AND p.uid = k.uid
        WHERE k.registry = $1 AND k.kid = $2";
    let rows = pool.read(Lane::Lookup, sql, &[&registry.as_str(), &kid.as_str()]).await?;
    let read = |row: &Row| -> Result<_, Fault> { Ok((Uid(number(row, 0)?), principal_name(row, 1)?)) };
    Ok(rows.first().map(read).transpose()?)
}

pub(crate) async fn not_admitted(pool: &Pool, registry: &RegistryName) -> Result<Vec<Uid>, StoreError> {
    let sql = "SELECT uid FROM principal WHERE registry = $1 AND (blocked OR pending)";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str()]).await?;
    let read = |row: &Row| -> Result<_, Fault> { Ok(Uid(number(row, 0)?)) };
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

pub(crate) async fn list(
    pool: &Pool,
    registry: &RegistryName,
    kind: Option<PrincipalKind>,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<Known>, StoreError> {
    const ANY: &str = select_known!(
        "(SELECT * FROM principal WHERE registry = $1 AND name > $2 ORDER BY name LIMIT $3) p",
        "p.name, k.ordinal"
    );
    const OF_KIND: &str = select_known!(
        "(SELECT * FROM principal WHERE registry = $1 AND kind = $4 AND name > $2 ORDER BY name LIMIT $3) p",
        "p.name, k.ordinal"
    );
    // The empty text is before every name.
    let (registry_text, after) = (registry.as_str(), after.map_or("", PrincipalName::as_str));
    let rows_max = limit(rows_max);
    let rows = match kind {
        None => pool.read(Lane::List, ANY, &[&registry_text, &after, &rows_max]).await?,
        Some(kind) => {
            pool.read(Lane::List, OF_KIND, &[&registry_text, &after, &rows_max, &kind.as_str()]).await?
        }
    };
    Ok(read_known(registry, &rows)?)
}

pub(crate) async fn change(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    change: PrincipalChange,
    revision: Option<u64>,
    audit: &AuditEntry,
) -> Result<Changed, Fault> {
    let place: Params<'_> = &[&registry.as_str(), &bits(uid.0)];
    let [_, rows] = tx.ask([(LOCK, place), (BY_UID, place)]).await?;
    let Some(Known { mut principal, .. }) = read_known(registry, &rows)?.pop() else {
        return Ok(Changed::NotFound);
    };
    if revision.is_some_and(|asked| asked != principal.revision) {
        return Ok(Changed::Stale { revision: principal.revision });
    }
    change.apply_to(&mut principal);
    let update = "
        UPDATE principal SET blocked = $3, epoch = $4, not_before_s = $5, legacy_assertions = $6, policy = $7,
                             attributes = $8, password = $9, revision = $10, pending = $11, settings = $12,
                             registration = $13
        WHERE registry = $1 AND uid = $2";
    let params: Params<'_> = &[
        &registry.as_str(),
        &bits(uid.0),
        &principal.blocked,
        &bits(principal.epoch.0),
        &bits(principal.not_before_s),
        &principal.legacy_assertions,
        &principal.policy.as_ref().map(|policy| policy.as_str()),
        &attributes_json(&principal.attributes),
        &principal.password,
        &bits(principal.revision),
        &principal.pending,
        &principal.settings.to_json(),
        &principal.registration.as_ref().map(<[u8; 32]>::as_slice),
    ];
    audit::finish(tx, registry, &[(update, params)], |_| Ok(()), audit).await?;
    Ok(Changed::Done(principal))
}

pub(crate) async fn delete(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let [there] = tx.ask([(LOCK, &[&registry.as_str(), &bits(uid.0)])]).await?;
    if there.is_empty() {
        return Ok(false);
    }
    finish_delete(tx, registry, uid, audit).await?;
    Ok(true)
}

/// Deletes a principal that is held and commits. Most of what is its own goes with its row (`ON DELETE
/// CASCADE`); what must outlive it is written down elsewhere before.
pub(crate) async fn finish_delete(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    audit: &AuditEntry,
) -> Result<(), Fault> {
    let place: Params<'_> = &[&registry.as_str(), &bits(uid.0)];
    let asks = [
        (jti::LEAVE, place),
        (keys::SPEND_RETIRED, place),
        ("DELETE FROM timed_jti WHERE registry = $1 AND uid = $2", place),
        ("DELETE FROM lasting_jti WHERE registry = $1 AND uid = $2", place),
        ("DELETE FROM principal WHERE registry = $1 AND uid = $2", place),
        ("INSERT INTO spent_uid (registry, uid) VALUES ($1, $2)", place),
    ];
    audit::finish(tx, registry, &asks, |_| Ok(()), audit).await
}
