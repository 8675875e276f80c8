//! The connections of a store: a bounded number, shared out so that neither lists nor changes can keep
//! a login's lookup waiting.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drawbridge_registry::StoreError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::connection::{Connection, Params};
use crate::url::Target;

/// How long a caller waits for a connection.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a call may take in all; what hangs longer is given up with its connection.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(15);

/// After a connection could not be made, callers are told so at once for so long: a thousand logins
/// must not each find it out anew.
const DOWN: Duration = Duration::from_millis(250);

/// What a connection is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// One record: all connections.
    Lookup,
    /// A group of marks, or a sweep, which wait for nobody's row: all connections, as logins need them.
    Group,
    /// Many records: at most a quarter of them.
    List,
    /// A change: at most half of them.
    Change,
}

pub(crate) struct Pool {
    target: Target,
    writer: String,
    idle: Mutex<Vec<Connection>>,
    all: Semaphore,
    changes: Semaphore,
    lists: Semaphore,
    down: Mutex<Option<(Instant, StoreError)>>,
}

impl Pool {
    /// `writer`: whose chain of the audit grows.
    pub(crate) fn new(target: Target, writer: &str) -> Self {
        let connections = target.connections_max;
        Self {
            target,
            writer: writer.to_owned(),
            idle: Mutex::new(Vec::new()),
            all: Semaphore::new(connections),
            changes: Semaphore::new(connections / 2),
            lists: Semaphore::new(connections / 4),
            down: Mutex::new(None),
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn writer(&self) -> &str {
        &self.writer
    }

    /// One statement that changes nothing, in one round trip.
    pub(crate) async fn read(
        &self,
        lane: Lane,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        within(async {
            let mut again = true;
            loop {
                let lease = self.lease(lane).await?;
                match lease.ask(sql, params).await {
                    Ok(rows) => {
                        lease.give_back();
                        return Ok(rows);
                    }
                    // The database was restarted since the connection was last used.
                    Err(fault) if again && fault.is_connection_lost() => again = false,
                    Err(fault) => return Err(fault.into()),
                }
            }
        })
        .await
    }

    /// A connection that nobody else uses.
    pub(crate) async fn lease(&self, lane: Lane) -> Result<Lease<'_>, StoreError> {
        let permits = async {
            let own = match lane {
                Lane::Lookup | Lane::Group => None,
                Lane::List => Some(&self.lists),
                Lane::Change => Some(&self.changes),
            };
            let own = match own {
                Some(semaphore) => Some(semaphore.acquire().await.expect("it is never closed")),
                None => None,
            };
            (own, self.all.acquire().await.expect("it is never closed"))
        };
        let Ok(permits) = tokio::time::timeout(WAIT_MAX, permits).await else {
            return Err(StoreError::Unavailable(format!(
                "no connection to PostgreSQL became free within {} s; they are slow, or `connections` in the \
                 URL is too small",
                WAIT_MAX.as_secs()
            )));
        };
        let connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Lease { pool: self, connection: Some(connection), _permits: permits })
    }

    /// Ends the connections that nobody uses.
    pub(crate) fn drop_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if !connection.is_over() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, StoreError> {
        if let Some((since, error)) = &*self.down.lock().unwrap_or_else(PoisonError::into_inner)
            && since.elapsed() < DOWN
        {
            return Err(error.clone());
        }
        let opened = Connection::open(&self.target).await;
        let down = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = down;
        opened
    }
}

/// Bounds the time of a call.
pub(crate) async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(StoreError::Unavailable(format!("PostgreSQL did not answer within {} s", CALL_MAX.as_secs())))
        }
    }
}

/// A connection in use. Only [`Lease::give_back`] keeps it: whoever drops the lease in the middle (an
/// error, a future that is dropped) ends the connection, and with it what it had begun.
pub(crate) struct Lease<'p> {
    pool: &'p Pool,
    connection: Option<Connection>,
    _permits: (Option<SemaphorePermit<'p>>, SemaphorePermit<'p>),
}

impl Lease<'_> {
    /// All that was asked is answered, and no transaction is open: others may use it.
    pub(crate) fn give_back(mut self) {
        if let Some(connection) = self.connection.take()
            && !connection.is_over()
        {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

impl Deref for Lease<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only `give_back`, which ends the lease, takes it")
    }
}
