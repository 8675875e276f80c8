//! Starting and stopping: one thread for each shard, and what they share.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use drawbridge_admission::{Admission, Clock};
use drawbridge_broker::{Directory, Interest, Shard, ShardConfig};
use drawbridge_control::ControlPublishes;
use drawbridge_names::RegistryName;
use mio::Poll;

use crate::driver::{Driver, WAKER};
use crate::gate::{Gate, Places};
use crate::handle::{BridgeHandle, Meter};
use crate::inbox::{Inbox, ToShard};
use crate::open_files::connections_fitting;
use crate::{BridgeConfig, BridgeError, ListenerKind};

/// The running bridge. Dropping it ends it at once; [`Bridge::shutdown`] says goodbye first.
#[derive(Debug)]
pub struct Bridge {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What all shards and all handles share. Nothing in it is locked for a message.
pub(crate) struct Shared {
    pub(crate) admission: Admission,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) control: OnceLock<Arc<dyn ControlPublishes>>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) doors: Vec<Door>,
    pub(crate) connections: Places,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_bytes_max: usize,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) meters: Vec<Meter>,
    pub(crate) accepted: AtomicU64,
    /// Sockets with an admitted session.
    pub(crate) sessions: AtomicUsize,
    /// Numbers the orders.
    pub(crate) orders: AtomicU64,
}

/// A listener as all shards see it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) kind: ListenerKind,
    pub(crate) registry: Option<RegistryName>,
    pub(crate) gate: Gate,
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
        config: BridgeConfig,
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
        let door = |listener: &crate::Listener| Door {
            kind: listener.kind.clone(),
            registry: listener.registry.clone(),
            gate: Gate::new(config.unauthenticated_max, config.unauthenticated_per_address_max),
        };
        let directory = Arc::new(Directory::new());
        let shared = Arc::new(Shared {
            admission,
            clock,
            runtime,
            control: OnceLock::new(),
            directory: Arc::clone(&directory),
            doors: config.listeners.iter().map(door).collect(),
            connections: Places::new(connections_max),
            connect_timeout: config.connect_timeout,
            handshake_bytes_max: config.handshake_bytes_max,
            inboxes,
            meters: (0..config.shards).map(|_| Meter::default()).collect(),
            accepted: AtomicU64::new(0),
            sessions: AtomicUsize::new(0),
            orders: AtomicU64::new(0),
        });
        let interest = Arc::new(Interest::new(config.shards));
        let mut drivers = Vec::with_capacity(config.shards);
        for (index, poll) in polls.into_iter().enumerate() {
            let shard_config = ShardConfig {
                index,
                shards: config.shards,
                connect_timeout: config.connect_timeout,
                wall_clock: Some((shared.clock.instant(), shared.clock.now_ms())),
                ..config.shard.clone()
            };
            let shard = Shard::new(shard_config, Arc::clone(&directory), Arc::clone(&interest));
            drivers.push(Driver::new(index, Arc::clone(&shared), poll, shard, &config.listeners)?);
        }
        let mut bridge = Self { shared, threads: Vec::with_capacity(drivers.len()) };
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
