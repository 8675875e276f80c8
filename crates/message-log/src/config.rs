//! Settings of the log.

use std::time::Duration;

use crate::error::LogError;

/// Settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment is closed when it has as many bytes as this. Default 64 MiB, from 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// As much as the log takes on the disk, checkpoints apart, as long as retained messages leave room for
    /// anything else. When messages that are still owed alone take 7/10 of it, the oldest of the principals that are
    /// owed most are dropped.
    /// Default 4 GiB, at least 8 segments.
    pub bytes_max: u64,
    /// A message that nobody came for is dropped when it is older than this. Default 7 days. Retained messages
    /// stay.
    pub age_max: Duration,
    /// How long a batch that nobody waits for may stay unwritten. Default 1 s.
    pub patience: Duration,
    /// How long after a failed write the next is tried, not 0. Default 500 ms.
    pub retry: Duration,
    /// As much is written with one fsync at most. Default 4 MiB, to 1 GiB; one batch is never divided.
    pub group_bytes_max: usize,
    /// What stands is written down when the log has grown by so many bytes, and by as many as it takes itself.
    /// Default 64 MiB, from 4 KiB to 1 GiB. It bounds what is read again at the next start.
    pub checkpoint_bytes: u64,
    /// So many bytes of groups may be durable and not yet known to the housekeeping; then nothing is written until it
    /// has caught up. Default 64 MiB.
    pub backlog_bytes_max: u64,
    /// A write that takes longer than this, or a wait for the housekeeping, is said to be a stall. Default 10 s.
    pub hangs_after: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            bytes_max: 4 << 30,
            age_max: Duration::from_secs(7 * 86_400),
            patience: Duration::from_secs(1),
            retry: Duration::from_millis(500),
            group_bytes_max: 4 << 20,
            checkpoint_bytes: 64 << 20,
            backlog_bytes_max: 64 << 20,
            hangs_after: Duration::from_secs(10),
        }
    }
}

impl LogConfig {
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let group_bytes_max = self.group_bytes_max as u64;
        for (key, found, from) in [
            ("segment_bytes", self.segment_bytes, 4 << 10),
            ("checkpoint_bytes", self.checkpoint_bytes, 4 << 10),
            ("group_bytes_max", group_bytes_max, 1),
        ] {
            if !(from..=1 << 30).contains(&found) {
                let wanted = if from == 1 { "1 to 1073741824" } else { "4096 to 1073741824" };
                return Err(LogError::Config { key, found, wanted });
            }
        }
        if self.retry.is_zero() {
            return Err(LogError::Config { key: "retry", found: 0, wanted: "more than nothing" });
        }
        if self.bytes_max < 8 * self.segment_bytes {
            return Err(LogError::Config {
                key: "bytes_max",
                found: self.bytes_max,
                wanted: "8 times `segment_bytes` at least",
            });
        }
        Ok(())
    }
}
