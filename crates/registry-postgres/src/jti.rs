//! Replay marks. Those with an end and those that last as long as their key are kept apart: a device
//! may have a few of the first sort and 65,536 of the second, and neither count may pass by the other.
//!
//! The principal's row is held while its marks are judged and written. The unique index behind it is the
//! second guard: a mark counts as remembered only if it was this statement that wrote it.

use drawbridge_names::{KeyId, RegistryName, Uid};
use drawbridge_registry::{JtiMark, JtiOutcome, KeyState, StoreError};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::connection::Ask;
use crate::fault::{Fault, damaged};
use crate::pool::{Lane, Pool};
use crate::rows::{bits, bytes_or_null, clamped, number, value};

/// What must be known of each mark: the state of its key, the JWT its `jti` came with first, and how
/// many live marks of its sort there are.
pub(crate) const FACTS: &str = "
    SELECT k.state, seen.token_digest,
           CASE WHEN g.timed THEN (SELECT count(*) FROM timed_jti t
                                   WHERE t.registry = g.registry AND t.uid = g.uid AND t.until_s > g.now_s)
                ELSE k.lasting_jti END
    FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::text[], $5::boolean[], $6::bigint[])
         WITH ORDINALITY AS g (registry, uid, jti_digest, kid, timed, now_s, place)
    LEFT JOIN LATERAL (
        SELECT k.state, k.lasting_jti FROM principal_key k
        WHERE k.registry = g.registry AND k.kid = g.kid AND k.uid = g.uid LIMIT 1
    ) k ON TRUE
    LEFT JOIN LATERAL (
        SELECT t.token_digest FROM timed_jti t
        WHERE t.registry = g.registry AND t.uid = g.uid AND t.jti_digest = g.jti_digest AND t.until_s > g.now_s
        UNION ALL
        SELECT l.token_digest FROM lasting_jti l
        WHERE l.registry = g.registry AND l.uid = g.uid AND l.jti_digest = g.jti_digest
        UNION ALL
        SELECT l.token_digest FROM left_jti l
        WHERE l.registry = g.registry AND l.kid = g.kid AND l.jti_digest = g.jti_digest
          AND (l.until_s IS NULL OR l.until_s > g.now_s)
        LIMIT 1
    ) seen ON TRUE
    ORDER BY g.place";

/// One of the same digest is there if its end is over and it was not swept yet. Answers those that were
/// written.
const KEEP_TIMED: &str = "
    INSERT INTO timed_jti AS t (registry, uid, jti_digest, token_digest, kid, until_s)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::text[], $6::bigint[])
         AS g (registry, uid, jti_digest) ORDER BY g.registry, g.uid, g.jti_digest
    ON CONFLICT (registry, uid, jti_digest)
    DO UPDATE SET token_digest = excluded.token_digest, until_s = excluded.until_s, kid = excluded.kid
    WHERE t.until_s <= $7
    RETURNING uid, jti_digest, registry";

/// Writes marks without an end and counts them on their keys. Answers those that were written.
const KEEP_LASTING: &str = "
    WITH kept AS (
        INSERT INTO lasting_jti (registry, uid, jti_digest, token_digest, kid)
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::text[])
             AS g (registry, uid, jti_digest) ORDER BY g.registry, g.uid, g.jti_digest
        ON CONFLICT DO NOTHING
        RETURNING registry, uid, jti_digest, kid
    ), counted AS (
        UPDATE principal_key k SET lasting_jti = k.lasting_jti + n.more
        FROM (SELECT registry, kid, count(*) AS more FROM kept GROUP BY registry, kid) n
        WHERE k.registry = n.registry AND k.kid = n.kid
    )
    SELECT uid, jti_digest, registry FROM kept";

/// Keeps the marks of a principal that is about to be deleted, by key; not those of retired keys, which
/// never come back. Of two with one digest the one that lasts longer stays.
pub(crate) const LEAVE: &str = "
    INSERT INTO left_jti AS l (registry, kid, jti_digest, token_digest, until_s)
    SELECT m.registry, m.kid, m.jti_digest, m.token_digest, m.until_s
    FROM (SELECT registry, uid, kid, jti_digest, token_digest, until_s FROM timed_jti
          WHERE registry = $1 AND uid = $2
            AND NOT EXISTS (SELECT 1 FROM lasting_jti o WHERE o.registry = $1 AND o.uid = $2
                            AND o.jti_digest = timed_jti.jti_digest AND o.kid = timed_jti.kid)
          UNION ALL
          SELECT registry, uid, kid, jti_digest, token_digest, NULL FROM lasting_jti
          WHERE registry = $1 AND uid = $2) m
    JOIN principal_key k ON k.registry = m.registry AND k.kid = m.kid
    WHERE k.state <> 'retired'
    ON CONFLICT (registry, kid, jti_digest)
    DO UPDATE SET token_digest = excluded.token_digest, until_s = excluded.until_s
    WHERE l.until_s IS NOT NULL AND (excluded.until_s IS NULL OR excluded.until_s > l.until_s)";

