//! Rows to records and back.

use std::collections::BTreeMap;

use drawbridge_names::{Epoch, KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{Key, KeyState, Known, Principal, PrincipalSettings};
use rusqlite::{Connection, OptionalExtension, Params, Row, Rows};

use crate::fault::{Fault, damaged};

/// The i64 of the same 64 bits: every u64 can be stored.
pub(crate) fn bits(number: u64) -> i64 {
    number.cast_signed()
}

/// For a number that SQL compares or counts to: what is larger than 2^63 - 1 is as good as that.
pub(crate) fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A `LIMIT`.
pub(crate) fn limit(rows_max: usize) -> i64 {
    i64::try_from(rows_max).unwrap_or(i64::MAX)
}

pub(crate) fn number(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::cast_unsigned)
}

pub(crate) fn number_or_null(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<u64>> {
    row.get::<_, Option<i64>>(at).map(|number| number.map(i64::cast_unsigned))
}

pub(crate) fn principal_name(row: &Row<'_>, at: usize) -> Result<PrincipalName, Fault> {
    PrincipalName::parse(text(row, at)?).map_err(|_| damaged("the name of a principal"))
}

pub(crate) fn policy_name(row: &Row<'_>, at: usize) -> Result<PolicyName, Fault> {
    PolicyName::parse(text(row, at)?).map_err(|_| damaged("the name of a policy"))
}

pub(crate) fn policy_or_null(row: &Row<'_>, at: usize) -> Result<Option<PolicyName>, Fault> {
    match row.get_ref(at)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => policy_name(row, at).map(Some),
    }
}

pub(crate) fn text<'r>(row: &'r Row<'_>, at: usize) -> Result<&'r str, Fault> {
    row.get_ref(at)?.as_str().map_err(|_| damaged("a text"))
}

/// Runs a statement that changes something; answers how many rows it changed.
pub(crate) fn execute(conn: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    conn.prepare_cached(sql)?.execute(params)
}

/// The first row of an answer, if there is one.
pub(crate) fn first<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// All rows of an answer.
pub(crate) fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// Whether there is a row.
pub(crate) fn exists(conn: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<bool> {
    Ok(conn.prepare_cached(sql)?.query_row(params, |_| Ok(())).optional()?.is_some())
}

/// A `SELECT` of principals `p` with their keys `k`, one row a key, that [`read_known`] reads. It is
/// one statement, so record and keys are of one moment.
macro_rules! select_known {
    ($from:literal, $order:literal) => {
        concat!(
            "SELECT p.uid, p.name, p.kind, p.blocked, p.epoch, p.not_before_s, p.legacy_assertions, p.policy,
                    p.attributes, p.password, p.created_s, p.revision, p.pending, p.settings, p.enrolment,
                    p.registration,
                    k.kid, k.spki_der, k.algorithm, k.label, k.state, k.not_before_s, k.expires_s, k.added_s,
                    k.last_used_s, k.certificate_der
             FROM ",
            $from,
            " LEFT JOIN principal_key k ON k.registry = p.registry AND k.uid = p.uid ORDER BY ",
            $order
        )
    };
}
pub(crate) use select_known;

/// The first column of the key in [`select_known`].
const KEY_AT: usize = 16;

/// Reads the rows of [`select_known`].
pub(crate) fn read_known(registry: &RegistryName, mut rows: Rows<'_>) -> Result<Vec<Known>, Fault> {
    let mut found: Vec<Known> = Vec::new();
    while let Some(row) = rows.next()? {
        let uid = Uid(number(row, 0)?);
        if found.last().is_none_or(|last| last.principal.uid != uid) {
            found.push(Known { principal: read_principal(registry, row)?, keys: Vec::new() });
        }
        let known = found.last_mut().expect("one was pushed");
        if row.get_ref(KEY_AT)? != rusqlite::types::ValueRef::Null {
            known.keys.push(read_key(row, KEY_AT)?);
        }
    }
    // Kept for every principal that logs in: most have one key, and a vector begins with room for four.
    found.iter_mut().for_each(|known| known.keys.shrink_to_fit());
    Ok(found)
}

fn read_principal(registry: &RegistryName, row: &Row<'_>) -> Result<Principal, Fault> {
    Ok(Principal {
        registry: registry.clone(),
        uid: Uid(number(row, 0)?),
        name: principal_name(row, 1)?,
        kind: kind(text(row, 2)?)?,
        blocked: row.get(3)?,
        pending: row.get(12)?,
        epoch: Epoch(number(row, 4)?),
        not_before_s: number(row, 5)?,
        legacy_assertions: row.get(6)?,
        policy: policy_or_null(row, 7)?,
        attributes: attributes(text(row, 8)?)?,
        password: row.get(9)?,
        settings: PrincipalSettings::from_json(text(row, 13)?)?,
        enrolment: row.get(14)?,
        registration: row.get(15)?,
        created_s: number(row, 10)?,
        revision: number(row, 11)?,
    })
}

/// The columns of a key, in the order of [`read_key`].
pub(crate) const KEY_COLUMNS: &str = "kid, spki_der, algorithm, label, state, not_before_s, expires_s, \
                                      added_s, last_used_s, certificate_der";

/// Reads the ten columns of a key, of which the first is at `at`.
pub(crate) fn read_key(row: &Row<'_>, at: usize) -> Result<Key, Fault> {
    Ok(Key {
        kid: KeyId::parse(text(row, at)?).map_err(|_| damaged("a key id"))?,
        spki_der: row.get(at + 1)?,
        algorithm: row.get(at + 2)?,
        label: row.get(at + 3)?,
        state: KeyState::from_word(text(row, at + 4)?).ok_or_else(|| damaged("the state of a key"))?,
        not_before_s: number_or_null(row, at + 5)?,
        expires_s: number_or_null(row, at + 6)?,
        added_s: number(row, at + 7)?,
        last_used_s: number_or_null(row, at + 8)?,
        certificate_der: row.get(at + 9)?,
    })
}

pub(crate) fn kind(word: &str) -> Result<PrincipalKind, Fault> {
    [PrincipalKind::Device, PrincipalKind::Application]
        .into_iter()
        .find(|kind| kind.as_str() == word)
        .ok_or_else(|| damaged("the kind of a principal"))
}

fn attributes(json: &str) -> Result<BTreeMap<String, String>, Fault> {
    if json == "{}" {
        return Ok(BTreeMap::new()); // nearly always
    }
    serde_json::from_str(json).map_err(|_| damaged("the attributes of a principal"))
}

pub(crate) fn attributes_json(attributes: &BTreeMap<String, String>) -> String {
    serde_json::to_string(attributes).expect("a map from text to text is JSON")
}
