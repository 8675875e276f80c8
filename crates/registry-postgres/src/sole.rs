//! One server alone on a database: its caches and the ends of sessions are its own, so a second one
//! would admit whom the first has revoked.

use std::sync::Arc;
use std::time::Duration;

use drawbridge_registry::StoreError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;

use crate::connection::Connection;
use crate::fault::Fault;
use crate::rows::{number, text, value};
use crate::url::Target;

/// The advisory lock of the sole server: "Drbg" and 2.
const TAKE: &str = "SELECT pg_try_advisory_lock(1148347239, 2)";

/// Who has it.
const HOLDER: &str = "
    SELECT COALESCE(a.application_name, ''), COALESCE(host(a.client_addr), ''), l.pid
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.classid = 1148347239 AND l.objid = 2 AND l.granted
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    LIMIT 1";

/// The server's end of this connection gives up a machine that is gone within 25 s; an advisory lock
/// lives as long as its session. An idle session is the rule here.
const SESSION: &str = "
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET idle_in_transaction_session_timeout = 0";

/// How often the connection is tried.
const PULSE: Duration = Duration::from_secs(2);

/// Longer than that no answer takes.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How often it is tried to get the place back.
const RETRY: Duration = Duration::from_millis(500);

/// The place of the sole server on a database, held by a connection of its own until it is dropped.
///
/// When the connection breaks (a restart of the database), the place is taken again as soon as the
/// database is back. If another server had it in between, it is lost for good, since what this one
/// remembers may be out of date.
pub struct SoleServer {
    state: watch::Receiver<State>,
    keeper: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for SoleServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoleServer").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    /// Not known to be held since then.
    Open {
        since: Instant,
    },
    Lost,
}

impl SoleServer {
    /// Takes the place.
    pub(crate) async fn take(target: Target) -> Result<Self, StoreError> {
        let connection = Connection::open(&target).await?;
        connection.run(SESSION).await?;
        if !is_taken(&connection).await? {
            let holder = connection.ask(HOLDER, &[]).await?;
            return Err(refused(holder.first())?);
        }
        // Counted under the lock: whoever gets the place back sees whether anybody had it in between.
        let count = "UPDATE sole_server SET generation = generation + 1 RETURNING generation";
        let rows = connection.ask(count, &[]).await?;
        let generation = number(rows.first().ok_or_else(no_row)?, 0)?;
        let (tell, state) = watch::channel(State::Held);
        let keeper = tokio::spawn(keep(Arc::new(target), connection, generation, tell));
        Ok(Self { state, keeper })
    }

    /// Waits until the place is lost: another server has, or had, it. This one must end.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        // The keeper ends only when it has told that the place is lost.
        drop(state.wait_for(|state| *state == State::Lost).await);
    }

    /// How long the place has not been known to be held; `None`: it is held.
    ///
    /// Without a connection nobody knows whether another server has taken it. Nothing can be written to
    /// the store meanwhile, so no login is admitted; but what is cached may be out of date.
    #[must_use]
    pub fn open_for(&self) -> Option<Duration> {
        match *self.state.borrow() {
            State::Held => None,
            State::Open { since } => Some(since.elapsed()),
            State::Lost => Some(Duration::MAX),
        }
    }
}

impl Drop for SoleServer {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(target: Arc<Target>, connection: Connection, generation: u64, tell: watch::Sender<State>) {
    let mut connection = Some(connection);
    loop {
        if let Some(held) = &connection {
            while is_alive(held).await {
                sleep(PULSE).await;
            }
            tracing::warn!("the connection that holds the place of the sole server is gone");
            tell.send_replace(State::Open { since: Instant::now() });
            connection = None;
        }
        match again(&target, generation).await {
            Ok(Again::Held(held)) => {
                tracing::info!("the place of the sole server is held again");
                tell.send_replace(State::Held);
                connection = Some(*held);
            }
            Ok(Again::Lost) => {
                tell.send_replace(State::Lost);
                return;
            }
            Err(error) => {
                tracing::debug!(error = %StoreError::from(error), "the place of the sole server is not held yet");
                sleep(RETRY).await;
            }
        }
    }
}

enum Again {
    Held(Box<Connection>),
    Lost,
}

async fn again(target: &Target, generation: u64) -> Result<Again, Fault> {
    let connection = Connection::open(target).await?;
    connection.run(SESSION).await?;
    let taken = is_taken(&connection).await?;
    let rows = connection.ask("SELECT generation FROM sole_server", &[]).await?;
    let found = number(rows.first().ok_or_else(no_row)?, 0)?;
    Ok(match (found == generation, taken) {
        (true, true) => Again::Held(Box::new(connection)),
        // Our own former session, which the database has not given up yet; or another that is just
        // about to count itself.
        (true, false) => {
            return Err(StoreError::Unavailable("the place is not free yet".into()).into());
        }
        (false, _) => Again::Lost,
    })
}

/// Refuses if there is a sole server, and keeps new ones away until the end of the transaction.
pub(crate) async fn must_be_free(connection: &Connection) -> Result<(), Fault> {
    let free = connection.ask("SELECT pg_try_advisory_xact_lock(1148347239, 2)", &[]).await?;
    if value::<bool>(free.first().ok_or_else(no_row)?, 0)? {
        return Ok(());
    }
    let holder = connection.ask(HOLDER, &[]).await?;
    Err(refused(holder.first())?.into())
}

async fn is_alive(connection: &Connection) -> bool {
    let answer = timeout(ANSWER_MAX, connection.ask("SELECT 1", &[])).await;
    matches!(answer, Ok(Ok(_)))
}

async fn is_taken(connection: &Connection) -> Result<bool, Fault> {
    let rows = connection.ask(TAKE, &[]).await?;
    value(rows.first().ok_or_else(no_row)?, 0)
}

fn no_row() -> Fault {
    StoreError::Corrupt("`sole_server` has no row".into()).into()
}

fn refused(holder: Option<&Row>) -> Result<StoreError, Fault> {
    let who = match holder {
        None => String::new(),
        Some(row) => {
            let (name, address, pid) = (text(row, 0)?, text(row, 1)?, value::<i32>(row, 2)?);
            let from = if address.is_empty() { "a Unix socket" } else { address };
            format!(" (`{name}`, connected from {from}, PostgreSQL's process {pid})")
        }
    };
    Ok(StoreError::InUse(format!("another server works on this database{who}")))
}
