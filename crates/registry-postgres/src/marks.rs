//! `jti` that wait at the same time are remembered in one transaction: a hundred logins cost one flush of
//! the database's disk.
//!
//! A group never waits for a principal that somebody else holds: its marks step out of the group and
//! wait alone, so no login stands behind the change of another device.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use drawbridge_names::{RegistryName, Uid};
use drawbridge_registry::{JtiMark, JtiOutcome, StoreError};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::connection::Ask;
use crate::fault::Fault;
use crate::jti::{self, Columns, Facts, Keeping, Together, Wanted};
use crate::pool::{Lane, Pool};
use crate::principals::LOCK;
use crate::rows::{bits, value};
use crate::sweep::Sweep;
use crate::transaction::{Tx, change};

/// Callers that may wait; more wait for room.
const WAITING_MAX: usize = 1024;

/// Marks in one transaction: few enough that the first of them does not wait long for the last.
const GROUP_MAX: usize = 256;

/// Groups at a time: while one is flushed, the next is judged.
const LANES: usize = 2;

/// Holds those principals that nobody else holds.
const LOCK_FREE: &str = "
    SELECT p.registry, p.uid FROM unnest($1::text[], $2::bigint[]) AS g (registry, uid) CROSS JOIN LATERAL
        (SELECT p.registry, p.uid FROM principal p WHERE p.registry = g.registry AND p.uid = g.uid
         LIMIT 1 FOR UPDATE SKIP LOCKED) p";

/// The way in.
pub(crate) struct Marks {
    waiting: mpsc::Sender<Waiting>,
}

struct Waiting {
    registry: RegistryName,
    uid: Uid,
    mark: JtiMark,
    now_s: u64,
    reply: oneshot::Sender<Result<JtiOutcome, StoreError>>,
}

impl Waiting {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { registry: &self.registry, uid: self.uid, mark: &self.mark, now_s: self.now_s }
    }

    /// A caller that went away has left it open what it wanted.
    fn answer(self, answer: Result<JtiOutcome, StoreError>) {
        drop(self.reply.send(answer));
    }
}

impl Marks {
    /// Starts the lanes; they end when this is dropped.
    pub(crate) fn start(pool: &Arc<Pool>, sweep: &Arc<Sweep>) -> Self {
        let (waiting, arriving) = mpsc::channel(WAITING_MAX);
        let arriving = Arc::new(Mutex::new(arriving));
        for _ in 0..LANES {
            tokio::spawn(serve(Arc::clone(&arriving), Arc::clone(pool), Arc::clone(sweep)));
        }
        Self { waiting }
    }

