//! `$SYS`: the numbers of a registry, as messages to those whose policy names that level.
//!
//! Never stored and never retained: each shard keeps the newest figures of a registry while somebody there
//! listens. The driver adds up what the shards say of a registry and hands them the sum.

use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PublishProperties, Qos};
use drawbridge_names::{RegistryName, TopicFilter, TopicName};

use super::outgoing::{Offered, Outgoing, Publication};
use super::readers::{Met, Owing, To};
use super::shared::parse_share;
use super::{Later, Shard};
use crate::effect::{ConnId, Effect};
use crate::message::Publisher;
use crate::routes::Subscriber;

/// What one registry holds and has counted, in one shard or, added up, in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryStats {
    /// Live sessions.
    pub connected: usize,
    /// Stored sessions that are away.
    pub away: usize,
    /// Subscriptions; the members of a shared one count as one.
    pub subscriptions: usize,
    /// Groups of shared subscriptions.
    pub groups: usize,
    /// Retained messages.
    pub retained: usize,
    /// Their bytes.
    pub retained_bytes: usize,
    /// Messages in memory that wait for sessions; each counts once.
    pub waiting: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Publishes accepted from clients, since the start.
    pub received: u64,
    /// Messages written to clients, since the start.
    pub delivered: u64,
    /// Messages that a client did not get because it was too slow, was away too long, or cannot take them.
    pub dropped: u64,
}

impl AddAssign for RegistryStats {
    fn add_assign(&mut self, other: Self) {
        self.connected += other.connected;
        self.away += other.away;
        self.subscriptions += other.subscriptions;
        self.groups += other.groups;
        // Every shard keeps all of them.
        self.retained = self.retained.max(other.retained);
        self.retained_bytes = self.retained_bytes.max(other.retained_bytes);
        self.waiting += other.waiting;
        self.waiting_bytes += other.waiting_bytes;
        self.received += other.received;
        self.delivered += other.delivered;
        self.dropped += other.dropped;
    }
}

/// The first level of the topics of the server itself.
const SYS: &str = "$SYS";

/// Topics below `$SYS` and what they say, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures(Vec<(&'static str, String)>);

impl Figures {
    /// What is told of a registry. `version`: of this program. `uptime`: how long it has run.
    ///
    /// The names are Mosquitto's, where it has one for the same thing.
    #[must_use]
    pub fn of(stats: &RegistryStats, version: &str, uptime: Duration) -> Self {
        let counts = [
            ("$SYS/broker/clients/connected", stats.connected as u64),
            ("$SYS/broker/clients/disconnected", stats.away as u64),
            ("$SYS/broker/clients/total", (stats.connected + stats.away) as u64),
            ("$SYS/broker/subscriptions/count", stats.subscriptions as u64),
            ("$SYS/broker/shared_subscriptions/count", stats.groups as u64),
            ("$SYS/broker/retained messages/count", stats.retained as u64),
            ("$SYS/broker/retained messages/bytes", stats.retained_bytes as u64),
            ("$SYS/broker/store/messages/count", stats.waiting as u64),
            ("$SYS/broker/store/messages/bytes", stats.waiting_bytes as u64),
            ("$SYS/broker/messages/received", stats.received),
            ("$SYS/broker/messages/sent", stats.delivered),
            ("$SYS/broker/publish/messages/received", stats.received),
            ("$SYS/broker/publish/messages/sent", stats.delivered),
            ("$SYS/broker/publish/messages/dropped", stats.dropped),
        ];
        let mut all = vec![
            ("$SYS/broker/version", format!("drawbridge {version}")),
            ("$SYS/broker/uptime", format!("{} seconds", uptime.as_secs())),
        ];
        all.extend(counts.map(|(topic, count)| (topic, count.to_string())));
        Self(all)
    }

    /// Topics and payloads.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(topic, text)| (*topic, text.as_str()))
    }
}

/// What one registry has counted, since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Publishes accepted from clients, by QoS.
    pub(super) received: [u64; 3],
    /// Messages written to clients, by QoS.
    pub(super) delivered: [u64; 3],
    /// See [`RegistryStats::dropped`].
    pub(super) dropped: u64,
}

