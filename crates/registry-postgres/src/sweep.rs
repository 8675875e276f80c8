//! What is over is taken away in passing: there is no job that could fail to run.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::Ask;
use crate::pool::{Lane, Pool};
use crate::rows::clamped;

/// Kept rows after which it is time.
const KEPT: usize = 64;

/// Time after which it is time, if anything was kept.
const PAUSE: Duration = Duration::from_secs(5);

/// At least so many rows of each sort.
const ROWS_MIN: usize = 64;

/// The clocks of several servers differ: what one finds over may be live for the next.
const LAG_S: u64 = 300;

/// Counts what is kept.
pub(crate) struct Sweep {
    due: Mutex<Due>,
}

struct Due {
    kept: usize,
    last: Instant,
}

impl Sweep {
    pub(crate) fn new() -> Self {
        Self { due: Mutex::new(Due { kept: 0, last: Instant::now() }) }
    }

    /// Notes that so many rows with an end were kept, and sweeps if it is time: twice as many as were
    /// kept, so that they never pile up, the oldest first. What goes wrong is left to the next time.
    pub(crate) async fn after(&self, pool: &Pool, kept: usize, now_s: u64) {
        let Some(rows) = self.rows_due(kept) else { return };
        let over_s = clamped(now_s.saturating_sub(LAG_S));
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let params: crate::connection::Params<'_> = &[&over_s, &rows];
        let asks: [Ask<'_>; 4] = [(TIMED, params), (LEFT, params), (TOKENS, params), (REVOKED, params)];
        let Ok(lease) = pool.lease(Lane::Group).await else { return };
        match lease.ask_all(&asks).await {
            Ok(_) => lease.give_back(),
            Err(fault) => {
                let error = drawbridge_registry::StoreError::from(fault);
                tracing::debug!(%error, "what is over could not be swept now");
            }
        }
    }

    fn rows_due(&self, kept: usize) -> Option<usize> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.kept += kept;
        if due.kept < KEPT && (due.kept == 0 || due.last.elapsed() < PAUSE) {
            return None;
        }
        let rows = 2 * due.kept + ROWS_MIN;
        *due = Due { kept: 0, last: Instant::now() };
        Some(rows)
    }
}

// Rows that others hold are left to the next time: a sweep waits for nobody.
const TIMED: &str = "
    DELETE FROM timed_jti WHERE (registry, uid, jti_digest) IN (
        SELECT registry, uid, jti_digest FROM timed_jti WHERE until_s <= $1 ORDER BY until_s LIMIT $2
        FOR UPDATE SKIP LOCKED)";
const LEFT: &str = "
    DELETE FROM left_jti WHERE (registry, kid, jti_digest) IN (
        SELECT registry, kid, jti_digest FROM left_jti WHERE until_s <= $1 ORDER BY until_s LIMIT $2
        FOR UPDATE SKIP LOCKED)";
const TOKENS: &str = "
    DELETE FROM token WHERE (registry, digest) IN (
        SELECT registry, digest FROM token WHERE expires_s <= $1 ORDER BY expires_s LIMIT $2
        FOR UPDATE SKIP LOCKED)";
const REVOKED: &str = "
    DELETE FROM revoked_jti WHERE (registry, jti_digest) IN (
        SELECT registry, jti_digest FROM revoked_jti WHERE until_s <= $1 ORDER BY until_s LIMIT $2
        FOR UPDATE SKIP LOCKED)";
