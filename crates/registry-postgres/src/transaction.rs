//! One change: a transaction that is begun again when another one came in between.

use std::time::Duration;

use drawbridge_registry::StoreError;
use tokio_postgres::Row;

use crate::connection::Ask;
use crate::fault::Fault;
use crate::pool::{Lane, Lease, Pool};

/// How often a step is begun again.
const ATTEMPTS_MAX: u32 = 6;

/// A transaction. It begins with the first statements and ends with [`Tx::commit`]; a step that ends
/// without it has changed nothing.
pub(crate) struct Tx<'p> {
    lease: Lease<'p>,
    writer: &'p str,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    Open,
    Committed,
}

impl Tx<'_> {
    /// The writer whose chain of the audit grows.
    pub(crate) fn writer(&self) -> &str {
        self.writer
    }

    /// Sends statements in one round trip.
    pub(crate) async fn ask<const N: usize>(&mut self, asks: [Ask<'_>; N]) -> Result<[Vec<Row>; N], Fault> {
        Ok(exactly(self.send(&asks, false).await?))
    }

    /// The same for any number.
    pub(crate) async fn ask_each(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Vec<Row>>, Fault> {
        self.send(asks, false).await
    }

    /// Sends the last statements and commits, in one round trip.
    pub(crate) async fn commit<const N: usize>(
        &mut self,
        asks: [Ask<'_>; N],
    ) -> Result<[Vec<Row>; N], Fault> {
        Ok(exactly(self.send(&asks, true).await?))
    }

    async fn send(&mut self, asks: &[Ask<'_>], commit: bool) -> Result<Vec<Vec<Row>>, Fault> {
        assert_ne!(self.stage, Stage::Committed, "a step commits once, at its end");
        let mut all: Vec<Ask<'_>> = Vec::with_capacity(asks.len() + 2);
        let begin = self.stage == Stage::Before;
        if begin {
            all.push(("BEGIN", &[]));
        }
        all.extend_from_slice(asks);
        if commit {
            all.push(("COMMIT", &[]));
        }
        self.stage = Stage::Open;
        let answers = self.lease.ask_all(&all).await?;
        if commit {
            self.stage = Stage::Committed;
        }
        Ok(answers.into_iter().skip(usize::from(begin)).take(asks.len()).collect())
    }
}

fn exactly<const N: usize>(answers: Vec<Vec<Row>>) -> [Vec<Row>; N] {
    answers.try_into().expect("each statement has its answer")
}

/// The attempts of one change.
pub(crate) struct Attempts<'p> {
    pool: &'p Pool,
    lane: Lane,
    begun: u32,
}

impl<'p> Attempts<'p> {
    pub(crate) fn new(pool: &'p Pool, lane: Lane) -> Self {
        Self { pool, lane, begun: 0 }
    }

    pub(crate) async fn begin(&mut self) -> Result<Tx<'p>, StoreError> {
        self.begun += 1;
        Ok(Tx { lease: self.pool.lease(self.lane).await?, writer: self.pool.writer(), stage: Stage::Before })
    }

    /// Ends an attempt; `None`: it must be begun again.
    pub(crate) async fn end<T>(&self, tx: Tx<'_>, done: Result<T, Fault>) -> Option<Result<T, StoreError>> {
        match done {
            Ok(answer) => {
                // Nobody waits for the end of a transaction that changed nothing, but the connection.
                if tx.stage != Stage::Open || tx.lease.run("ROLLBACK").await.is_ok() {
                    tx.lease.give_back();
                }
                Some(Ok(answer))
            }
            // After COMMIT was sent nobody knows; but these answers mean that it was taken back.
            Err(fault) if fault.is_passing() && self.begun < ATTEMPTS_MAX => {
                if tx.lease.run("ROLLBACK").await.is_ok() {
                    tx.lease.give_back();
                }
                tokio::time::sleep(Duration::from_millis(1 << self.begun)).await;
                None
            }
            Err(Fault::Store(error)) => {
                if tx.lease.run("ROLLBACK").await.is_ok() {
                    tx.lease.give_back();
                }
                Some(Err(error))
            }
            Err(fault) => Some(Err(fault.into())),
        }
    }
}

/// Runs a step, which borrows its [`Tx`], until it is done, refused, or has met others too often.
macro_rules! change {
    ($pool:expr, |$tx:ident| $step:expr) => {
        change!($pool, crate::pool::Lane::Change, |$tx| $step)
    };
    ($pool:expr, $lane:expr, |$tx:ident| $step:expr) => {
        crate::pool::within(async {
            let mut attempts = crate::transaction::Attempts::new($pool, $lane);
            loop {
                let mut tx = attempts.begin().await?;
                let done = {
                    let $tx = &mut tx;
                    $step.await
                };
                if let Some(answer) = attempts.end(tx, done).await {
                    break answer;
                }
            }
        })
        .await
    };
}
pub(crate) use change;