/// How many marks without an end are kept for a key.
pub(crate) async fn lasting(pool: &Pool, registry: &RegistryName, kid: &KeyId) -> Result<u64, StoreError> {
    let sql = "SELECT lasting_jti FROM principal_key WHERE registry = $1 AND kid = $2";
    let rows = pool.read(Lane::Lookup, sql, &[&registry.as_str(), &kid.as_str()]).await?;
    Ok(rows.first().map(|row| number(row, 0)).transpose()?.unwrap_or(0))
}

/// A mark that is to be remembered.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) registry: &'a RegistryName,
    pub(crate) uid: Uid,
    pub(crate) mark: &'a JtiMark,
    pub(crate) now_s: u64,
}

/// Marks, column by column.
#[derive(Default)]
pub(crate) struct Columns<'a> {
    registry: Vec<&'a str>,
    uid: Vec<i64>,
    jti_digest: Vec<&'a [u8]>,
    token_digest: Vec<&'a [u8]>,
    kid: Vec<&'a str>,
    timed: Vec<bool>,
    until_s: Vec<i64>,
    now_s: Vec<i64>,
    /// The earliest of the times: what is over by then is over for all.
    earliest_s: i64,
}

impl<'a> Columns<'a> {
    pub(crate) fn new(marks: &[Wanted<'a>]) -> Self {
        let mut columns = Self { earliest_s: i64::MAX, ..Self::default() };
        for Wanted { registry, uid, mark, now_s } in marks {
            columns.registry.push(registry.as_str());
            columns.uid.push(bits(uid.0));
            columns.jti_digest.push(&mark.jti_digest);
            columns.token_digest.push(&mark.token_digest);
            columns.kid.push(mark.kid.as_str());
            columns.timed.push(mark.until_s.is_some());
            columns.until_s.push(clamped(mark.until_s.unwrap_or(u64::MAX)));
            columns.now_s.push(clamped(*now_s));
            columns.earliest_s = columns.earliest_s.min(clamped(*now_s));
        }
        columns
    }

    /// The values of [`FACTS`].
    pub(crate) fn facts(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.registry, &self.uid, &self.jti_digest, &self.kid, &self.timed, &self.now_s]
    }

    pub(crate) fn registries(&self) -> &Vec<&'a str> {
        &self.registry
    }

    pub(crate) fn uids(&self) -> &Vec<i64> {
        &self.uid
    }
}

/// Marks of one sort that were judged fresh, to be written.
pub(crate) struct Keeping<'c> {
    sql: &'static str,
    params: Vec<&'c (dyn ToSql + Sync)>,
}

impl<'c> Keeping<'c> {
    pub(crate) fn new(columns: &'c Columns<'_>, timed: bool) -> Self {
        let mut params: Vec<&(dyn ToSql + Sync)> =
            vec![&columns.registry, &columns.uid, &columns.jti_digest, &columns.token_digest, &columns.kid];
        if timed {
            params.push(&columns.until_s);
            params.push(&columns.earliest_s);
        }
        Self { sql: if timed { KEEP_TIMED } else { KEEP_LASTING }, params }
    }

    /// The statement; its answer has a row for each mark that it wrote, see [`read_kept`].
    pub(crate) fn ask(&self) -> Ask<'_> {
        (self.sql, &self.params)
    }
}

/// Which mark a row of [`Keeping::ask`] tells of.
pub(crate) fn read_kept(row: &Row) -> Result<(String, i64, [u8; 16]), Fault> {
    Ok((value(row, 2)?, value(row, 0)?, crate::rows::bytes(row, 1)?))
}

/// What [`FACTS`] says of a mark.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The key is the principal's, active or in grace.
    pub(crate) usable: bool,
    pub(crate) seen: Option<[u8; 16]>,
    /// Live marks of the same sort.
    pub(crate) live: usize,
}