/// Whether the filter names `$SYS`; a shared subscription by the filter behind its group.
pub(super) fn names_sys(filter: &TopicFilter) -> bool {
    let first_is = |filter: &TopicFilter| filter.levels().next() == Some(SYS);
    match parse_share(filter.as_str()) {
        Some(Ok((_, inner))) => first_is(&inner),
        _ => first_is(filter),
    }
}

impl Shard {
    /// What each registry holds and has counted here.
    #[must_use]
    pub fn registry_stats(&self) -> Vec<(RegistryName, RegistryStats)> {
        let of = |registry: &super::Registry| {
            let sessions = registry.sessions.iter().filter_map(|(_, slot)| self.sessions.get(*slot as usize));
            let connected = sessions.filter(|session| session.conn.is_some()).count();
            RegistryStats {
                connected,
                away: registry.sessions.len() - connected,
                subscriptions: registry.routes.len(),
                groups: registry.groups.len(),
                retained: registry.retained.len(),
                retained_bytes: registry.retained.bytes(),
                waiting: registry.room.messages(),
                waiting_bytes: registry.room.bytes(),
                received: registry.tally.received.iter().sum(),
                delivered: registry.tally.delivered.iter().sum(),
                dropped: registry.tally.dropped,
            }
        };
        self.registries.iter().map(|registry| (registry.name.clone(), of(registry))).collect()
    }

    /// Whether somebody has subscribed to something below `$SYS` since this was asked last: new figures are
    /// wanted soon.
    pub fn take_statistics_wanted(&mut self) -> bool {
        std::mem::take(&mut self.statistics_wanted)
    }

    /// Tells the subscribers of this shard the figures of their registry, and keeps them for who subscribes
    /// before the next ones. Every shard is told. `false`: nobody listens here.
    pub fn tell_statistics(
        &mut self,
        now: Instant,
        registry: &RegistryName,
        figures: &Arc<Figures>,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let Some(&index) = self.by_name.get(registry) else { return false };
        let mut is_heard = false;
        for (topic, text) in figures.iter() {
            let Ok(topic) = TopicName::parse(topic) else { continue };
            let mut is_met = false;
            self.registries[index].routes.each(topic, |_| is_met = true);
            if !is_met {
                continue;
            }
            is_heard = true;
            let mut publication = Publication {
                registry: index,
                topic,
                payload: text.as_bytes(),
                // A number that comes late is of no use: never queued, never stored.
                qos: Qos::AtMostOnce,
                retain: true,
                expires: None,
                properties: PublishProperties::default(),
                publisher: Publisher { uid: Publisher::SERVER, policy_epoch: 0 },
                from: None,
                stored: None,
                kept: None,
                payload_shared: None,
            };
            self.route(now, &mut publication, To::FindAgain, false, &mut Owing::default(), fx);
        }
        self.registries[index].figures = is_heard.then(|| Arc::clone(figures));
        self.settle(now, fx);
        is_heard
    }

    /// A session has subscribed to something below `$SYS`. `tell`: the subscription, if it is to be told at
    /// once what is known.
    pub(super) fn wants_statistics(&mut self, conn: ConnId, tell: Option<(TopicFilter, Subscriber)>) {
        self.statistics_wanted = true;
        if let Some((filter, route)) = tell {
            self.later.push_back(Later::Figures { conn, filter: Box::new(filter), route });
        }
    }

    /// Tells a new subscriber what is known, as a retained message would be told.
    pub(super) fn tell_figures(
        &mut self,
        now: Instant,
        conn: ConnId,
        filter: &TopicFilter,
        route: &Subscriber,
        fx: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.session_of(conn) else { return };
        let index = self.sessions[slot as usize].registry;
        let Some(figures) = self.registries[index].figures.clone() else { return };
        let met = Met::of(route);
        for (topic, text) in figures.iter() {
            let Ok(name) = TopicName::parse(topic) else { continue };
            let Some(session) = self.sessions.get(slot as usize) else { return };
            let voices = &self.registries[index].voices;
            if !filter.matches(name) || !session.may_have(now, voices, Publisher::SERVER, name) {
                continue;
            }
            let message = met.adapt(Outgoing {
                topic,
                payload: text.as_bytes(),
                properties: PublishProperties::default(),
                qos: Qos::AtMostOnce,
                retain: true,
                identifiers: (0, &[]),
            });
            if self.offer(conn, &Outgoing { retain: true, ..message }, None, false, fx) == Offered::Full {
                self.counters.dropped_qos0 += 1;
                return;
            }
        }
    }
}
