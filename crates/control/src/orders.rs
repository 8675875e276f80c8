//! Orders to devices, carried out: ask the right, record, send, answer.

use std::sync::Arc;
use std::time::Duration;

use crate::Clock;
use async_trait::async_trait;
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName, TopicName, Uid};
use drawbridge_policy::Rights;
use drawbridge_registry::{AuditEntry, ConfigVersion, SetConfig, StateReport, Store};

use crate::dispatch::{
    ClientControlPublish, ControlPublishes, DeliveryOutcome, DeviceOrder, Dispatch, Publisher,
};
use crate::topic::{ControlTopic, command_topic, config_topic};
use crate::{ControlError, PAYLOAD_BYTES_MAX};

/// How many stored configs are read and published at a time.
const CONFIG_PAGE: usize = 256;

/// Who gives an order.
#[derive(Debug, Clone, Copy)]
pub enum Sender<'a> {
    /// The operator. Operator functions are roles, not topics: no topic right is asked.
    Admin,
    /// A principal; its rights decide.
    Principal {
        /// Its number.
        uid: Uid,
        /// Its name.
        name: &'a PrincipalName,
        /// What it is.
        kind: PrincipalKind,
        /// What it may do now: its policy, narrowed by its token.
        rights: &'a Rights,
    },
}

impl Sender<'_> {
    fn publisher(&self) -> Publisher {
        match self {
            Self::Admin => Publisher::Server,
            Self::Principal { uid, .. } => Publisher::Principal(*uid),
        }
    }

    fn actor(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Principal { name, kind, .. } => actor(*kind, name),
        }
    }

    /// The one question: may it publish to exactly this topic?
    fn may_publish(&self, topic: &str) -> Result<(), ControlError> {
        let Self::Principal { name, rights, .. } = self else { return Ok(()) };
        let parsed =
            TopicName::parse(topic).map_err(|_| ControlError::NoControlTopic { topic: topic.to_owned() })?;
        let decision = rights.may_publish(parsed);
        if decision.allowed {
            return Ok(());
        }
        Err(ControlError::Denied {
            sender: (*name).clone(),
            topic: topic.to_owned(),
            rule: decision.to_string(),
            code: decision.code().unwrap_or("DB-3010"),
            word: decision.word().unwrap_or("publish-not-allowed"),
        })
    }
}

/// How an actor is written in the audit.
fn actor(kind: PrincipalKind, name: &PrincipalName) -> String {
    match kind {
        PrincipalKind::Device => format!("device:{name}"),
        PrincipalKind::Application => format!("app:{name}"),
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandDelivery {
    /// The device sent its PUBACK.
    Acknowledged,
    /// The device has no live session. A command is never kept for later.
    NotConnected,
    /// The device is connected and did not subscribe to its commands.
    NotSubscribed,
    /// No PUBACK within the wait. The device may have obeyed nevertheless.
    TimedOut,
}

/// What became of a config, besides being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigDelivery {
    /// The device has it: its PUBACK came within the wait.
    Acknowledged,
    /// It waits for the device as a retained message.
    Stored,
}

/// Answer of [`Control::set_config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigSet {
    /// The new version, from 1.
    pub version: u64,
    /// Whether the device has it already.
    pub delivered: ConfigDelivery,
}

