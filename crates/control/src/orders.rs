//! Orders to devices, carried out: ask the right, record, send, answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drawbridge_admission::Clock;
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

    /// The bridge did not let it speak, although it might when it was asked here.
    fn no_more(&self, topic: String) -> ControlError {
        match self {
            // The server is asked for no right: it was the topic.
            Self::Admin => ControlError::NoControlTopic { topic },
            Self::Principal { name, .. } => no_more(name, topic),
        }
    }
}

fn no_more(sender: &PrincipalName, topic: String) -> ControlError {
    ControlError::Denied {
        sender: sender.clone(),
        topic,
        rule: "it was blocked or deleted, or its policy changed, meanwhile".to_owned(),
        code: "DB-3010",
        word: "publish-not-allowed",
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
    /// The device is connected and did not subscribe to its commands at QoS 1. It got nothing: a
    /// command at QoS 0 would leave its sender without an answer.
    NotSubscribed,
    /// The device is connected and subscribed, and may not receive the command. It got nothing.
    Withheld,
    /// The device got it and refused it, by a PUBACK with an error (MQTT 5 only).
    Rejected {
        /// Its reason code, 0x80 or above (MQTT 5.0 section 3.4.2.1).
        reason: u8,
    },
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
        let topic = order.topic.clone();
        match self.dispatch.send(order).await {
            DeliveryOutcome::Acknowledged => Ok(CommandDelivery::Acknowledged),
            DeliveryOutcome::Withheld => Ok(CommandDelivery::Withheld),
            DeliveryOutcome::Rejected { reason } => Ok(CommandDelivery::Rejected { reason }),
            DeliveryOutcome::Denied => Err(sender.no_more(topic)),
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
    /// unavailable, or lets the sender speak no more, the config is stored nevertheless and published
    /// at the next start.
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
        let topic = order.topic.clone();
        let outcome = self.publish_newest(version, order).await?;
        let delivered = match outcome {
            DeliveryOutcome::Acknowledged => {
                self.store.ack_config(registry, uid, version, self.clock.now_ms()).await?;
                ConfigDelivery::Acknowledged
            }
            DeliveryOutcome::Unavailable => return Err(ControlError::BridgeUnavailable),
            DeliveryOutcome::Denied => return Err(sender.no_more(topic)),
            // Whatever the device does with it now: it gets it again whenever it subscribes.
            DeliveryOutcome::Stored
            | DeliveryOutcome::NotConnected
            | DeliveryOutcome::NotSubscribed
            | DeliveryOutcome::Withheld
            | DeliveryOutcome::Rejected { .. }
            | DeliveryOutcome::TimedOut => ConfigDelivery::Stored,
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
            let is_out = !matches!(outcome, DeliveryOutcome::Unavailable | DeliveryOutcome::Denied);
            if newest.version == published || !is_out {
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
        let ClientControlPublish { registry, topic, payload, publisher, publisher_name, publisher_kind } =
            publish;
        let control = TopicName::parse(&topic).ok().and_then(ControlTopic::parse);
        let Some(control) = control else { return Err(ControlError::NoControlTopic { topic }) };
        let device = PrincipalName::parse(control.device())
            .map_err(|_| ControlError::NoControlTopic { topic: topic.clone() })?;
        fits(&payload)?;
        let uid = self.device(&registry, &device).await?;
        let who = actor(publisher_kind, &publisher_name);
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
                // Whoever watches the topic has it already: the broker routes a state as any message.
                self.store.add_state(&order.registry, uid, report).await?;
                return Ok(());
            }
        };
        match outcome {
            DeliveryOutcome::Unavailable => Err(ControlError::BridgeUnavailable),
            DeliveryOutcome::Denied => Err(no_more(&publisher_name, topic)),
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    use drawbridge_names::{Epoch, PolicyName};
    use drawbridge_policy::{Policy, Variables};
    use drawbridge_registry::memory::MemoryStore;
    use drawbridge_registry::{AddPrincipal, AddRegistry, Principal, RegistryRecord};

    use super::*;

    /// Keeps what it was asked to send, and answers as it was told.
    #[derive(Default)]
    struct FakeBridge {
        sent: Mutex<Vec<DeviceOrder>>,
        answers: Mutex<VecDeque<DeliveryOutcome>>,
    }

    #[async_trait]
    impl Dispatch for FakeBridge {
        async fn send(&self, order: DeviceOrder) -> DeliveryOutcome {
            self.sent.lock().expect("not poisoned").push(order);
            self.answers.lock().expect("not poisoned").pop_front().unwrap_or(DeliveryOutcome::Stored)
        }
    }

    struct FixedClock;

    impl Clock for FixedClock {
        fn now_ms(&self) -> u64 {
            1_795_301_000_000
        }

        fn instant(&self) -> std::time::Instant {
            unreachable!("control measures no time; whoever dispatches does")
        }
    }

    /// The core knows no runtime: with the memory store every future is ready as soon as it is asked.
    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("nothing here has to wait"),
        }
    }

    struct World {
        control: Control,
        bridge: Arc<FakeBridge>,
        store: Arc<MemoryStore>,
    }

    impl World {
        /// Registry `default` with the devices `lamp` (uid 1) and `pump` (uid 2), and the application
        /// `backend` (uid 3).
        fn new() -> Self {
            let store = Arc::new(MemoryStore::new());
            let bridge = Arc::new(FakeBridge::default());
            now(async {
                let record = RegistryRecord {
                    name: registry(),
                    issuer: "https://localhost".into(),
                    bridge_audience: "https://localhost/mqtt".into(),
                    clock_skew_s: 60,
                    token_life_s: 3600,
                    google: None,
                    settings: Default::default(),
                    created_s: 0,
                };
                let added = store.add_registry(record, entry()).await.expect("memory");
                assert_eq!(added, AddRegistry::Added);
                let kinds = [PrincipalKind::Device, PrincipalKind::Device, PrincipalKind::Application];
                for ((uid, text), kind) in (1..).zip(["lamp", "pump", "backend"]).zip(kinds) {
                    let principal = Principal {
                        registry: registry(),
                        uid: Uid(uid),
                        name: name(text),
                        kind,
                        blocked: false,
                        pending: false,
                        epoch: Epoch(0),
                        not_before_s: 0,
                        legacy_assertions: false,
                        policy: None,
                        attributes: Default::default(),
                        password: None,
                        settings: Default::default(),
                        enrolment: None,
                        registration: None,
                        created_s: 0,
                        revision: 1,
                    };
                    let added = store.add_principal(principal, vec![], entry()).await.expect("memory");
                    assert_eq!(added, AddPrincipal::Added);
                }
            });
            let control = Control::new(store.clone(), bridge.clone(), Arc::new(FixedClock));
            Self { control, bridge, store }
        }

        fn answer(&self, outcomes: &[DeliveryOutcome]) {
            self.bridge.answers.lock().expect("not poisoned").extend(outcomes);
        }

        fn sent(&self) -> Vec<DeviceOrder> {
            std::mem::take(&mut *self.bridge.sent.lock().expect("not poisoned"))
        }

        fn command(
            &self,
            sender: Sender<'_>,
            device: &str,
            payload: Vec<u8>,
        ) -> Result<CommandDelivery, ControlError> {
            let wait = Duration::from_secs(10);
            now(self.control.send_command(&registry(), sender, &name(device), None, payload, wait))
        }

        fn config(&self, device: &str, text: &str, expected: Option<u64>) -> Result<ConfigSet, ControlError> {
            let wait = Duration::from_secs(2);
            now(self.control.set_config(
                &registry(),
                Sender::Admin,
                &name(device),
                text.into(),
                expected,
                wait,
            ))
        }

        fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), ControlError> {
            now(self.control.client_publish(ClientControlPublish {
                registry: registry(),
                topic: topic.into(),
                payload: payload.into(),
                publisher: Uid(3),
                publisher_name: name("backend"),
                publisher_kind: PrincipalKind::Application,
            }))
        }

        fn audited(&self) -> Vec<(String, String, String)> {
            now(self.store.audit_tail(&registry(), None, 100))
                .expect("memory")
                .into_iter()
                .map(|row| (row.entry.actor, row.entry.action, row.entry.subject))
                .filter(|(_, action, _)| action != "test")
                .collect()
        }
    }

    fn registry() -> RegistryName {
        RegistryName::default_registry()
    }

    fn name(text: &str) -> PrincipalName {
        PrincipalName::parse(text).expect(text)
    }

    fn entry() -> AuditEntry {
        AuditEntry {
            at_ms: 0,
            actor: "server".into(),
            action: "test".into(),
            subject: String::new(),
            detail: "{}".into(),
        }
    }

    fn rights(source: &str) -> Rights {
        let policy = Policy::parse(&PolicyName::parse("p").expect("p"), source).expect(source);
        let variables =
            Variables { device: &name("backend"), registry: &registry(), attributes: &Default::default() };
        policy.compile(&variables).expect(source)
    }

    #[test]
    fn a_command_goes_out_at_qos_1_is_never_kept_and_answers_what_became_of_it() {
        let world = World::new();
        let table = [
            (DeliveryOutcome::Acknowledged, Ok(CommandDelivery::Acknowledged)),
            (DeliveryOutcome::NotConnected, Ok(CommandDelivery::NotConnected)),
            (DeliveryOutcome::NotSubscribed, Ok(CommandDelivery::NotSubscribed)),
            (DeliveryOutcome::TimedOut, Ok(CommandDelivery::TimedOut)),
            (DeliveryOutcome::Withheld, Ok(CommandDelivery::Withheld)),
            (DeliveryOutcome::Rejected { reason: 0x87 }, Ok(CommandDelivery::Rejected { reason: 0x87 })),
            (DeliveryOutcome::Stored, Ok(CommandDelivery::TimedOut)),
            (DeliveryOutcome::Unavailable, Err("bridge-unavailable")),
        ];
        for (outcome, expected) in table {
            world.answer(&[outcome]);
            let answer = world.command(Sender::Admin, "lamp", b"on".to_vec()).map_err(|error| error.word());
            assert_eq!(answer, expected, "{outcome:?}");
            let sent = world.sent();
            assert_eq!(sent.len(), 1);
            let order = &sent[0];
            assert_eq!((order.topic.as_str(), order.qos, order.retain), ("devices/lamp/commands", 1, false));
            assert_eq!((order.device, order.to_device), (Uid(1), true));
            assert_eq!((&*order.payload, order.publisher), (&b"on"[..], Publisher::Server));
        }
    }

    #[test]
    fn only_who_may_publish_to_exactly_this_topic_may_command_and_the_refusal_names_the_rule() {
        let world = World::new();
        let backend = name("backend");
        let send = |source: &str, device: &str| {
            let rights = rights(source);
            let sender = Sender::Principal {
                uid: Uid(3),
                name: &backend,
                kind: PrincipalKind::Application,
                rights: &rights,
            };
            world.command(sender, device, b"on".to_vec())
        };
        world.answer(&[DeliveryOutcome::Denied]);
        let error = send("[[allow]]\npublish = [\"devices/lamp/commands\"]", "lamp").expect_err("blocked");
        assert_eq!((error.code(), error.word()), ("DB-3010", "publish-not-allowed"));
        world.sent();
        assert!(send("[[allow]]\npublish = [\"devices/lamp/commands\"]", "lamp").is_ok());
        assert_eq!(world.sent()[0].publisher, Publisher::Principal(Uid(3)));
        let record = || ("app:backend".to_owned(), "command.send".to_owned(), "lamp".to_owned());
        assert_eq!(world.audited(), [record(), record()]);

        let refused = [
            ("[[allow]]\npublish = [\"devices/lamp/commands\"]", "pump", "no rule"),
            (
                "[[allow]]\npublish = [\"devices/lamp/commands/#\"]\n[[deny]]\npublish = [\"#\"]",
                "lamp",
                "deny[0]",
            ),
            ("[[allow]]\nsubscribe = [\"#\"]", "lamp", "no rule"),
            // Not even whether a device exists is told to who may not command it.
            ("[[allow]]\npublish = [\"devices/lamp/commands\"]", "ghost", "no rule"),
        ];
        for (source, device, rule) in refused {
            let error = send(source, device).expect_err(source);
            assert_eq!((error.code(), error.word()), ("DB-3010", "publish-not-allowed"), "{source}");
            assert!(error.to_string().contains(rule), "{error}");
        }
        assert!(world.sent().is_empty(), "a refused command leaves no message");
        assert_eq!(world.audited().len(), 2, "and no record of having been sent");
    }

    #[test]
    fn a_command_for_nobody_or_too_long_is_refused() {
        let world = World::new();
        let word = |device: &str, payload: Vec<u8>| {
            world.command(Sender::Admin, device, payload).map_err(|error| error.word())
        };
        assert_eq!(word("ghost", vec![]), Err("no-such-device"));
        assert_eq!(word("backend", vec![]), Err("no-such-device"), "an application takes no commands");
        assert_eq!(word("lamp", vec![0; PAYLOAD_BYTES_MAX + 1]), Err("payload-too-long"));
        assert!(world.sent().is_empty());
        assert!(word("lamp", vec![0; PAYLOAD_BYTES_MAX]).is_ok());
    }

    #[test]
    fn a_config_is_versioned_retained_and_set_only_over_the_version_that_was_seen() {
        let world = World::new();
        world.answer(&[DeliveryOutcome::Acknowledged, DeliveryOutcome::NotConnected]);
        let set = world.config("lamp", "a", None).expect("the first");
        assert_eq!(set, ConfigSet { version: 1, delivered: ConfigDelivery::Acknowledged });
        let set = world.config("lamp", "b", Some(1)).expect("the second");
        assert_eq!(set, ConfigSet { version: 2, delivered: ConfigDelivery::Stored });
        for outcome in [
            DeliveryOutcome::Rejected { reason: 0x83 },
            DeliveryOutcome::NotSubscribed,
            DeliveryOutcome::Withheld,
        ] {
            world.answer(&[outcome]);
            let set = world.config("pump", "p", None).expect("stored");
            assert_eq!(set.delivered, ConfigDelivery::Stored, "{outcome:?}");
            let config = now(world.control.config(&registry(), &name("pump"))).expect("memory").expect("set");
            assert_eq!(config.acked_ms, None, "{outcome:?}");
        }
        let error = world.config("lamp", "c", Some(1)).expect_err("stale");
        assert!(matches!(error, ControlError::StaleVersion { expected: 1, current: 2 }), "{error:?}");
        assert_eq!(world.config("lamp", "c", Some(0)).expect_err("stale").word(), "stale-version");

        let mut sent = world.sent();
        sent.retain(|order| order.device == Uid(1));
        let said: Vec<_> = sent.iter().map(|o| (o.topic.as_str(), &*o.payload, o.qos, o.retain)).collect();
        let topic = "devices/lamp/config";
        assert_eq!(said, [(topic, &b"a"[..], 1, true), (topic, &b"b"[..], 1, true)]);
        let config = now(world.control.config(&registry(), &name("lamp"))).expect("memory").expect("set");
        assert_eq!((config.version, config.payload.as_slice(), config.acked_ms), (2, &b"b"[..], None));
    }

    #[test]
    fn what_is_retained_last_is_the_newest_config_also_when_two_are_set_at_once() {
        /// While the first version is on its way, the second is set and published.
        struct Overtaken {
            bridge: FakeBridge,
            store: Arc<MemoryStore>,
        }
        #[async_trait]
        impl Dispatch for Overtaken {
            async fn send(&self, order: DeviceOrder) -> DeliveryOutcome {
                if self.bridge.sent.lock().expect("not poisoned").is_empty() {
                    self.store
                        .set_config(&registry(), Uid(1), b"new".to_vec(), None, 0, entry())
                        .await
                        .expect("memory");
                    let second = DeviceOrder { payload: b"new".as_slice().into(), ..order.clone() };
                    self.bridge.send(second).await;
                }
                self.bridge.send(order).await
            }
        }
        let world = World::new();
        let bridge = Arc::new(Overtaken { bridge: FakeBridge::default(), store: world.store.clone() });
        let control = Control::new(world.store.clone(), bridge.clone(), Arc::new(FixedClock));
        now(control.set_config(
            &registry(),
            Sender::Admin,
            &name("lamp"),
            b"old".to_vec(),
            None,
            Duration::ZERO,
        ))
        .expect("set");
        let sent = bridge.bridge.sent.lock().expect("not poisoned");
        let payloads: Vec<_> = sent.iter().map(|order| &*order.payload).collect();
        assert_eq!(payloads, [&b"new"[..], b"old", b"new"]);
    }

    #[test]
    fn a_publish_by_mqtt_is_the_same_operation_recorded_and_versioned() {
        let world = World::new();
        world.publish("devices/lamp/commands/light", b"on").expect("a command");
        world.publish("devices/lamp/config", b"c").expect("a config");
        world.publish("devices/lamp/state", b"s").expect("a state");
        let sent = world.sent();
        let said: Vec<_> = sent
            .iter()
            .map(|o| (o.topic.as_str(), &*o.payload, o.retain, o.to_device, o.publisher))
            .collect();
        let by = Publisher::Principal(Uid(3));
        assert_eq!(
            said,
            [
                ("devices/lamp/commands/light", &b"on"[..], false, false, by),
                ("devices/lamp/config", b"c", true, false, by),
            ]
        );
        let who = || ("app:backend".to_owned(), String::new(), "lamp".to_owned());
        let expected = ["config.set", "command.send"].map(|action| (who().0, action.to_owned(), who().2));
        assert_eq!(world.audited(), expected);
        let config = now(world.control.config(&registry(), &name("lamp"))).expect("memory").expect("set");
        assert_eq!((config.version, config.payload.as_slice()), (1, &b"c"[..]));
        let states = now(world.control.states(&registry(), &name("lamp"))).expect("memory");
        assert_eq!(states.len(), 1);
        assert_eq!(states[0].payload, b"s");
    }

    #[test]
    fn a_publish_that_is_no_operation_or_for_nobody_is_refused() {
        let world = World::new();
        for (topic, word) in [
            ("devices/lamp/events", "no-control-topic"),
            ("devices/ghost/config", "no-such-device"),
            ("devices/backend/commands", "no-such-device"),
            ("devices/lamp/commands/", "bad-subfolder"),
            ("devices/lamp/commands/a//b", "bad-subfolder"),
        ] {
            assert_eq!(world.publish(topic, b"x").expect_err(topic).word(), word, "{topic}");
        }
        let long = vec![0; PAYLOAD_BYTES_MAX + 1];
        let error = world.publish("devices/lamp/state", &long).expect_err("too long");
        assert_eq!(error.word(), "payload-too-long");
        world.answer(&[DeliveryOutcome::Denied]);
        let error = world.publish("devices/lamp/commands", b"x").expect_err("blocked meanwhile");
        assert_eq!(error.word(), "publish-not-allowed");
        world.answer(&[DeliveryOutcome::Unavailable]);
        let error = world.publish("devices/lamp/commands", b"x").expect_err("bridge down");
        assert_eq!(error.word(), "bridge-unavailable");
    }

    #[test]
    fn at_start_every_stored_config_is_published_retained_and_a_deleted_devices_is_taken_away() {
        let world = World::new();
        world.config("lamp", "l", None).expect("lamp");
        world.config("pump", "p1", None).expect("pump");
        world.config("pump", "p2", None).expect("pump");
        world.sent();
        assert_eq!(now(world.control.publish_stored_configs()).expect("memory"), 2);
        let sent = world.sent();
        let said: Vec<_> =
            sent.iter().map(|o| (o.topic.as_str(), &*o.payload, o.retain, o.to_device)).collect();
        assert_eq!(
            said,
            [("devices/lamp/config", &b"l"[..], true, false), ("devices/pump/config", b"p2", true, false),]
        );
        now(world.control.forget(&registry(), &name("lamp"), Uid(1))).expect("sent");
        let sent = world.sent();
        assert_eq!(
            (sent[0].topic.as_str(), sent[0].payload.len(), sent[0].retain),
            ("devices/lamp/config", 0, true)
        );
    }
}