    /// Remembers a mark unless it is known.
    pub(crate) async fn remember(
        &self,
        registry: &RegistryName,
        uid: Uid,
        mark: JtiMark,
        now_s: u64,
    ) -> Result<JtiOutcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { registry: registry.clone(), uid, mark, now_s, reply };
        let stopped = || StoreError::Unavailable("it is shutting down".into());
        self.waiting.send(waiting).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn serve(arriving: Arc<Mutex<mpsc::Receiver<Waiting>>>, pool: Arc<Pool>, sweep: Arc<Sweep>) {
    loop {
        let mut group = Vec::new();
        let taken = arriving.lock().await.recv_many(&mut group, GROUP_MAX).await;
        if taken == 0 {
            return;
        }
        let outcomes = {
            let wanted: Vec<Wanted<'_>> = group.iter().map(Waiting::wanted).collect();
            change!(&pool, Lane::Group, |tx| remember(tx, &wanted, Locks::FreeOnly))
        };
        let now_s = group.iter().map(|waiting| waiting.now_s).max().unwrap_or(0);
        let mut kept = 0;
        match outcomes {
            Ok(outcomes) => {
                let mut held: HashMap<(RegistryName, Uid), Vec<Waiting>> = HashMap::new();
                for (waiting, outcome) in group.into_iter().zip(outcomes) {
                    match outcome {
                        Some(outcome) => {
                            kept += usize::from(outcome == JtiOutcome::Fresh);
                            waiting.answer(Ok(outcome));
                        }
                        None => {
                            held.entry((waiting.registry.clone(), waiting.uid)).or_default().push(waiting);
                        }
                    }
                }
                held.into_values().for_each(|waiting| wait_for_principal(waiting, &pool));
            }
            Err(error) => {
                tracing::error!(%error, marks = group.len(), "`jti` could not be remembered");
                group.into_iter().for_each(|waiting| waiting.answer(Err(error.clone())));
            }
        }
        sweep.after(&pool, kept, now_s).await;
    }
}

/// Remembers marks of one principal that is held by somebody, or is gone.
fn wait_for_principal(waiting: Vec<Waiting>, pool: &Arc<Pool>) {
    let pool = Arc::clone(pool);
    tokio::spawn(async move {
        let outcomes = {
            let wanted: Vec<Wanted<'_>> = waiting.iter().map(Waiting::wanted).collect();
            change!(&pool, |tx| remember(tx, &wanted, Locks::Wait))
        };
        match outcomes {
            Ok(outcomes) => {
                for (waiting, outcome) in waiting.into_iter().zip(outcomes) {
                    waiting.answer(outcome.ok_or_else(|| Fault::Again.into()));
                }
            }
            Err(error) => waiting.into_iter().for_each(|waiting| waiting.answer(Err(error.clone()))),
        }
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locks {
    /// Marks of principals that are held have no outcome.
    FreeOnly,
    /// All marks are of one principal, which is waited for.
    Wait,
}

/// Two round trips: hold and ask, then write and commit. `None`: ask again, alone.
async fn remember(
    tx: &mut Tx<'_>,
    wanted: &[Wanted<'_>],
    locks: Locks,
) -> Result<Vec<Option<JtiOutcome>>, Fault> {
    let columns = Columns::new(wanted);
    let facts: Ask<'_> = (jti::FACTS, &columns.facts());
    let (held, facts) = match (locks, wanted) {
        (Locks::Wait, [one, ..]) => {
            let lock: Ask<'_> = (LOCK, &[&one.registry.as_str(), &bits(one.uid.0)]);
            let [_, facts] = tx.ask([lock, facts]).await?;
            // If there is nobody to hold, the facts say so.
            (None, facts)
        }
        _ => {
            let lock: Ask<'_> = (LOCK_FREE, &[columns.registries(), columns.uids()]);
            let [held, facts] = tx.ask([lock, facts]).await?;
            let read = |row: &tokio_postgres::Row| Ok((value::<String>(row, 0)?, value::<i64>(row, 1)?));
            let held: HashSet<(String, i64)> = held.iter().map(read).collect::<Result<_, Fault>>()?;
            (Some(held), facts)
        }
    };
    let mut together = Together::default();
    let mut outcomes = Vec::with_capacity(wanted.len());
    for (wanted, row) in wanted.iter().zip(&facts) {
        let is_held = held
            .as_ref()
            .is_none_or(|held| held.contains(&(wanted.registry.as_str().to_owned(), bits(wanted.uid.0))));
        outcomes.push(match is_held {
            true => Some(together.judge(*wanted, &Facts::read(Some(row))?)),
            false => None,
        });
    }
    let (timed, lasting) = (together.columns(true), together.columns(false));
    let (keep_timed, keep_lasting) = (Keeping::new(&timed, true), Keeping::new(&lasting, false));
    let kept = match (together.count(true), together.count(false)) {
        (0, 0) => return Ok(outcomes),
        (_, 0) => tx.commit([keep_timed.ask()]).await?.concat_rows(),
        (0, _) => tx.commit([keep_lasting.ask()]).await?.concat_rows(),
        (..) => tx.commit([keep_timed.ask(), keep_lasting.ask()]).await?.concat_rows(),
    };
    // What was judged fresh, but not written by this transaction, was written by another.
    let kept: HashSet<(String, i64, [u8; 16])> =
        kept.iter().map(jti::read_kept).collect::<Result<_, Fault>>()?;
    for (wanted, outcome) in wanted.iter().zip(&mut outcomes) {
        let place = (wanted.registry.as_str().to_owned(), bits(wanted.uid.0), wanted.mark.jti_digest);
        if *outcome == Some(JtiOutcome::Fresh) && !kept.contains(&place) {
            *outcome = None;
        }
    }
    Ok(outcomes)
}

/// The rows of several answers as one list.
trait ConcatRows {
    fn concat_rows(self) -> Vec<tokio_postgres::Row>;
}

impl<const N: usize> ConcatRows for [Vec<tokio_postgres::Row>; N] {
    fn concat_rows(self) -> Vec<tokio_postgres::Row> {
        self.into_iter().flatten().collect()
    }
}
