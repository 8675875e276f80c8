//! What has to be done from time to time without anybody asking.

use crate::Admission;

impl Admission {
    /// Does what is due; to be called every few seconds. A fault is logged, and the rest is done
    /// nevertheless: what is due stays due.
    pub async fn maintain(&self) {
        let began = self.inner.clock.instant();
        self.maintain_keys().await;
        self.maintain_last_used().await;
        if let Err(error) = self.maintain_issuer_keys().await {
            tracing::warn!("the keys of an issuer were not looked after: {error}");
        }
        self.maintain_audit(false).await;
        let took = self.inner.clock.instant().saturating_duration_since(began);
        tracing::trace!(?took, "maintenance");
    }

    /// As [`Self::maintain`], before the server stops: what waits in memory is written.
    pub async fn settle(&self) {
        self.maintain_last_used().await;
        self.maintain_audit(true).await;
    }
}
