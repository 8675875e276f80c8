//! What the rest of the house holds of a bridge: sending to devices, ending sessions, the numbers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use drawbridge_admission::{Connected, EndReason, Refreshed, Refreshing, Refusal, SessionsEnd, Watcher};
use drawbridge_broker::{self as broker, Ended, EndedWhy, Order, OrderOutcome, Publisher, Stats, TicketEnd};
use drawbridge_control::{self as control, DeliveryOutcome, DeviceOrder, Dispatch};
use drawbridge_mqtt::codec::Qos;
use drawbridge_names::{MqttClientId, PrincipalName, RegistryName, Uid};
use drawbridge_policy::Rights;
use rustls::ServerConnection;
use tokio::sync::oneshot;

use crate::bridge::Shared;
use crate::driver::{Arrival, Counted};
use crate::error::Turned;
use crate::inbox::ToShard;
use crate::journal::Counts;

/// A cheap handle of a running bridge. It outlives the bridge: then nothing can be sent any more.
#[derive(Debug, Clone)]
pub struct BridgeHandle {
    shared: Arc<Shared>,
}

/// A place for one client over WebSocket, counted as unauthenticated until it is used or dropped.
#[derive(Debug)]
pub struct WebSocketPlace {
    counted: Counted,
}

impl WebSocketPlace {
    /// Hands the connection over, right behind the answer that switched protocols. `received`: decrypted and not
    /// read by HTTP. `registry`: that of the path, if it named one.
    pub fn enter(
        self,
        socket: TcpStream,
        session: ServerConnection,
        received: Vec<u8>,
        registry: Option<RegistryName>,
    ) {
        let shared = Arc::clone(self.counted.shared());
        let shard = shared.next_shard.fetch_add(1, Relaxed) % shared.inboxes.len();
        let counted = self.counted;
        if let Some(inbox) = shared.inboxes.get(shard) {
            inbox.push(ToShard::Arrive(Box::new(Arrival { socket, session, received, registry, counted })));
        }
    }
}

/// The numbers of a bridge.
#[derive(Debug, Clone, Default)]
pub struct BridgeStats {
    /// Sockets open.
    pub connections: usize,
    /// The most that may be.
    pub connections_max: usize,
    /// Those not yet admitted, over all listeners.
    pub unauthenticated: usize,
    /// Live MQTT sessions.
    pub sessions: usize,
    /// Sockets accepted since the start.
    pub accepted: u64,
    /// TLS handshakes done since the start, those of HTTPS not counted.
    pub handshakes: u64,
    /// The most pieces of handshakes that a shard has worked on in one turn.
    pub handshakes_per_turn_max: u64,
    /// Handshakes with something to read that wait for their turn, as of the call before this one.
    pub handshakes_waiting: usize,
    /// Logins under judgement.
    pub logins: usize,
    /// The most that may be.
    pub logins_max: usize,
    /// Refusals and ends since the start, by the word of `docs/errors.md`.
    pub refused: BTreeMap<&'static str, u64>,
    /// Each shard's own numbers, as of the call before this one.
    pub shards: Vec<Stats>,
}

/// How long who wants the numbers waits for a shard.
const NUMBERS_TIME: Duration = Duration::from_secs(2);

/// Where a shard leaves its numbers. They cost it a walk over its connections, so it leaves them only
/// when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) refused: Arc<Counts>,
    pub(crate) handshakes: AtomicU64,
    pub(crate) handshakes_per_turn_max: AtomicU64,
    pub(crate) handshakes_waiting: AtomicUsize,
    asked: AtomicBool,
    latest: Mutex<Stats>,
}

impl Meter {
    pub(crate) fn leave(&self, stats: Stats) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        self.asked.store(false, Relaxed);
    }
}

