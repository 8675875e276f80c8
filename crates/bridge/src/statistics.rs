//! `$SYS`: adds up what the shards say of each registry, and hands the sums back to them for whoever listens.
//!
//! While nobody has subscribed to anything there, nothing is asked and nothing computed.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use drawbridge_broker::{Figures, RegistryStats};
use drawbridge_names::RegistryName;
use tokio::sync::{Notify, oneshot};

use crate::bridge::Shared;
use crate::inbox::ToShard;

/// Rounds are so far apart at least, however many subscribe.
const APART_MIN: Duration = Duration::from_secs(1);

/// Runs until it is aborted. `wanted`: told by a shard whenever somebody subscribes. `every`: from round to round.
pub(crate) async fn run(shared: Weak<Shared>, wanted: Arc<Notify>, every: Duration) {
    let Some(began) = shared.upgrade().map(|shared| shared.clock.instant()) else { return };
    let apart = APART_MIN.min(every);
    // A session that was stored may listen.
    let mut is_heard = true;
    loop {
        if is_heard {
            // Either will do: the time has passed, or somebody has come who knows nothing yet.
            let _ = tokio::time::timeout(every.saturating_sub(apart), wanted.notified()).await;
        } else {
            wanted.notified().await;
        }
        let Some(shared) = shared.upgrade() else { return };
        let uptime = shared.clock.instant().saturating_duration_since(began);
        is_heard = round(&shared, uptime).await;
        drop(shared);
        tokio::time::sleep(apart).await;
    }
}

/// Whether somebody heard it.
async fn round(shared: &Shared, uptime: Duration) -> bool {
    let mut sums: BTreeMap<RegistryName, RegistryStats> = BTreeMap::new();
    for stats in ask(shared, |reply| ToShard::CountRegistries { reply }).await {
        for (registry, stats) in stats {
            *sums.entry(registry).or_default() += stats;
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let of = |(registry, stats)| (registry, Arc::new(Figures::of(&stats, version, uptime)));
    let figures: Arc<[(RegistryName, Arc<Figures>)]> = sums.into_iter().map(of).collect();
    let told = ask(shared, |reply| ToShard::TellStatistics { figures: Arc::clone(&figures), reply }).await;
    told.contains(&true)
}

/// Asks every shard. One that ends does not answer.
async fn ask<T>(shared: &Shared, question: impl Fn(oneshot::Sender<T>) -> ToShard) -> Vec<T> {
    let mut asked = Vec::with_capacity(shared.inboxes.len());
    for inbox in &shared.inboxes {
        let (reply, answer) = oneshot::channel();
        inbox.push(question(reply));
        asked.push(answer);
    }
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.extend(answer.await);
    }
    answers
}