/// Commands, configs and states of the devices of all registries.
pub struct Control {
    store: Arc<dyn Store>,
    dispatch: Arc<dyn Dispatch>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Control over the devices of a store, through a bridge.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, dispatch: Arc<dyn Dispatch>, clock: Arc<dyn Clock>) -> Self {
        Self { store, dispatch, clock }
    }

    /// Sends a command at QoS 1 to `devices/{device}/commands[/{subfolder}]` and answers when the
    /// device acknowledged it, at once when it is not there, or after `wait`.
    ///
    /// # Errors
    /// [`ControlError`] when the sender may not, the device does not exist, the payload or subfolder
    /// is not usable, or the store or bridge fails. Nothing was sent then.
    pub async fn send_command(
        &self,
        registry: &RegistryName,
        sender: Sender<'_>,
        device: &PrincipalName,
        subfolder: Option<&str>,
        payload: Vec<u8>,
        wait: Duration,
    ) -> Result<CommandDelivery, ControlError> {
        let topic = command_topic(device, subfolder)?;
        // The right before the device: who may not command learns nothing about who exists.
        sender.may_publish(&topic)?;
        fits(&payload)?;
        let uid = self.device(registry, device).await?;
        // Record before sending: a crash leaves a record of a command that never went out, the other
        // order a command without a record.
        let audit = self.audit(sender.actor(), "command.send", device, &topic, payload.len());
        self.store.record(registry, audit).await?;
        let order = DeviceOrder {
            registry: registry.clone(),
            device: uid,
            topic,
            payload: payload.into(),
            qos: 1,
            retain: false,
            to_device: true,
            publisher: sender.publisher(),
            wait,
        };
        match self.dispatch.send(order).await {
            DeliveryOutcome::Acknowledged => Ok(CommandDelivery::Acknowledged),
            DeliveryOutcome::NotConnected => Ok(CommandDelivery::NotConnected),
            DeliveryOutcome::NotSubscribed => Ok(CommandDelivery::NotSubscribed),
            // `Stored` promises nothing about the device, so it is no success here.
            DeliveryOutcome::TimedOut | DeliveryOutcome::Stored => Ok(CommandDelivery::TimedOut),
            DeliveryOutcome::Unavailable => Err(ControlError::BridgeUnavailable),
        }
    }

    /// Stores a config under a new version and publishes it, retained and at QoS 1, on
    /// `devices/{device}/config`. With `expected`, only if that is the current version (0: none yet).
    /// `wait`: how long to wait for the PUBACK of a device that is connected.
    ///
    /// # Errors
    /// [`ControlError`] as for a command, and [`ControlError::StaleVersion`]. When the bridge is
    /// unavailable the config is stored nevertheless and published at the next start.
    pub async fn set_config(
        &self,
        registry: &RegistryName,
        sender: Sender<'_>,
        device: &PrincipalName,
        payload: Vec<u8>,
        expected: Option<u64>,
        wait: Duration,
    ) -> Result<ConfigSet, ControlError> {
        let topic = config_topic(device);
        sender.may_publish(&topic)?;
        fits(&payload)?;
        let uid = self.device(registry, device).await?;
        let audit = self.audit(sender.actor(), "config.set", device, &topic, payload.len());
        let version = match self
            .store
            .set_config(registry, uid, payload.clone(), expected, self.clock.now_ms(), audit)
            .await?
        {
            SetConfig::Set { version } => version,
            SetConfig::Stale { version } => {
                return Err(ControlError::StaleVersion { expected: expected.unwrap_or(0), current: version });
            }
            SetConfig::NotFound => return Err(no_such_device(registry, device)),
        };
        let order = DeviceOrder {
            registry: registry.clone(),
            device: uid,
            topic,
            payload: payload.into(),
            qos: 1,
            retain: true,
            to_device: !wait.is_zero(),
            publisher: sender.publisher(),
            wait,
        };
        let outcome = self.publish_newest(version, order).await?;
        let delivered = match outcome {
            DeliveryOutcome::Acknowledged => {
                self.store.ack_config(registry, uid, version, self.clock.now_ms()).await?;
                ConfigDelivery::Acknowledged
            }
            DeliveryOutcome::Unavailable => return Err(ControlError::BridgeUnavailable),
            _ => ConfigDelivery::Stored,
        };
        Ok(ConfigSet { version, delivered })
    }

    /// Publishes a config, and again whichever is newest then, until what was published last is the
    /// newest. Two settings at once could otherwise leave the older one as the retained message:
    /// each of them looks after its own publish, so the last publish is of the newest version.
    async fn publish_newest(
        &self,
        version: u64,
        order: DeviceOrder,
    ) -> Result<DeliveryOutcome, ControlError> {
        let outcome = self.dispatch.send(order.clone()).await;
        let mut published = version;
        while let Some(newest) = self.store.config(&order.registry, order.device).await? {
            if newest.version == published || outcome == DeliveryOutcome::Unavailable {
                break;
            }
            published = newest.version;
            let again = DeviceOrder { payload: newest.payload.into(), to_device: false, ..order.clone() };
            self.dispatch.send(again).await;
        }
        Ok(outcome)
    }

    /// The newest config of a device.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`], or the store failed.
    pub async fn config(
        &self,
        registry: &RegistryName,
        device: &PrincipalName,
    ) -> Result<Option<ConfigVersion>, ControlError> {
        let uid = self.device(registry, device).await?;
        Ok(self.store.config(registry, uid).await?)
    }

    /// The states that a device reported, newest first, at most 10.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`], or the store failed.
    pub async fn states(
        &self,
        registry: &RegistryName,
        device: &PrincipalName,
    ) -> Result<Vec<StateReport>, ControlError> {
        let uid = self.device(registry, device).await?;
        Ok(self.store.states(registry, uid).await?)
    }

    /// Publishes every stored config as a retained message, page by page; to be called once at start,
    /// while retained messages live in memory. Answers how many.
    ///
    /// # Errors
    /// The store failed, or [`ControlError::BridgeUnavailable`].
    pub async fn publish_stored_configs(&self) -> Result<usize, ControlError> {
        let mut count = 0;
        for registry in self.store.registries().await? {
            let mut after: Option<PrincipalName> = None;
            loop {
                let page = self.store.configs(&registry.name, after.as_ref(), CONFIG_PAGE).await?;
                after = page.last().map(|(name, ..)| name.clone());
                for (name, uid, config) in page {
                    self.retain(&registry.name, &name, uid, config.payload).await?;
                    count += 1;
                }
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(count)
    }

    /// Takes the retained config of a deleted device away, so that a later device of the same name
    /// does not get it.
    ///
    /// # Errors
    /// [`ControlError::BridgeUnavailable`].
    pub async fn forget(
        &self,
        registry: &RegistryName,
        device: &PrincipalName,
        uid: Uid,
    ) -> Result<(), ControlError> {
        self.retain(registry, device, uid, Vec::new()).await
    }

    async fn retain(
        &self,
        registry: &RegistryName,
        device: &PrincipalName,
        uid: Uid,
        payload: Vec<u8>,
    ) -> Result<(), ControlError> {
        let order = DeviceOrder {
            registry: registry.clone(),
            device: uid,
            topic: config_topic(device),
            payload: payload.into(),
            qos: 1,
            retain: true,
            to_device: false,
            publisher: Publisher::Server,
            wait: Duration::ZERO,
        };
        match self.dispatch.send(order).await {
            DeliveryOutcome::Unavailable => Err(ControlError::BridgeUnavailable),
            _ => Ok(()),
        }
    }

    async fn device(&self, registry: &RegistryName, name: &PrincipalName) -> Result<Uid, ControlError> {
        match self.store.known(registry, name).await? {
            Some(known) if known.principal.kind == PrincipalKind::Device => Ok(known.principal.uid),
            _ => Err(no_such_device(registry, name)),
        }
    }

    fn audit(
        &self,
        actor: String,
        action: &str,
        subject: &PrincipalName,
        topic: &str,
        payload_bytes: usize,
    ) -> AuditEntry {
        AuditEntry {
            at_ms: self.clock.now_ms(),
            actor,
            action: action.to_owned(),
            subject: subject.to_string(),
            detail: serde_json::json!({ "topic": topic, "payload_bytes": payload_bytes }).to_string(),
        }
    }
}

#[async_trait]
impl ControlPublishes for Control {
    async fn client_publish(&self, publish: ClientControlPublish) -> Result<(), ControlError> {
        let ClientControlPublish { registry, topic, payload, qos, retain, publisher, .. } = publish;
        let control = TopicName::parse(&topic).ok().and_then(ControlTopic::parse);
        let Some(control) = control else { return Err(ControlError::NoControlTopic { topic }) };
        let device = PrincipalName::parse(control.device())
            .map_err(|_| ControlError::NoControlTopic { topic: topic.clone() })?;
        fits(&payload)?;
        let uid = self.device(&registry, &device).await?;
        let who = actor(publish.publisher_kind, &publish.publisher_name);
        let mut order = DeviceOrder {
            registry,
            device: uid,
            topic: String::new(),
            payload,
            qos: 1,
            retain: false,
            to_device: false,
            publisher: Publisher::Principal(publisher),
            wait: Duration::ZERO,
        };
        let outcome = match control {
            ControlTopic::Command { subfolder, .. } => {
                order.topic = command_topic(&device, subfolder)?;
                let audit = self.audit(who, "command.send", &device, &order.topic, order.payload.len());
                self.store.record(&order.registry, audit).await?;
                self.dispatch.send(order).await
            }
            ControlTopic::Config { .. } => {
                order.topic = config_topic(&device);
                order.retain = true;
                let audit = self.audit(who, "config.set", &device, &order.topic, order.payload.len());
                let payload = order.payload.to_vec();
                let set =
                    self.store.set_config(&order.registry, uid, payload, None, self.clock.now_ms(), audit);
                match set.await? {
                    SetConfig::Set { version } => self.publish_newest(version, order).await?,
                    _ => return Err(no_such_device(&order.registry, &device)),
                }
            }
            ControlTopic::State { .. } => {
                let report =
                    StateReport { payload: order.payload.to_vec(), received_ms: self.clock.now_ms() };
                self.store.add_state(&order.registry, uid, report).await?;
                order.qos = qos.min(1);
                order.retain = retain;
                order.topic = topic;
                self.dispatch.send(order).await
            }
        };
        match outcome {
            DeliveryOutcome::Unavailable => Err(ControlError::BridgeUnavailable),
            _ => Ok(()),
        }
    }
}

fn no_such_device(registry: &RegistryName, device: &PrincipalName) -> ControlError {
    ControlError::NoSuchDevice { registry: registry.clone(), device: device.clone() }
}

fn fits(payload: &[u8]) -> Result<(), ControlError> {
    if payload.len() <= PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(ControlError::PayloadTooLong { found_bytes: payload.len(), bytes_max: PAYLOAD_BYTES_MAX })
}