impl BridgeHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The numbers now; those of the shards as they were when they were last asked for, which this
    /// call does anew.
    #[must_use]
    pub fn stats(&self) -> BridgeStats {
        for (meter, inbox) in self.shared.meters.iter().zip(&self.shared.inboxes) {
            if !meter.asked.swap(true, Relaxed) {
                inbox.push(ToShard::LeaveNumbers { reply: None });
            }
        }
        self.left()
    }

    /// The numbers now, also those of the shards, which are asked and waited for. One that does not answer in
    /// 2 s is taken as it was when it answered last.
    pub async fn stats_now(&self) -> BridgeStats {
        let mut answers = Vec::with_capacity(self.shared.inboxes.len());
        for inbox in &self.shared.inboxes {
            let (reply, answer) = oneshot::channel();
            inbox.push(ToShard::LeaveNumbers { reply: Some(reply) });
            answers.push(answer);
        }
        let all = async {
            for answer in answers {
                // A shard that has ended has left its last numbers.
                let _ = answer.await;
            }
        };
        if tokio::time::timeout(NUMBERS_TIME, all).await.is_err() {
            tracing::warn!("a shard did not leave its numbers in time");
        }
        self.left()
    }

    /// What the shards have left.
    fn left(&self) -> BridgeStats {
        let mut refused = BTreeMap::new();
        let mut shards = Vec::with_capacity(self.shared.meters.len());
        for meter in &self.shared.meters {
            meter.refused.add_to(&mut refused);
            shards.push(*meter.latest.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let per_turn = self.shared.meters.iter().map(|meter| meter.handshakes_per_turn_max.load(Relaxed));
        BridgeStats {
            connections: self.shared.connections.taken(),
            connections_max: self.shared.connections.max(),
            unauthenticated: self.shared.doors.iter().map(|door| door.gate.unauthenticated()).sum(),
            sessions: self.shared.sessions.load(Relaxed),
            accepted: self.shared.accepted.load(Relaxed),
            handshakes: self.shared.meters.iter().map(|meter| meter.handshakes.load(Relaxed)).sum(),
            handshakes_per_turn_max: per_turn.max().unwrap_or(0),
            handshakes_waiting: self
                .shared
                .meters
                .iter()
                .map(|meter| meter.handshakes_waiting.load(Relaxed))
                .sum(),
            logins: self.shared.logins.taken(),
            logins_max: self.shared.logins.max(),
            refused,
            shards,
        }
    }

    /// A place for a client that is about to speak MQTT over WebSocket, on a connection that HTTPS has
    /// accepted from `peer`.
    ///
    /// # Errors
    /// The code and the word of the limit that is reached: as many are unauthenticated as may be, in all or
    /// of this address, or as many connected.
    pub fn reserve_web_socket(
        &self,
        peer: SocketAddr,
    ) -> Result<WebSocketPlace, (&'static str, &'static str)> {
        self.reserve_web_socket_at(peer, 0)
    }

    /// As [`Self::reserve_web_socket`], at one of many places where HTTPS is served: a number of
    /// [`crate::BridgeConfig::web_socket_ways`].
    ///
    /// # Errors
    /// As there.
    pub fn reserve_web_socket_at(
        &self,
        peer: SocketAddr,
        place: usize,
    ) -> Result<WebSocketPlace, (&'static str, &'static str)> {
        let door = self.shared.listeners + place;
        if door >= self.shared.doors.len() {
            let turned = Turned::ListenerFull { max: 0 };
            return Err((turned.code(), turned.word()));
        }
        let counted =
            Counted::stranger(&self.shared, door, peer).map_err(|turned| (turned.code(), turned.word()))?;
        Ok(WebSocketPlace { counted })
    }

    /// Ends sessions on every shard, wherever they are.
    pub fn end_sessions(&self, ended: &Ended) {
        for inbox in &self.shared.inboxes {
            inbox.push(ToShard::Ended(ended.clone()));
        }
    }

    /// Ends the sessions of a principal whose rights have changed; what it left behind (retained
    /// messages, its will) is judged by the new ones, or by none when they cannot be had. Never told behind a later
    /// change of the same principal.
    pub(crate) async fn policy_changed_for(
        &self,
        registry: &RegistryName,
        uid: Uid,
        name: Option<PrincipalName>,
    ) {
        let ask = || self.rights_of(registry, uid, name.clone());
        let tell = |rights| self.end_sessions(&Ended::Policy { registry: registry.clone(), uid, rights });
        self.shared.changes.ask_and_tell(uid, ask, tell).await;
    }

    /// What a principal may do by its policy now; `None` when that cannot be had.
    async fn rights_of(
        &self,
        registry: &RegistryName,
        uid: Uid,
        name: Option<PrincipalName>,
    ) -> Option<Arc<Rights>> {
        let admission = &self.shared.admission;
        let name = match name {
            Some(name) => name,
            None => admission.store().known_by_uid(registry, uid).await.ok().flatten()?.principal.name,
        };
        admission.rights_of(registry, &name).await.ok()
    }

    fn order(&self, order: DeviceOrder, rights: Option<Arc<Rights>>) -> Order {
        Order {
            id: self.shared.orders.fetch_add(1, Relaxed),
            registry: order.registry,
            topic: order.topic,
            payload: order.payload,
            qos: if order.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
            retain: order.retain,
            to: order.to_device.then_some(order.device),
            deadline: self.shared.clock.instant() + order.wait,
            publisher: Publisher {
                uid: match order.publisher {
                    control::Publisher::Server => Publisher::SERVER,
                    control::Publisher::Principal(uid) => uid,
                },
                policy_epoch: 0,
            },
            // Control has asked already. The shards learn from it how the publisher stands: it may never
            // connect, and would be silent for ever after a block that is over.
            rights,
        }
    }
}

impl Watcher for BridgeHandle {
    fn ended(&self, event: &SessionsEnd) {
        let ended = match event {
            SessionsEnd::Principal { registry, uid, why } => {
                let (registry, uid) = (registry.clone(), *uid);
                match why {
                    EndReason::Blocked => Ended::Principal { registry, uid, why: EndedWhy::Blocked },
                    EndReason::Revoked => Ended::Principal { registry, uid, why: EndedWhy::Revoked },
                    EndReason::Deleted => Ended::Principal { registry, uid, why: EndedWhy::Deleted },
                    EndReason::SettingsChanged => Ended::Principal { registry, uid, why: EndedWhy::Operator },
                    EndReason::PolicyChanged => {
                        let handle = self.clone();
                        // From here on, what is still asked because of an earlier change is out of date.
                        self.shared.changes.tell(Some(uid), || ());
                        self.shared.runtime.spawn(async move {
                            handle.policy_changed_for(&registry, uid, None).await;
                        });
                        return;
                    }
                }
            }
            SessionsEnd::Key { registry, uid, kid } => {
                Ended::Key { registry: registry.clone(), uid: *uid, kid: kid.clone() }
            }
            SessionsEnd::Link { registry, gateway, device } => Ended::Ticket {
                registry: registry.clone(),
                uid: Some(*device),
                end: TicketEnd::Gateway(*gateway),
            },
            SessionsEnd::Gateway { registry, gateway } => {
                Ended::Ticket { registry: registry.clone(), uid: None, end: TicketEnd::Gateway(*gateway) }
            }
            SessionsEnd::Token { registry, uid, token } => {
                Ended::Ticket { registry: registry.clone(), uid: Some(*uid), end: TicketEnd::Token(*token) }
            }
            SessionsEnd::IssuerKey { registry, kid } => Ended::Ticket {
                registry: registry.clone(),
                uid: None,
                end: TicketEnd::IssuerKey(kid.clone()),
            },
            SessionsEnd::Ca { registry, ca } => {
                Ended::Ticket { registry: registry.clone(), uid: None, end: TicketEnd::IssuerKey(ca.clone()) }
            }
            SessionsEnd::Policy { registry, policy } => {
                self.shared.changes.tell(None, || {
                    for inbox in &self.shared.inboxes {
                        inbox.push(ToShard::PolicyChanged {
                            registry: registry.clone(),
                            policy: policy.clone(),
                        });
                    }
                });
                return;
            }
        };
        match event {
            SessionsEnd::Principal { uid, .. } => {
                self.shared.changes.tell(Some(*uid), || self.end_sessions(&ended));
            }
            // Nothing is asked because of these.
            _ => self.end_sessions(&ended),
        }
    }

    fn sessions(&self, registry: &RegistryName, uid: Uid) -> usize {
        self.shared.directory.sessions(registry, uid)
    }

    fn client_ids(&self, registry: &RegistryName, uid: Uid) -> Vec<MqttClientId> {
        self.shared.directory.all(registry, uid).into_iter().map(|(client_id, ..)| client_id).collect()
    }

    fn refresh(&self, connected: Box<Connected>) -> Refreshing {
        let found =
            self.shared.directory.find_client(&connected.registry, connected.uid, &connected.client_id);
        let (reply, answer) = oneshot::channel();
        if let Some((shard, conn)) = found
            && let Some(inbox) = self.shared.inboxes.get(shard)
        {
            inbox.push(ToShard::Refresh { conn, connected, reply });
        }
        Box::pin(async move {
            match answer.await.unwrap_or(Err("the session has ended")) {
                Ok(broker::Refreshed { removed, will_dropped }) => Ok(Refreshed { removed, will_dropped }),
                Err(found) => Err(Refusal::Renewal(found.to_owned())),
            }
        })
    }
}

#[async_trait]
impl Dispatch for BridgeHandle {
    async fn send(&self, order: DeviceOrder) -> DeliveryOutcome {
        let rights = match order.publisher {
            control::Publisher::Server => None,
            // Without rights it would pass for the server.
            control::Publisher::Principal(uid) => match self.rights_of(&order.registry, uid, None).await {
                Some(rights) => Some(rights),
                None => return DeliveryOutcome::Unavailable,
            },
        };
        let shards = self.shared.inboxes.len();
        let live = self.shared.directory.find(&order.registry, order.device);
        // Without a session any shard will do; one device's messages keep their order.
        let shard = live.map_or_else(|| (order.device.0 % shards as u64) as usize, |(shard, _)| shard);
        let Some(inbox) = self.shared.inboxes.get(shard) else {
            return DeliveryOutcome::Unavailable;
        };
        let (reply, answer) = oneshot::channel();
        let to_device = order.to_device;
        inbox.push(ToShard::Order { order: self.order(order, rights), reply });
        answer.await.map_or(DeliveryOutcome::Unavailable, |outcome| delivery(outcome, to_device))
    }
}

/// What control is told of an order.
fn delivery(outcome: OrderOutcome, to_device: bool) -> DeliveryOutcome {
    match outcome {
        OrderOutcome::Acknowledged => DeliveryOutcome::Acknowledged,
        OrderOutcome::Rejected(reason) => DeliveryOutcome::Rejected { reason: reason.byte() },
        OrderOutcome::NotConnected if to_device => DeliveryOutcome::NotConnected,
        OrderOutcome::NotSubscribed if to_device => DeliveryOutcome::NotSubscribed,
        OrderOutcome::Withheld if to_device => DeliveryOutcome::Withheld,
        OrderOutcome::TimedOut => DeliveryOutcome::TimedOut,
        OrderOutcome::Denied => DeliveryOutcome::Denied,
        OrderOutcome::Stored
        | OrderOutcome::NotConnected
        | OrderOutcome::NotSubscribed
        | OrderOutcome::Withheld => DeliveryOutcome::Stored,
    }
}
