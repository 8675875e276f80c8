//! Starting and stopping: one thread for each shard, and what they share.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use drawbridge_admission::{Admission, Clock, Way, Ways};
use drawbridge_broker::storage::Storage;
use drawbridge_broker::{Directory, Interest, Shard, ShardConfig};
use drawbridge_control::ControlPublishes;
use drawbridge_names::{PrincipalName, RegistryName};
use mio::Poll;
use tokio::sync::Notify;

use crate::changes::Changes;
use crate::driver::{Driver, WAKER};
use crate::gate::{Gate, Places};
use crate::handle::{BridgeHandle, Meter};
use crate::inbox::{Inbox, ToShard};
use crate::open_files::connections_fitting;
use crate::{BridgeConfig, BridgeError, HttpsEntrance, Listener, ListenerKind, ServerTls, statistics};

/// The running bridge. Dropping it ends it at once; [`Bridge::shutdown`] says goodbye first.
#[derive(Debug)]
pub struct Bridge {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    statistics: Option<tokio::task::AbortHandle>,
}

/// What all shards and all handles share. Nothing in it is locked for a message.
pub(crate) struct Shared {
    pub(crate) admission: Admission,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) control: OnceLock<Arc<dyn ControlPublishes>>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) storage: Option<Arc<dyn Storage>>,
    /// Those of the listeners, then those of WebSocket.
    pub(crate) doors: Vec<Door>,
    /// How many of them are of listeners.
    pub(crate) listeners: usize,
    pub(crate) connections: Places,
    /// Of these, those that wait until their address has room.
    pub(crate) patients: Places,
    /// Logins that admission judges now.
    pub(crate) logins: Places,
    pub(crate) handshake_time_per_turn: Duration,
    pub(crate) handshakes_waiting_max: usize,
    /// The highest number of a message when the bridge was started: those up to it are from before.
    pub(crate) restored_message_max: u64,
    pub(crate) connect_timeout: Duration,
    /// See [`BridgeConfig::renewed_session_max`].
    pub(crate) renewed_session_max: Option<Duration>,
    pub(crate) handshake_bytes_max: usize,
    /// What a client may send before it is admitted, in bytes of MQTT or WebSocket.
    pub(crate) early_bytes_max: usize,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) meters: Vec<Meter>,
    pub(crate) accepted: AtomicU64,
    /// Spreads those that no shard has accepted itself.
    pub(crate) next_shard: AtomicUsize,
    /// Sockets with an admitted session.
    pub(crate) sessions: AtomicUsize,
    /// Somebody has subscribed below `$SYS`.
    pub(crate) statistics_wanted: Arc<Notify>,
    /// Numbers the orders.
    pub(crate) orders: AtomicU64,
    /// The order of what shards are told of principals.
    pub(crate) changes: Changes,
}

/// A way in as all shards see it: a listener, or the upgrade to WebSocket.
#[derive(Debug)]
pub(crate) struct Door {
    /// With TLS of its own. The door of WebSocket has none: HTTPS has done the handshake.
    pub(crate) tls: Option<Arc<ServerTls>>,
    /// Where those of its clients go that speak HTTPS.
    pub(crate) https: Option<Arc<dyn HttpsEntrance>>,
    pub(crate) confidential: bool,
    pub(crate) anonymous_as: Option<PrincipalName>,
    pub(crate) registry: Option<RegistryName>,
    pub(crate) ways: Ways,
    pub(crate) gate: Gate,
}

