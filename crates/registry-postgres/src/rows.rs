//! Rows to records and back.

use std::collections::BTreeMap;

use drawbridge_names::{Epoch, KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{Key, KeyState, Known, Principal, PrincipalSettings};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

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

/// A value of a row; a column of another type than this version made is damage.
pub(crate) fn value<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, Fault> {
    row.try_get(at).map_err(|_| {
        let name = row.columns().get(at).map_or("a missing column", |column| column.name());
        damaged(&format!("`{name}`"))
    })
}

pub(crate) fn text(row: &Row, at: usize) -> Result<&str, Fault> {
    value(row, at)
}

pub(crate) fn number(row: &Row, at: usize) -> Result<u64, Fault> {
    value::<i64>(row, at).map(i64::cast_unsigned)
}

pub(crate) fn number_or_null(row: &Row, at: usize) -> Result<Option<u64>, Fault> {
    value::<Option<i64>>(row, at).map(|number| number.map(i64::cast_unsigned))
}

/// Bytes of a fixed length, such as a digest.
pub(crate) fn bytes<const N: usize>(row: &Row, at: usize) -> Result<[u8; N], Fault> {
    value::<&[u8]>(row, at)?.try_into().map_err(|_| damaged("a digest"))
}

pub(crate) fn principal_name(row: &Row, at: usize) -> Result<PrincipalName, Fault> {
    PrincipalName::parse(text(row, at)?).map_err(|_| damaged("the name of a principal"))
}

pub(crate) fn policy_name(row: &Row, at: usize) -> Result<PolicyName, Fault> {
    PolicyName::parse(text(row, at)?).map_err(|_| damaged("the name of a policy"))
}

pub(crate) fn policy_or_null(row: &Row, at: usize) -> Result<Option<PolicyName>, Fault> {
    match value::<Option<&str>>(row, at)? {
        None => Ok(None),
        Some(_) => policy_name(row, at).map(Some),
    }
}

/// Bytes of a fixed length, or none.
pub(crate) fn bytes_or_null<const N: usize>(row: &Row, at: usize) -> Result<Option<[u8; N]>, Fault> {
    match value::<Option<&[u8]>>(row, at)? {
        None => Ok(None),
        Some(_) => bytes(row, at).map(Some),
    }
}

/// A number that is at most a u32 in the code.
pub(crate) fn small(row: &Row, at: usize) -> Result<u32, Fault> {
    u32::try_from(value::<i64>(row, at)?).map_err(|_| damaged("a small number"))
}

fn key_state(row: &Row, at: usize) -> Result<KeyState, Fault> {
    KeyState::from_word(text(row, at)?).ok_or_else(|| damaged("the state of a key"))
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

/// Where the columns of a key begin in [`select_known`].
const KEY_AT: usize = 16;

/// Reads the rows of [`select_known`].
pub(crate) fn read_known(registry: &RegistryName, rows: &[Row]) -> Result<Vec<Known>, Fault> {
    let mut found: Vec<Known> = Vec::new();
    for row in rows {
        let uid = Uid(number(row, 0)?);
        if found.last().is_none_or(|last| last.principal.uid != uid) {
            found.push(Known { principal: read_principal(registry, row)?, keys: Vec::new() });
        }
        let known = found.last_mut().expect("one was pushed");
        if value::<Option<&str>>(row, KEY_AT)?.is_some() {
            known.keys.push(read_key(row, KEY_AT)?);
        }
    }
    Ok(found)
}

fn read_principal(registry: &RegistryName, row: &Row) -> Result<Principal, Fault> {
    Ok(Principal {
        registry: registry.clone(),
        uid: Uid(number(row, 0)?),
        name: principal_name(row, 1)?,
        kind: kind(text(row, 2)?)?,
        blocked: value(row, 3)?,
        pending: value(row, 12)?,
        epoch: Epoch(number(row, 4)?),
        not_before_s: number(row, 5)?,
        legacy_assertions: value(row, 6)?,
        policy: policy_or_null(row, 7)?,
        attributes: attributes(text(row, 8)?)?,
        password: value(row, 9)?,
        settings: PrincipalSettings::from_json(text(row, 13)?)?,
        enrolment: value(row, 14)?,
        registration: bytes_or_null(row, 15)?,
        created_s: number(row, 10)?,
        revision: number(row, 11)?,
    })
}

/// Reads the ten columns of a key, of which the first is at `at`.
pub(crate) fn read_key(row: &Row, at: usize) -> Result<Key, Fault> {
    Ok(Key {
        kid: KeyId::parse(text(row, at)?).map_err(|_| damaged("a key id"))?,
        spki_der: value(row, at + 1)?,
        algorithm: value(row, at + 2)?,
        label: value(row, at + 3)?,
        state: key_state(row, at + 4)?,
        not_before_s: number_or_null(row, at + 5)?,
        expires_s: number_or_null(row, at + 6)?,
        added_s: number(row, at + 7)?,
        last_used_s: number_or_null(row, at + 8)?,
        certificate_der: value(row, at + 9)?,
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
