//! Gateways: which of them may act for which device. What they do for it is judged with each token.

use drawbridge_identity::Refusal;
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{Link, Principal};
use serde_json::json;

use crate::{Actor, Admission, AdmissionError, SessionsEnd, unavailable};

/// How many links are read at once when all of a gateway end.
const PAGE: usize = 500;

impl Admission {
    /// Lets a gateway act for a device; answers whether it could not before.
    ///
    /// # Errors
    /// [`AdmissionError::Gateway`] when the first is no gateway, or the second no device.
    pub async fn link(
        &self,
        registry: &RegistryName,
        gateway: &PrincipalName,
        device: &PrincipalName,
        actor: &Actor,
    ) -> Result<bool, AdmissionError> {
        let refuse = |name: &PrincipalName, why| Err(AdmissionError::Gateway { name: name.clone(), why });
        let (by, to) = (self.member(registry, gateway).await?, self.member(registry, device).await?);
        if !by.settings.gateway {
            return refuse(gateway, "is no gateway; `drawbridge device set ID --gateway true` makes it one");
        }
        if to.kind != PrincipalKind::Device {
            return refuse(device, "is no device; gateways act for devices only");
        }
        if by.uid == to.uid {
            return refuse(device, "acts for itself without a link");
        }
        let audit =
            self.audit(actor, "gateway.link", device.as_str(), &json!({ "gateway": gateway.as_str() }));
        match self.inner.store.link(registry, by.uid, to.uid, true, audit).await? {
            Link::Changed => Ok(true),
            Link::Unchanged => Ok(false),
            Link::NotFound => Err(AdmissionError::NoPrincipal(device.clone())),
        }
    }

    /// A gateway may act for a device no more: what it opened for it ends. Answers whether it could before.
    ///
    /// # Errors
    /// [`AdmissionError::NoPrincipal`].
    pub async fn unlink(
        &self,
        registry: &RegistryName,
        gateway: &PrincipalName,
        device: &PrincipalName,
        actor: &Actor,
    ) -> Result<bool, AdmissionError> {
        let (by, to) = (self.member(registry, gateway).await?, self.member(registry, device).await?);
        let audit =
            self.audit(actor, "gateway.unlink", device.as_str(), &json!({ "gateway": gateway.as_str() }));
        match self.inner.store.link(registry, by.uid, to.uid, false, audit).await? {
            Link::Changed => {}
            Link::Unchanged => return Ok(false),
            Link::NotFound => return Err(AdmissionError::NoPrincipal(device.clone())),
        }
        self.link_ended(registry, by.uid, &to);
        Ok(true)
    }

    /// Up to `limit` devices of a gateway after a name, in byte order of name.
    ///
    /// # Errors
    /// [`AdmissionError::NoPrincipal`].
    pub async fn devices_of(
        &self,
        registry: &RegistryName,
        gateway: &PrincipalName,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<PrincipalName>, AdmissionError> {
        let by = self.member(registry, gateway).await?;
        Ok(self.inner.store.linked_devices(registry, by.uid, after, limit).await?)
    }

    /// The gateways of a device, in byte order of name.
    ///
    /// # Errors
    /// [`AdmissionError::NoPrincipal`].
    pub async fn gateways_of(
        &self,
        registry: &RegistryName,
        device: &PrincipalName,
    ) -> Result<Vec<PrincipalName>, AdmissionError> {
        let to = self.member(registry, device).await?;
        Ok(self.inner.store.gateways_of(registry, to.uid).await?)
    }

    /// Whether a gateway may act for a device now, as far as the link says; that it still is a gateway, its
    /// record says.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn is_linked(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        device: Uid,
    ) -> Result<bool, Refusal> {
        self.inner.store.linked(registry, gateway, device).await.map_err(|error| unavailable(&error))
    }

    /// A principal is a gateway no more: what it opened for its devices ends. The links stay, and mean
    /// nothing until it is one again.
    pub(crate) async fn end_links_of(&self, gateway: &Principal) -> Result<(), AdmissionError> {
        let registry = &gateway.registry;
        let mut after: Option<PrincipalName> = None;
        loop {
            let store = &self.inner.store;
            let page = store.linked_devices(registry, gateway.uid, after.as_ref(), PAGE).await?;
            for name in &page {
                if let Some(known) = store.known(registry, name).await? {
                    self.link_ended(registry, gateway.uid, &known.principal);
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
            after = page.into_iter().next_back();
        }
    }

    fn link_ended(&self, registry: &RegistryName, gateway: Uid, device: &Principal) {
        self.inner.cache.principal_changed(registry, &device.name);
        self.tell(&SessionsEnd::Link { registry: registry.clone(), gateway, device: device.uid });
    }

    async fn member(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Principal, AdmissionError> {
        let known = self.show(registry, name).await?;
        known.map(|known| known.principal).ok_or_else(|| AdmissionError::NoPrincipal(name.clone()))
    }
}