impl Door {
    /// Of a listener, or of one of the places of WebSocket, where these ways are open.
    fn new(config: &BridgeConfig, listener: Option<&Listener>, web_socket_ways: Ways) -> Self {
        let (tls, https, anonymous_as) = match listener.map(|listener| &listener.kind) {
            Some(ListenerKind::Tls(config)) => (Some(ServerTls::fixed(Arc::clone(config))), None, None),
            Some(ListenerKind::ByHello { tls, https }) => (Some(Arc::clone(tls)), https.clone(), None),
            Some(ListenerKind::Plain { anonymous_as }) => (None, None, anonymous_as.clone()),
            None => (None, None, None),
        };
        Self {
            confidential: tls.is_some() || listener.is_none(),
            tls,
            https,
            anonymous_as,
            registry: listener.and_then(|listener| listener.registry.clone()),
            ways: listener.map_or(web_socket_ways, |listener| listener.ways),
            gate: Gate::new(config.unauthenticated_max, config.unauthenticated_per_address_max),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("doors", &self.doors)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Bridge {
    /// Starts the shards and accepts from then on. `runtime` runs what may wait: admission and
    /// control.
    ///
    /// # Errors
    /// [`BridgeError`] when a setting cannot work, a plaintext listener is not on loopback, or the
    /// system refuses.
    pub fn start(
        mut config: BridgeConfig,
        admission: Admission,
        clock: Arc<dyn Clock>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, BridgeError> {
        config.check()?;
        let fitting = connections_fitting()?;
        let connections_max = config.connections_max.map_or(fitting, |max| max.min(fitting));
        let mut polls = Vec::with_capacity(config.shards);
        let mut inboxes = Vec::with_capacity(config.shards);
        for _ in 0..config.shards {
            let poll = Poll::new().map_err(system("a poll"))?;
            inboxes.push(Inbox::new(poll.registry(), WAKER).map_err(system("the waker of a shard"))?);
            polls.push(poll);
        }
        let durable = config.storage.take();
        let listeners =
            config.listeners.iter().map(|listener| Door::new(&config, Some(listener), listener.ways));
        let web_sockets = config.web_socket_ways.iter().map(|ways| Door::new(&config, None, *ways));
        let doors = listeners.chain(web_sockets).collect();
        let directory = Arc::new(Directory::new());
        let shared = Arc::new(Shared {
            admission,
            clock,
            runtime,
            control: OnceLock::new(),
            directory: Arc::clone(&directory),
            storage: durable.as_ref().map(|durable| Arc::clone(&durable.storage)),
            doors,
            listeners: config.listeners.len(),
            connections: Places::new(connections_max),
            // Who waits must not take all that is left for others.
            patients: Places::new(config.address_queue_max.min(connections_max / 2)),
            logins: Places::new(config.logins_max),
            handshake_time_per_turn: config.handshake_time_per_turn,
            handshakes_waiting_max: config.handshakes_waiting_max,
            restored_message_max: durable.as_ref().map_or(0, |durable| durable.restored.image.message_max),
            connect_timeout: config.connect_timeout,
            renewed_session_max: config.renewed_session_max,
            handshake_bytes_max: config.handshake_bytes_max,
            early_bytes_max: config.shard.packet_bytes_before_auth_max,
            inboxes,
            meters: (0..config.shards).map(|_| Meter::default()).collect(),
            accepted: AtomicU64::new(0),
            next_shard: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            statistics_wanted: Arc::default(),
            orders: AtomicU64::new(0),
            changes: Changes::default(),
        });
        let interest = Arc::new(match &durable {
            Some(durable) => Interest::restored(config.shards, &durable.restored.image),
            None => Interest::new(config.shards),
        });
        let mut drivers = Vec::with_capacity(config.shards);
        for (index, poll) in polls.into_iter().enumerate() {
            let shard_config = ShardConfig {
                index,
                shards: config.shards,
                connect_timeout: config.connect_timeout,
                wall_clock: Some((shared.clock.instant(), shared.clock.now_ms())),
                durable: durable.is_some(),
                takes_authz_info: shared
                    .doors
                    .iter()
                    .any(|door| door.confidential && door.ways.allows(Way::AuthzInfo)),
                ..config.shard.clone()
            };
            let shard = Shard::new(shard_config, Arc::clone(&directory), Arc::clone(&interest));
            drivers.push(Driver::new(index, Arc::clone(&shared), poll, shard, &config.listeners)?);
        }
        if let Some(durable) = durable {
            durable.news.lead_to(&shared);
            // All of them before the first accepts: a message for a session that is not there yet were lost.
            drivers.iter_mut().for_each(|driver| driver.restore(shared.clock.instant(), &durable.restored));
        }
        let statistics = (!config.statistics_interval.is_zero()).then(|| {
            let wanted = Arc::clone(&shared.statistics_wanted);
            let run = statistics::run(Arc::downgrade(&shared), wanted, config.statistics_interval);
            shared.runtime.spawn(run).abort_handle()
        });
        let mut bridge = Self { shared, threads: Vec::with_capacity(drivers.len()), statistics };
        for (index, driver) in drivers.into_iter().enumerate() {
            // When a later one cannot start, dropping `bridge` ends the earlier ones.
            let thread = std::thread::Builder::new().name(format!("bridge-{index}"));
            bridge.threads.push(thread.spawn(move || driver.run()).map_err(system("the thread of a shard"))?);
        }
        Ok(bridge)
    }

    /// A handle for everyone who sends to devices, ends sessions or looks at the numbers.
    #[must_use]
    pub fn handle(&self) -> BridgeHandle {
        BridgeHandle::new(Arc::clone(&self.shared))
    }

    /// From now on, what clients publish to control topics is recorded by `control`. Until then it
    /// is refused. Counts once.
    pub fn serve_control(&self, control: Arc<dyn ControlPublishes>) {
        if self.shared.control.set(control).is_err() {
            tracing::error!("`serve_control` was called twice; the first control stays");
        }
    }

    /// Stops accepting, tells every client (MQTT 5: DISCONNECT 0x8B), waits until they have gone, at
    /// most `grace`, and ends the threads.
    pub fn shutdown(mut self, grace: Duration) {
        self.stop(grace);
    }

    fn stop(&mut self, grace: Duration) {
        if let Some(statistics) = self.statistics.take() {
            statistics.abort();
        }
        let by = self.shared.clock.instant() + grace;
        for inbox in &self.shared.inboxes {
            inbox.push(ToShard::Stop { by });
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shard had panicked");
            }
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> BridgeError {
    move |source| BridgeError::System { what, source }
}
