//! How principals stand whose sessions and messages outlived the process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use drawbridge_names::{RegistryName, Uid};
use drawbridge_policy::Rights;

use crate::{Admission, AdmissionError};

/// What each may do by its policy; `None`: it is blocked or waits for approval.
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
        Ok(self.standing_if_there(registry, uid).await?.flatten())
    }

    /// `None` for who is not there any more.
    async fn standing_if_there(
        &self,
        registry: &RegistryName,
        uid: Uid,
    ) -> Result<Option<Option<Arc<Rights>>>, AdmissionError> {
        let Some(known) = self.inner.store.known_by_uid(registry, uid).await? else { return Ok(None) };
        if known.principal.blocked || known.principal.pending {
            return Ok(Some(None));
        }
        let compiled = self.compiled(&known.principal).await?;
        Ok(Some(Some(Arc::new(compiled.anywhere))))
    }

    /// How these stand, and everybody of all registries who is not admitted. Who is not there any more is left
    /// out.
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
            if let Entry::Vacant(place) = standing.entry((registry, uid))
                && let Some(rights) = self.standing_if_there(&place.key().0, uid).await?
            {
                place.insert(rights);
            }
        }
        Ok(standing)
    }
}
