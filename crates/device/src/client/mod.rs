//! A client that stays: it connects, renews its credential in time, comes back when the link breaks, and keeps what
//! could not be sent.
//!
//! One thread does all of it ([`worker`]); the calls here put work into [`State`] and wake it.

mod inbox;
mod outbox;
mod renewal;
mod store;
mod worker;

use std::fmt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drawbridge_jose::Algorithm;
use drawbridge_mqtt::codec::{PacketId, ProtocolVersion, Qos};
use drawbridge_names::TopicName;

use crate::key::{adopt_next_key, keep_next_key, next_key};
use crate::{
    ApiAnswer, ApiClient, BackoffOptions, DeviceError, DeviceIdentity, DeviceKey, Endpoint, Environment,
    Host, KeyLogin, Tls, TokenSource, Way, create_key,
};
use inbox::Inbox;
pub use inbox::{Incoming, Subscription};
use outbox::Outbox;
pub use outbox::{Delivery, Overflow, Queue};

/// So many events wait for a listener.
const EVENTS_MAX: usize = 256;
/// How long the goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// All that a client is told before it starts.
#[derive(Clone)]
pub struct ClientOptions {
    /// Where to, and TLS.
    pub endpoint: Endpoint,
    /// MQTT version.
    pub version: ProtocolVersion,
    /// MQTT client id: the device's name, or `NAME:anything`.
    pub client_id: String,
    /// CONNECT is as long as a multiple of this, in bytes, whatever is in it, and pings have a random length at random
    /// times; 0 (default): no padding. 1024 is more than each way in needs with ES256 or EdDSA. In 3.1.1 only with
    /// [`Way::Token`] and [`Way::Certificate`].
    pub pad_to: u16,
    /// What is presented.
    pub way: Way,
    /// Where tokens come from, if the way presents one.
    pub tokens: TokenSource,
    /// Who signs; not needed for a password, a certificate from files, or tokens from elsewhere.
    pub login: Option<KeyLogin>,
    /// Keep alive in seconds, 0 for none. Default 60.
    pub keep_alive_s: u16,
    /// How long the server keeps the session while the client is away, in seconds. Default 3600; in 3.1.1 0 means not
    /// at all, and anything else as long as the server likes.
    pub session_expiry_s: u32,
    /// Whether the first connection takes up a session that an earlier process left behind. Off by default.
    pub resume: bool,
    /// How many messages of QoS 1 and 2 may be with the application at once; MQTT 5. Default 64.
    pub receive_maximum: u16,
    /// What the server publishes when the client is lost.
    pub testament: Option<Testament>,
    /// What waits for a connection.
    pub queue: Queue,
    /// How long to wait between connections.
    pub backoff: BackoffOptions,
    /// Clocks and randomness.
    pub environment: Arc<dyn Environment>,
}

/// The Will Message of MQTT.
#[derive(Debug, Clone)]
pub struct Testament {
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// QoS of its publication.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
    /// Seconds the server waits before it; MQTT 5.
    pub delay_s: u32,
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("server", &self.endpoint.server)
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("way", &self.way)
            .field("tokens", &self.tokens)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

impl ClientOptions {
    /// The device of an identity folder: MQTT 5 over TLS with a JWT of its own that lives an hour.
    ///
    /// # Errors
    /// [`DeviceError::Tls`] when its CA file is no certificate.
    pub fn of(identity: DeviceIdentity) -> Result<Self, DeviceError> {
        let base = match identity.registry.as_str() {
            "default" => format!("https://{}", identity.https),
            other => format!("https://{}/r/{other}", identity.https),
        };
        let api = ApiClient::new(&base, &identity.ca_pem)?;
        let login = KeyLogin {
            device: identity.device.clone(),
            issuer: identity.issuer,
            bridge_audience: identity.bridge_audience,
            key: Arc::new(identity.key),
            api: Some(api),
            folder: None,
        };
        let tls = Tls::with_roots(identity.ca_pem);
        let endpoint = Endpoint { server: identity.mqtts, tls: Some(tls), websocket: None };
        Ok(Self { login: Some(login), ..Self::new(endpoint, identity.device) })
    }