impl Facts {
    pub(crate) fn read(row: Option<&Row>) -> Result<Self, Fault> {
        let row = row.ok_or_else(|| damaged("a mark"))?;
        let usable = match value::<Option<&str>>(row, 0)? {
            None => false,
            Some(word) => {
                let state = KeyState::from_word(word).ok_or_else(|| damaged("the state of a key"))?;
                state != KeyState::Retired
            }
        };
        let live = value::<Option<i64>>(row, 2)?.unwrap_or(0);
        Ok(Self {
            usable,
            seen: bytes_or_null(row, 1)?,
            live: usize::try_from(live).map_err(|_| damaged("a count of marks"))?,
        })
    }

    /// Whether the mark could be remembered now: everything but `KeyGone`.
    pub(crate) fn judge(&self, mark: &JtiMark) -> JtiOutcome {
        match self.seen {
            Some(token_digest) => JtiOutcome::Seen { token_digest },
            None if self.live >= mark.live_max => JtiOutcome::Full,
            None => JtiOutcome::Fresh,
        }
    }
}

/// Marks of the same principal and sort that were judged together: what one takes, the next finds taken.
#[derive(Default)]
pub(crate) struct Together<'a> {
    fresh: Vec<Wanted<'a>>,
}

impl<'a> Together<'a> {
    /// Judges a mark as if those before it had been written.
    pub(crate) fn judge(&mut self, wanted: Wanted<'a>, facts: &Facts) -> JtiOutcome {
        if !facts.usable {
            return JtiOutcome::KeyGone;
        }
        let mark = wanted.mark;
        let own = || {
            let is_own = |other: &&Wanted<'a>| other.uid == wanted.uid && other.registry == wanted.registry;
            self.fresh.iter().filter(is_own).map(|other| other.mark)
        };
        if let (None, Some(first)) = (facts.seen, own().find(|other| other.jti_digest == mark.jti_digest)) {
            return JtiOutcome::Seen { token_digest: first.token_digest };
        }
        let same_sort = |other: &&JtiMark| match mark.until_s {
            Some(_) => other.until_s.is_some(),
            None => other.until_s.is_none() && other.kid == mark.kid,
        };
        let facts = Facts { live: facts.live + own().filter(same_sort).count(), ..facts.clone() };
        let outcome = facts.judge(mark);
        if outcome == JtiOutcome::Fresh {
            self.fresh.push(wanted);
        }
        outcome
    }

    /// Those that were judged fresh, of one sort.
    pub(crate) fn columns(&self, timed: bool) -> Columns<'a> {
        let of_sort: Vec<Wanted<'a>> =
            self.fresh.iter().filter(|wanted| wanted.mark.until_s.is_some() == timed).copied().collect();
        Columns::new(&of_sort)
    }

    pub(crate) fn count(&self, timed: bool) -> usize {
        self.fresh.iter().filter(|wanted| wanted.mark.until_s.is_some() == timed).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(jti: u8, until_s: Option<u64>, live_max: usize) -> JtiMark {
        let kid = KeyId::parse(&"k".repeat(43)).expect("a key id");
        JtiMark { jti_digest: [jti; 16], token_digest: [jti ^ 0xff; 16], kid, until_s, live_max }
    }

    #[test]
    fn marks_judged_together_count_as_if_each_came_after_the_other() {
        let registry = RegistryName::default_registry();
        let facts = Facts { usable: true, seen: None, live: 1 };
        let marks = [
            (1, 1, Some(9), 3, JtiOutcome::Fresh),
            (1, 2, Some(9), 3, JtiOutcome::Fresh),
            (1, 1, Some(9), 9, JtiOutcome::Seen { token_digest: [0xfe; 16] }),
            (1, 1, None, 9, JtiOutcome::Seen { token_digest: [0xfe; 16] }),
            (1, 3, Some(9), 3, JtiOutcome::Full),
            (1, 3, None, 2, JtiOutcome::Fresh),
            (1, 4, None, 2, JtiOutcome::Full),
            (2, 1, Some(9), 2, JtiOutcome::Fresh),
            (2, 2, Some(9), 2, JtiOutcome::Full),
        ];
        let all: Vec<JtiMark> =
            marks.iter().map(|(_, jti, until_s, max, _)| mark(*jti, *until_s, *max)).collect();
        let mut together = Together::default();
        for ((uid, .., expected), mark) in marks.iter().zip(&all) {
            let wanted = Wanted { registry: &registry, uid: Uid(*uid), mark, now_s: 1 };
            assert_eq!(together.judge(wanted, &facts), *expected, "{uid} {mark:?}");
        }
        assert_eq!((together.count(true), together.count(false)), (3, 1));
        let gone = Facts { usable: false, ..facts };
        let wanted = Wanted { registry: &registry, uid: Uid(3), mark: &all[0], now_s: 1 };
        assert_eq!(together.judge(wanted, &gone), JtiOutcome::KeyGone);
    }
}
