//! The message log: sessions, what they are owed, and retained messages, in `messages` of the data folder.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_admission::{Admission, Clock};
use drawbridge_bridge::{Durable, StorageNews};
use drawbridge_broker::storage::TimeBase;
use drawbridge_broker::{Publisher, Restored};
use drawbridge_message_log::{LogConfig, LogError, MessageLog, Opened, RealDisk};
use drawbridge_names::{RegistryName, Uid};
use serde::Deserialize;
use tokio::sync::Notify;

use crate::data::DataFolder;

/// In the data folder, 0700.
const FOLDER: &str = "messages";

type StartError = Box<dyn std::error::Error + Send + Sync>;

/// `[messages]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct MessageSettings {
    /// Longest life of a session after its connection, in seconds. Default 604,800 (7 days).
    pub(crate) session_expiry_s_max: u32,
    /// Most messages that wait for one session. Default 100,000.
    pub(crate) queue_messages_max: usize,
    /// Their bytes. Default 16,777,216.
    pub(crate) queue_bytes_max: usize,
    /// Most bytes of the log on the disk. Default 4,294,967,296.
    pub(crate) bytes_max: u64,
    /// A message that nobody came for is dropped when it is so old, in seconds. Default 604,800.
    pub(crate) age_s_max: u64,
    /// Bytes of one file of the log. Default 67,108,864.
    pub(crate) segment_bytes: u64,
}

impl Default for MessageSettings {
    fn default() -> Self {
        let (log, shard) = (LogConfig::default(), drawbridge_broker::ShardConfig::default());
        Self {
            session_expiry_s_max: shard.session_expiry_s_max,
            queue_messages_max: shard.queue_messages_max,
            queue_bytes_max: shard.queue_bytes_max,
            bytes_max: log.bytes_max,
            age_s_max: log.age_max.as_secs(),
            segment_bytes: log.segment_bytes,
        }
    }
}

impl MessageSettings {
    fn log(&self) -> LogConfig {
        LogConfig {
            bytes_max: self.bytes_max,
            age_max: Duration::from_secs(self.age_s_max),
            segment_bytes: self.segment_bytes,
            ..LogConfig::default()
        }
    }
}

/// Opens the log, and asks admission how everybody stands who left something in it. `broken` is rung when the log
/// can store no more, because of a fault of ours: the server must end.
pub(crate) async fn open(
    data: &DataFolder,
    settings: &MessageSettings,
    clock: &Arc<dyn Clock>,
    admission: &Admission,
    broken: Arc<Notify>,
) -> Result<(Arc<MessageLog>, Durable), StartError> {
    let folder = data.path(FOLDER);
    let (config, clock) = (settings.log(), Arc::clone(clock));
    let shown = folder.display().to_string();
    let opened = tokio::task::spawn_blocking(move || {
        let disk = RealDisk::open(&folder).map_err(|source| LogError::Unreadable {
            file: "its folder".to_owned(),
            action: "opened",
            source,
        })?;
        let time = TimeBase { instant: clock.instant(), unix_ms: clock.now_ms() };
        MessageLog::open(Arc::new(disk), config, time, Arc::new(move || clock.instant()))
    })
    .await?
    .map_err(|error| fault(&shown, &error))?;
    let is_empty = opened.image.references.is_empty() && opened.image.sessions.is_empty();
    let standing = match is_empty {
        true => drawbridge_admission::Standing::new(),
        false => admission.standings(concerned(&opened)).await?,
    };
    tracing::info!(
        sessions = opened.image.sessions.len(),
        retained = opened.retained.len(),
        messages = opened.image.references.len(),
        "the message log is open"
    );
    let news = StorageNews::new();
    let log = opened.log.start(news.clone(), move || broken.notify_one());
    let log = Arc::new(log.map_err(|error| fault(&shown, &error))?);
    let restored = Restored { image: Arc::new(opened.image), retained: opened.retained, standing };
    Ok((Arc::clone(&log), Durable { storage: log, restored, news }))
}

/// Who owns a session or published a retained message; not the server, which is no principal.
fn concerned(opened: &Opened) -> BTreeSet<(RegistryName, Uid)> {
    let sessions = opened.image.sessions.values().map(|image| &image.session);
    let owners = sessions.map(|session| (session.registry.clone(), session.uid));
    let retained = opened.retained.iter().map(|(_, message)| message);
    let publishers = retained.map(|message| (message.registry.clone(), message.publisher.uid));
    owners.chain(publishers).filter(|(_, uid)| *uid != Publisher::SERVER).collect()
}

fn fault(folder: &str, error: &LogError) -> StartError {
    format!("[{}] {folder}: {error}", error.code()).into()
}