    /// The same of an identity folder, with the successor of its key if a rotation was cut off there: see
    /// [`DeviceClient::rotate_key_in_folder`].
    ///
    /// # Errors
    /// As [`DeviceIdentity::load`] and [`Self::of`].
    pub fn load(folder: &Path) -> Result<Self, DeviceError> {
        let mut options = Self::of(DeviceIdentity::load(folder)?)?;
        if let Some(login) = &mut options.login {
            login.folder = Some(folder.to_owned());
        }
        Ok(options)
    }

    /// A client with this id: MQTT 5, and nothing to log in with yet; set `way`, `tokens` and `login`.
    #[must_use]
    pub fn new(endpoint: Endpoint, client_id: impl Into<String>) -> Self {
        Self {
            endpoint,
            version: ProtocolVersion::V5,
            client_id: client_id.into(),
            pad_to: 0,
            way: Way::Token,
            tokens: TokenSource::DeviceJwt { life_s: 3600, bound: false },
            login: None,
            keep_alive_s: 60,
            session_expiry_s: 3600,
            resume: false,
            receive_maximum: 64,
            testament: None,
            queue: Queue::default(),
            backoff: BackoffOptions::default(),
            environment: Arc::new(Host),
        }
    }
}

/// What happens to the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server let us in.
    Connected {
        /// It had kept our session.
        session_present: bool,
        /// Our client id, which the server may have chosen.
        client_id: String,
    },
    /// The connection ended, or none came about.
    Disconnected {
        /// Why.
        why: String,
        /// MQTT reason code, if the server gave one.
        code: Option<u8>,
        /// So long until the next attempt.
        retry_in: Duration,
    },
    /// The session goes on with a new credential, or with other rights.
    Renewed {
        /// How long that is good, if it is known.
        life: Option<Duration>,
        /// Filters that the server has cut because the new rights do not cover them.
        removed: Vec<String>,
    },
    /// A renewal did not succeed; it is tried again until the credential ends.
    RenewalFailed {
        /// Why.
        why: String,
    },
    /// The queue was full, and the oldest messages that waited made room ([`Overflow::DropOldest`]).
    Dropped {
        /// How many.
        messages: usize,
    },
    /// The server refuses a subscription.
    SubscriptionRefused {
        /// Its filter.
        filter: String,
        /// Reason code.
        code: u8,
        /// Its name, or the reason string.
        why: String,
    },
}

/// A client that stays connected by itself. Clones are the same client; when the last one is dropped it stops
/// without waiting: call [`Self::stop`] to have everything delivered first. A closure given to [`Self::on`] that owns
/// a clone keeps the client running until `stop`.
#[derive(Clone)]
pub struct DeviceClient(Arc<Handle>);

impl fmt::Debug for DeviceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceClient").field("name", &self.0.name).finish_non_exhaustive()
    }
}

struct Handle {
    shared: Arc<Shared>,
    name: String,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake();
    }
}

/// What the calls and the worker have in common.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(crate) struct State {
    outbox: Outbox,
    pub(crate) inbox: Inbox,
    /// Messages that the application is done with: connection, identifier, refused.
    pub(crate) done: Vec<(u64, PacketId, bool)>,
    login: Option<KeyLogin>,
    /// A renewal is wanted now: the key is another.
    renew_now: bool,
    /// A token that was fetched beside the connection, and for which of them.
    fetched: Option<(u64, Result<crate::Token, DeviceError>)>,
    connected: bool,
    /// Why the last attempt to connect failed, until somebody asks or one succeeds.
    failure: Option<DeviceError>,
    stopping: bool,
    ended: bool,
    waker: Option<Arc<mio::Waker>>,
    listeners: Vec<SyncSender<Event>>,
}

