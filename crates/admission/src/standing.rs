//! How principals stand whose sessions and messages outlived the process.

use std::collections::HashMap;
use std::sync::Arc;

use drawbridge_names::{RegistryName, Uid};
use drawbridge_policy::Rights;

use crate::{Admission, AdmissionError};

/// What each may do by its policy; `None`: it is blocked, waits for approval, or is no more.
pub type Standing = HashMap<(RegistryName, Uid), Option<Arc<Rights>>>;

impl Admission {
    /// What a principal may do by its policy now; `None` when it is blocked, waits for approval, or is not
    /// there any more.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer.
    pub async fn standing_of(
        &self,
        registry: &RegistryName,
        uid: Uid,
    ) -> Result<Option<Arc<Rights>>, AdmissionError> {
        let known = self.inner.store.known_by_uid(registry, uid).await?;
        let admitted = known.filter(|known| !known.principal.blocked && !known.principal.pending);
        let Some(known) = admitted else { return Ok(None) };
        let (rights, _) = self.compiled(&known.principal).await?;
        Ok(Some(Arc::new(rights)))
    }

    /// How these stand, and everybody of all registries who is not admitted.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer.
    pub async fn standings(
        &self,
        of: impl IntoIterator<Item = (RegistryName, Uid)>,
    ) -> Result<Standing, AdmissionError> {
        let mut standing = Standing::new();
        for record in self.inner.store.registries().await? {
            for uid in self.inner.store.not_admitted(&record.name).await? {
                standing.insert((record.name.clone(), uid), None);
            }
        }
        for (registry, uid) in of {
            let key = (registry, uid);
            if !standing.contains_key(&key) {
                let rights = self.standing_of(&key.0, key.1).await?;
                standing.insert(key, rights);
            }
        }
        Ok(standing)
    }
}
