//! One connection: its session, its prepared statements, and several statements in one round trip.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use drawbridge_registry::StoreError;
use tokio::time::Instant;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use crate::fault::Fault;
use crate::tls::Tls;
use crate::url::Target;

/// A connection is replaced then: its plans may be those for smaller tables, its address out of date.
const LIFE_MAX: Duration = Duration::from_secs(600);

/// For the whole way: addresses in turn, TLS, the password, the session.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Every session. Every query of this store has its index, and joins go from row to row: the planner
/// shall do so also while the tables are small, since it keeps the plan when they are large (for the same
/// reason batches of rows are looked up by `LATERAL (... LIMIT 1)`, which it cannot turn round). A server that was told to answer
/// before a commit is on disk (`synchronous_commit=off`) is told otherwise.
const SESSION: &str = "
    SET search_path = drawbridge;
    SET statement_timeout = '10s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '15s';
    SET default_transaction_isolation = 'read committed';
    SET enable_seqscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET jit = off;
    SET client_min_messages = warning;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// The values of a statement's `$1`, `$2`, ...
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A statement with its values.
pub(crate) type Ask<'a> = (&'static str, Params<'a>);

type Answers<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, tokio_postgres::Error>> + Send + 'a>>;

/// A connection. Dropping it ends it, and the server takes back what was not committed.
pub(crate) struct Connection {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    opened: Instant,
}

impl Connection {
    /// Connects, and sets up the session.
    pub(crate) async fn open(target: &Target) -> Result<Self, StoreError> {
        let opening = async {
            let (client, connection) = target.config.connect(Tls(target.tls.clone())).await?;
            // Ends when the client is dropped or the server is gone; then every call answers so.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %crate::fault::store_error(&error), "a connection to PostgreSQL ended");
                }
            });
            client.batch_execute(SESSION).await?;
            Ok::<_, Fault>(Self { client, statements: Mutex::new(HashMap::new()), opened: Instant::now() })
        };
        let place = target.place();
        match tokio::time::timeout(OPEN_MAX, opening).await {
            Ok(opened) => opened.map_err(|fault| match StoreError::from(fault) {
                StoreError::Unavailable(why) => StoreError::Unavailable(format!("{place}: {why}")),
                other => other,
            }),
            Err(_) => Err(StoreError::Unavailable(format!(
                "{place}: PostgreSQL did not let us in within {} s",
                OPEN_MAX.as_secs()
            ))),
        }
    }

    /// Whether it is known to be gone, or has served its time.
    pub(crate) fn is_over(&self) -> bool {
        self.client.is_closed() || self.opened.elapsed() > LIFE_MAX
    }

    /// Asks once.
    pub(crate) async fn ask(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.statement(sql).await?;
        let quiet = Quiet::all(params);
        Ok(self.client.query(&statement, &Quiet::as_params(&quiet)).await?)
    }

    /// Sends all statements at once, in order, and answers what each gave; the server runs them one
    /// after the other. If one fails, its error is the answer; those after it ran, unless all stand in
    /// a transaction.
    pub(crate) async fn ask_all(&self, asks: &[Ask<'_>]) -> Result<Vec<Vec<Row>>, Fault> {
        // Nothing is sent before every statement is prepared, or the order could be another.
        let preparing = asks.iter().map(|(sql, _)| Box::pin(self.statement(sql)));
        let statements = in_order(preparing.collect()).await;
        let mut prepared = Vec::with_capacity(asks.len());
        for statement in statements {
            prepared.push(statement?);
        }
        let quiet: Vec<Vec<Quiet<'_>>> = asks.iter().map(|(_, params)| Quiet::all(params)).collect();
        let quiet: Vec<Vec<&(dyn ToSql + Sync)>> =
            quiet.iter().map(|params| Quiet::as_params(params)).collect();
        let sent = prepared
            .iter()
            .zip(&quiet)
            .map(|(statement, params)| Box::pin(self.client.query(statement, params)) as Answers<'_>);
        let mut answers = Vec::with_capacity(asks.len());
        for answer in in_order(sent.collect()).await {
            answers.push(answer?);
        }
        Ok(answers)
    }

    /// Runs statements without values, separated by `;`.
    pub(crate) async fn run(&self, sql: &str) -> Result<(), Fault> {
        Ok(self.client.batch_execute(sql).await?)
    }

    async fn statement(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.known_statement(sql) {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(statements.entry(sql).or_insert(statement).clone())
    }

    fn known_statement(&self, sql: &'static str) -> Option<Statement> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned()
    }
}

/// A value whose `Debug` shows nothing: at the level `debug` the client logs the values of each statement,
/// and among them are secrets.
struct Quiet<'a>(&'a (dyn ToSql + Sync));

impl<'a> Quiet<'a> {
    fn all(params: Params<'a>) -> Vec<Self> {
        params.iter().map(|value| Self(*value)).collect()
    }

    fn as_params(quiet: &[Self]) -> Vec<&(dyn ToSql + Sync)> {
        quiet.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
    }
}

impl std::fmt::Debug for Quiet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("_")
    }
}

impl ToSql for Quiet<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.to_sql_checked(kind, out)
    }

    /// The value itself is asked when it is written.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.to_sql_checked(kind, out)
    }

    fn encode_format(&self, kind: &Type) -> Format {
        self.0.encode_format(kind)
    }
}

/// Starts all futures in order, then waits for all their answers.
async fn in_order<T, F: Future<Output = T> + ?Sized>(mut futures: Vec<Pin<Box<F>>>) -> Vec<T> {
    let mut answers: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut all_done = true;
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(ready) => *answer = Some(ready),
                    Poll::Pending => all_done = false,
                }
            }
        }
        if all_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers.into_iter().map(|answer| answer.expect("`poll_fn` ends when all are done")).collect()
}