impl Shared {
    fn new(options: &ClientOptions) -> Result<Arc<Self>, DeviceError> {
        Ok(Arc::new(Self {
            state: Mutex::new(State {
                outbox: Outbox::open(options.queue.clone())?,
                inbox: Inbox::default(),
                done: Vec::new(),
                login: options.login.clone(),
                renew_now: false,
                fetched: None,
                connected: false,
                failure: None,
                stopping: false,
                ended: false,
                waker: None,
                listeners: Vec::new(),
            }),
            changed: Condvar::new(),
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the worker that there is work. Call it without the lock.
    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.clone();
        if let Some(waker) = waker {
            let _ = waker.wake(); // the connection may be gone by now
        }
        self.changed.notify_all();
    }

    fn tell(&self, event: &Event) {
        self.lock().tell(event);
    }
}

impl State {
    fn tell(&mut self, event: &Event) {
        let listens = |listener: &SyncSender<Event>| {
            !matches!(listener.try_send(event.clone()), Err(TrySendError::Disconnected(_)))
        };
        self.listeners.retain(listens);
    }
}

impl DeviceClient {
    /// Starts it. It connects by itself; [`Self::wait_connected`] waits for that.
    ///
    /// # Errors
    /// [`DeviceError::File`] when the folder of the queue cannot be used, [`DeviceError::Connection`] when no thread can
    /// be made.
    pub fn start(options: ClientOptions) -> Result<Self, DeviceError> {
        let name = options.login.as_ref().map_or_else(
            || options.client_id.split(':').next().unwrap_or_default().to_owned(),
            |login| login.device.clone(),
        );
        let shared = Shared::new(&options)?;
        let server = options.endpoint.server.clone();
        let worker = worker::Worker::new(Arc::clone(&shared), options);
        std::thread::Builder::new()
            .name("drawbridge-device".to_owned())
            .spawn(move || worker.run())
            .map_err(|e| DeviceError::Connection { server, why: e.to_string() })?;
        Ok(Self(Arc::new(Handle { shared, name })))
    }

    /// The name of the device, as it stands in topics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Waits until there is a connection; answers whether there is one.
    #[must_use]
    pub fn wait_connected(&self, limit: Duration) -> bool {
        let state = self.0.shared.lock();
        let waiting = |state: &mut State| !state.connected && !state.stopping;
        let (state, _) = self
            .0
            .shared
            .changed
            .wait_timeout_while(state, limit, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.connected
    }

    /// Waits for a connection, or for the first attempt that fails: for programs that would rather end than try again,
    /// which the client goes on with.
    ///
    /// # Errors
    /// Why it failed; [`DeviceError::Stopped`], [`DeviceError::TimedOut`].
    pub fn connected(&self, limit: Duration) -> Result<(), DeviceError> {
        let state = self.0.shared.lock();
        let waiting = |state: &mut State| !state.connected && !state.stopping && state.failure.is_none();
        let (mut state, _) = self
            .0
            .shared
            .changed
            .wait_timeout_while(state, limit, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        match state.failure.take() {
            _ if state.connected => Ok(()),
            Some(failure) => Err(failure),
            None if state.stopping => Err(DeviceError::Stopped),
            None => Err(DeviceError::TimedOut { what: "CONNECT", seconds: limit.as_secs() }),
        }
    }

    /// What happens from now on. A listener that was dropped is forgotten; one that does not read misses what comes behind
    /// the first 256 events.
    #[must_use]
    pub fn events(&self) -> Receiver<Event> {
        let (sender, receiver) = mpsc::sync_channel(EVENTS_MAX);
        self.0.shared.lock().listeners.push(sender);
        receiver
    }

    /// Publishes. At QoS 1 and 2 the message is kept until the server has acknowledged it, over any number of
    /// connections; at QoS 0 it is sent now or not at all.
    ///
    /// # Errors
    /// [`DeviceError::Offline`] at QoS 0 without a connection, [`DeviceError::QueueFull`], [`DeviceError::Protocol`]
    /// when the topic is none, [`DeviceError::File`] when the message cannot be kept, [`DeviceError::Stopped`].
    pub fn publish(&self, topic: &str, payload: &[u8], qos: Qos) -> Result<Delivery, DeviceError> {
        self.put(topic, payload, qos, false)
    }

    /// The same, as the retained message of its topic; an empty payload clears it.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_retained(&self, topic: &str, payload: &[u8], qos: Qos) -> Result<Delivery, DeviceError> {
        self.put(topic, payload, qos, true)
    }

    fn put(&self, topic: &str, payload: &[u8], qos: Qos, retain: bool) -> Result<Delivery, DeviceError> {
        TopicName::parse(topic).map_err(|e| DeviceError::Protocol(format!("`{topic}` is no topic: {e}")))?;
        let delivery = {
            let mut state = self.0.shared.lock();
            if state.stopping {
                return Err(DeviceError::Stopped);
            }
            if qos == Qos::AtMostOnce && !state.connected {
                return Err(DeviceError::Offline);
            }
            let (delivery, dropped) = state.outbox.push(topic, payload, qos, retain)?;
            if dropped > 0 {
                state.tell(&Event::Dropped { messages: dropped });
            }
            delivery
        };
        self.0.shared.wake();
        Ok(delivery)
    }

    /// How many messages wait or are under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.shared.lock().outbox.len()
    }

    /// Publishes telemetry at QoS 1: `devices/NAME/events/SUBFOLDER`.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn telemetry(&self, subfolder: &str, payload: &[u8]) -> Result<Delivery, DeviceError> {
        self.publish(&format!("devices/{}/events/{subfolder}", self.0.name), payload, Qos::AtLeastOnce)
    }

    /// Reports a state at QoS 1: `devices/NAME/state`.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn report_state(&self, payload: &[u8]) -> Result<Delivery, DeviceError> {
        self.publish(&format!("devices/{}/state", self.0.name), payload, Qos::AtLeastOnce)
    }

    /// Subscribes, now and after every loss of the session.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] when the filter is none, [`DeviceError::Stopped`]. What the server says is told by
    /// [`Subscription::granted`].
    pub fn subscribe(&self, filter: &str, qos: Qos) -> Result<Subscription, DeviceError> {
        let (number, mailbox) = {
            let mut state = self.0.shared.lock();
            if state.stopping {
                return Err(DeviceError::Stopped);
            }
            state.inbox.join(filter, qos)?
        };
        self.0.shared.wake();
        Ok(Subscription::new(Arc::downgrade(&self.0.shared), number, filter.to_owned(), mailbox))
    }

    /// Subscribes, and calls `react` for each message, on a thread of its own. The message is acknowledged when
    /// `react` returns.
    ///
    /// # Errors
    /// As [`Self::subscribe`]; [`DeviceError::Connection`] when no thread can be made.
    pub fn on(
        &self,
        filter: &str,
        qos: Qos,
        mut react: impl FnMut(Incoming) + Send + 'static,
    ) -> Result<(), DeviceError> {
        let subscription = self.subscribe(filter, qos)?;
        std::thread::Builder::new()
            .name("drawbridge-device-on".to_owned())
            .spawn(move || subscription.for_each(&mut react))
            .map_err(|e| DeviceError::Connection { server: self.0.name.clone(), why: e.to_string() })?;
        Ok(())
    }

    /// The commands of the operator, at QoS 1: `devices/NAME/commands/#`. A command is acknowledged, and who sent it
    /// hears of it, when it is dropped; [`Incoming::refuse`] rejects it.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub fn commands(&self) -> Result<Subscription, DeviceError> {
        self.subscribe(&format!("devices/{}/commands/#", self.0.name), Qos::AtLeastOnce)
    }

