//! The limit of open files: raised at start, and the ceiling on connections that follows from it.

use rlimit::Resource;

use crate::BridgeError;

/// What became of the limit of open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// Soft limit found at start.
    pub soft_before: u64,
    /// Soft limit now; equal to `soft_before` when the system refused to raise it.
    pub soft_after: u64,
    /// Hard limit: as far as an unprivileged process may go.
    pub hard: u64,
}

/// Raises the soft limit of open files to the hard one and says what it found. A refusal by the
/// system is not an error: the server runs with what it has, and [`crate::Bridge`] refuses new
/// connections before the limit is hit.
#[must_use]
pub fn raise_open_files() -> OpenFiles {
    let (soft_before, hard) = Resource::NOFILE.get().unwrap_or((FALLBACK_SOFT, FALLBACK_SOFT));
    // The limit of a process may be "infinite"; what is asked for must still fit the system.
    let raised = rlimit::increase_nofile_limit(hard).unwrap_or(soft_before);
    OpenFiles { soft_before, soft_after: raised.max(soft_before), hard }
}

/// POSIX's least, assumed when the limit cannot be read.
const FALLBACK_SOFT: u64 = 256;

/// Descriptors kept back for the store, HTTP, logs and the polls themselves.
const RESERVE: u64 = 256;

/// How many connections fit under the soft limit of open files.
pub(crate) fn connections_fitting() -> Result<usize, BridgeError> {
    let soft = Resource::NOFILE.get().map_or(FALLBACK_SOFT, |(soft, _)| soft);
    fitting(soft)
}

fn fitting(soft: u64) -> Result<usize, BridgeError> {
    // A small limit keeps a quarter back: a development machine with 256 files should still serve.
    let reserve = RESERVE.min(soft / 4);
    let wanted_min = 16;
    if soft < wanted_min {
        return Err(BridgeError::OpenFiles { soft, reserve, wanted_min });
    }
    Ok(usize::try_from(soft - reserve).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_on_connections_leaves_files_for_the_store_and_http() {
        for (soft, fit) in [(16, 12), (256, 192), (1024, 768), (65_536, 65_280)] {
            assert_eq!(fitting(soft).expect("fits"), fit, "soft limit {soft}");
        }
        assert_eq!(fitting(8).expect_err("too few").code(), "DB-2063");
    }

    #[test]
    fn raising_the_limit_never_lowers_it() {
        let found = raise_open_files();
        assert!(found.soft_after >= found.soft_before && found.hard >= found.soft_before, "{found:?}");
    }
}
