//! One connection: its session, its prepared statements, and several statements in one round trip.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::ToSql;
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
    pub(crate) async fn open(target: &Target) -> Result<Self, Fault> {
        let opening = async {
            let (client, connection) = target.config.connect(Tls(target.tls.clone())).await?;
            // Ends when the client is dropped or the server is gone; then every call answers so.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %crate::fault::store_error(&error), "a connection to PostgreSQL ended");
                }
            });
            client.batch_execute(SESSION).await?;
            Ok(Self { client, statements: Mutex::new(HashMap::new()), opened: Instant::now() })
        };
        match tokio::time::timeout(OPEN_MAX, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Fault::Store(drawbridge_registry::StoreError::Unavailable(format!(
                "PostgreSQL did not let us in within {} s",
                OPEN_MAX.as_secs()
            )))),
        }
    }

    /// Whether it is known to be gone, or has served its time.
    pub(crate) fn is_over(&self) -> bool {
        self.client.is_closed() || self.opened.elapsed() > LIFE_MAX
    }

    /// Asks once.
    pub(crate) async fn ask(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.statement(sql).await?;
        Ok(self.client.query(&statement, params).await?)
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
        let sent = asks
            .iter()
            .zip(&prepared)
            .map(|((_, params), statement)| Box::pin(self.client.query(statement, params)) as Answers<'_>);
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