    /// The config of the device, at QoS 1: the one of now, then each new one. It counts as acknowledged when it is
    /// dropped.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub fn config(&self) -> Result<Subscription, DeviceError> {
        self.subscribe(&format!("devices/{}/config", self.0.name), Qos::AtLeastOnce)
    }

    /// Replaces the device's key over HTTPS and goes on with the new one: the open session is renewed with it and is
    /// not interrupted. **Store `new` before**, as a key to be tried next: if the answer is lost, it may be the one
    /// that counts, and the same call repeated succeeds.
    ///
    /// # Errors
    /// [`DeviceError::Denied`], [`DeviceError::Unavailable`], or what [`ApiClient::send`] answers.
    pub fn replace_key(&self, new: Arc<dyn DeviceKey>) -> Result<ApiAnswer, DeviceError> {
        let login = self.0.shared.lock().login.clone();
        let no_way =
            || DeviceError::Denied("a key is replaced over HTTPS; give a `KeyLogin` with `api`".to_owned());
        let KeyLogin { device, issuer, key, api, .. } = login.ok_or_else(no_way)?;
        let answer = api.ok_or_else(no_way)?.replace_key_of(&device, &issuer, key.as_ref(), new.as_ref())?;
        {
            let mut state = self.0.shared.lock();
            if let Some(login) = &mut state.login {
                login.key = new;
            }
            state.renew_now = true;
        }
        self.0.shared.wake();
        Ok(answer)
    }

    /// The same with a key that is made here; `keep` stores it before it is sent.
    ///
    /// # Errors
    /// As [`Self::replace_key`], and what `keep` answers.
    pub fn rotate_key(
        &self,
        algorithm: Algorithm,
        keep: impl FnOnce(&drawbridge_jose::SigningKey) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let new = create_key(algorithm)?;
        keep(&new)?;
        self.replace_key(Arc::new(new)).map(|_| ())
    }

    /// The same for a client of [`ClientOptions::load`]: the new key waits as `next-key.pem` in its folder, and is `key.pem`
    /// when the server has taken it. If the process or the answer is lost between the two, the next client of the folder
    /// connects with whichever of them the server takes, and this call repeated goes on with the key that waits.
    ///
    /// # Errors
    /// As [`Self::replace_key`]; [`DeviceError::Key`] for a client without a folder, [`DeviceError::File`].
    pub fn rotate_key_in_folder(&self, algorithm: Algorithm) -> Result<(), DeviceError> {
        let folder = self.0.shared.lock().login.as_ref().and_then(|login| login.folder.clone());
        let folder = folder.ok_or_else(|| {
            DeviceError::Key(
                "the key is in no folder; start with `ClientOptions::load`, or use `rotate_key`".to_owned(),
            )
        })?;
        let new = match next_key(&folder)? {
            Some(waits) => waits,
            None => {
                let new = create_key(algorithm)?;
                keep_next_key(&folder, &new)?;
                new
            }
        };
        self.replace_key(Arc::new(new))?;
        adopt_next_key(&folder)
    }

    /// Renews the credential now, without waiting for its time.
    pub fn renew(&self) {
        self.0.shared.lock().renew_now = true;
        self.0.shared.wake();
    }

    /// Sends what waits, for as long as `limit`, says goodbye and ends. Answers how many messages were not
    /// acknowledged; those in a folder are sent by the next process.
    #[must_use]
    pub fn stop(&self, limit: Duration) -> usize {
        let left = {
            let state = self.0.shared.lock();
            let busy =
                |state: &mut State| (state.outbox.len() > 0 || !state.done.is_empty()) && !state.stopping;
            let (mut state, _) = self
                .0
                .shared
                .changed
                .wait_timeout_while(state, limit, busy)
                .unwrap_or_else(PoisonError::into_inner);
            state.stopping = true;
            state.outbox.len()
        };
        self.0.shared.wake();
        // Whoever asks a token endpoint just now cannot be interrupted, and has nothing to send.
        let state = self.0.shared.lock();
        drop(self.0.shared.changed.wait_timeout_while(state, GOODBYE_MAX, |state| !state.ended));
        left
    }
}
