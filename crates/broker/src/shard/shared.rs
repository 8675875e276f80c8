//! Shared subscriptions: a group of sessions of which one gets each message.
//!
//! A group is kept by one shard, its home, that is the same for all: there its filter stands in the routes,
//! and there a member is chosen for each message. A member on another shard is given the message from there.
//! A member that is connected and keeps up comes before one that does not, and that before one that is away;
//! among equals they take turns.
//!
//! Source: MQTT 5.0 section 4.8.2. Served to clients of 3.1.1 too.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use drawbridge_mqtt::codec::Qos;
use drawbridge_names::{RegistryName, TopicFilter, TopicName};

use super::flow::Stage;
use super::outgoing::Publication;
use super::readers::{Fate, Met, Owing, Route};
use super::session::Session;
use super::stored::Waiter;
use super::{Later, Shard};
use crate::effect::{Crossing, Effect};
use crate::message::Message;
use crate::routes::Subscriber;
use crate::storage::{MessageId, SessionId, Terms};

/// The sessions that share a subscription.
pub(super) struct Group {
    /// As it was subscribed to: `$share/NAME/FILTER`.
    share: TopicFilter,
    filter: TopicFilter,
    members: Vec<Member>,
    /// Whose turn it is.
    next: usize,
}

/// A session that shares a subscription.
#[derive(Debug, Clone)]
pub struct Member {
    pub(crate) shard: usize,
    pub(crate) slot: u32,
    /// Tells it from another session that has had the slot.
    pub(crate) tag: u64,
    pub(crate) terms: Terms,
    pub(crate) stored: Option<SessionId>,
    pub(crate) connected: bool,
}

/// What a shard tells the home of a group.
#[derive(Debug, Clone)]
pub struct Sharing {
    pub(crate) registry: RegistryName,
    pub(crate) share: TopicFilter,
    pub(crate) change: Change,
}

/// What became of a member.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// It is one now, or on these terms, or connected or not.
    Is(Member),
    /// It is none any more.
    Leaves { shard: usize, slot: u32 },
    /// A member cannot have this message, or is gone for good with it unread: another one gets it.
    HandsBack {
        message: Arc<Message>,
        /// Members that cannot have it, by shard and tag.
        not: Vec<(usize, u64)>,
    },
}

/// A message for one member, chosen at the home of its group.
#[derive(Debug, Clone)]
pub struct Given {
    pub(crate) message: Arc<Message>,
    pub(crate) member: Member,
    pub(crate) share: TopicFilter,
    /// Members that cannot have it.
    pub(crate) not: Vec<(usize, u64)>,
}

/// A message of which a group gets one copy.
pub(super) struct Turn {
    pub(super) group: usize,
    /// Its record is not written with this call.
    pub(super) foreign: bool,
    /// Members that cannot have it, by shard and tag.
    pub(super) not: Vec<(usize, u64)>,
}

/// Slots in routes from here on are groups.
const GROUPS: u32 = 1 << 31;

/// The group that a slot in the routes stands for.
pub(super) fn group_of(slot: u32) -> Option<usize> {
    slot.checked_sub(GROUPS).map(|group| group as usize)
}

/// The name and the filter of a shared subscription; `None` for any other.
///
/// # Errors
/// Why it is none that can be subscribed to. Source: [MQTT-4.8.2-1], [MQTT-4.8.2-2] (5.0).
pub(super) fn parse_share(text: &str) -> Option<Result<(&str, TopicFilter), &'static str>> {
    let rest = text.strip_prefix("$share")?;
    let rest = match rest.strip_prefix('/') {
        Some(rest) => rest,
        None if rest.is_empty() => {
            return Some(Err("it lacks its group and its filter: $share/GROUP/FILTER"));
        }
        None => return None, // `$shared/...` is a topic like others
    };
    let parsed = match rest.split_once('/') {
        None => Err("it lacks its filter: $share/GROUP/FILTER"),
        Some((name, _)) if name.is_empty() || name.contains(['+', '#']) => {
            Err("the name of its group is empty or has a wildcard")
        }
        Some((name, filter)) => match TopicFilter::parse(filter) {
            Ok(filter) => Ok((name, filter)),
            Err(_) => Err("what is behind its group is no topic filter"),
        },
    };
    Some(parsed)
}

impl Shard {
    /// The shard that keeps the group.
    fn home_of(&self, registry: &RegistryName, share: &TopicFilter) -> usize {
        let mut hasher = DefaultHasher::new();
        (registry.as_str(), share.as_str()).hash(&mut hasher);
        let shards = self.config.shards.max(1) as u64;
        usize::try_from(hasher.finish() % shards).unwrap_or(0)
    }

    /// Tells the home of a group, here or elsewhere, of a change.
    pub(super) fn tell_home(&mut self, registry: usize, share: &TopicFilter, change: Change) {
        let registry = self.registries[registry].name.clone();
        let home = self.home_of(&registry, share);
        let sharing = Sharing { registry, share: share.clone(), change };
        self.later.push_back(Later::Sharing { home, sharing });
    }

    /// A session is a member of the group from now on, or on other terms.
    pub(super) fn share(&mut self, slot: u32, share: &TopicFilter, terms: Terms) {
        let session = &self.sessions[slot as usize];
        let member = Member {
            shard: self.config.index,
            slot,
            tag: session.tag,
            terms,
            stored: session.stored.as_ref().map(|stored| stored.id),
            connected: session.conn.is_some(),
        };
        self.tell_home(session.registry, share, Change::Is(member));
    }

    /// A session has come or gone: the homes of its groups hear of it.
    pub(super) fn tell_groups(&mut self, slot: u32) {
        let session = &self.sessions[slot as usize];
        if session.shares == 0 {
            return;
        }
        let shares: Vec<(TopicFilter, Terms)> =
            session.filters.iter().filter_map(|(filter, s)| Some((filter.clone(), s.shared?))).collect();
        for (share, terms) in shares {
            self.share(slot, &share, terms);
        }
    }

    /// A session that has ended hands back what it had only as a member of a group, and had not answered.
    ///
    /// What was sent at QoS 2 is not sent to another [MQTT-4.8.2-5] (5.0).
    pub(super) fn hand_back(&mut self, session: &Session) {
        let owed = session.flow.unanswered().filter(|(stage, sent, owed)| {
            *stage == Stage::Publish && !(*sent && owed.qos == Qos::ExactlyOnce)
        });
        let back = owed.filter_map(|(_, _, owed)| Some((owed.share.clone()?, owed.message.as_ref()?)));
        let back: Vec<_> = back.map(|(share, kept)| (share, Arc::clone(&kept.message))).collect();
        for (share, message) in back {
            self.tell_home(session.registry, &share, Change::HandsBack { message, not: Vec::new() });
        }
    }

    /// Carries out, at home, what became of a member.
    pub(super) fn sharing(&mut self, now: Instant, sharing: Sharing, fx: &mut Vec<Effect>) {
        let Sharing { registry, share, change } = sharing;
        let registry = self.registry(&registry);
        let known = self.registries[registry].group_of.get(&share).copied();
        match (change, known) {
            (Change::Is(member), Some(group)) => self.put_member(registry, group, member),
            (Change::Is(member), None) => {
                let Some(Ok((_, filter))) = parse_share(share.as_str()) else { return };
                let groups = &mut self.registries[registry].groups;
                let members = Vec::new();
                let group =
                    groups.insert(Group { share: share.clone(), filter: filter.clone(), members, next: 0 });
                let slot = GROUPS | u32::try_from(group).expect("a shard has fewer than 2^31 groups");
                let route = Subscriber {
                    slot,
                    identifier: 0,
                    qos: Qos::ExactlyOnce,
                    no_local: false,
                    retain_as_published: true,
                };
                self.registries[registry].group_of.insert(share, group);
                self.registries[registry].routes.insert(&filter, route);
                self.interest.add(self.config.index, 1);
                self.put_member(registry, group, member);
            }
            (Change::Leaves { shard, slot }, Some(group)) => self.remove_member(registry, group, shard, slot),
            (Change::HandsBack { message, not }, Some(group)) => {
                self.give_again(now, registry, group, &message, not, fx);
            }
            (Change::Leaves { .. } | Change::HandsBack { .. }, None) => {}
        }
    }

    fn put_member(&mut self, registry: usize, group: usize, member: Member) {
        let members = &mut self.registries[registry].groups[group].members;
        let known = members.iter_mut().find(|known| (known.shard, known.slot) == (member.shard, member.slot));
        let keeps = usize::from(member.stored.is_some());
        match known {
            Some(known) => {
                self.interest.keep_less(self.config.index, usize::from(known.stored.is_some()));
                *known = member;
            }
            None => members.push(member),
        }
        // Who publishes elsewhere must ask here to whom the message is owed.
        self.interest.keep_more(self.config.index, keeps);
    }

    fn remove_member(&mut self, registry: usize, group: usize, shard: usize, slot: u32) {
        let registry = &mut self.registries[registry];
        let members = &mut registry.groups[group].members;
        let Some(at) = members.iter().position(|member| (member.shard, member.slot) == (shard, slot)) else {
            return;
        };
        let member = members.remove(at);
        let is_empty = members.is_empty();
        self.interest.keep_less(self.config.index, usize::from(member.stored.is_some()));
        if is_empty {
            let gone = registry.groups.remove(group);
            registry.group_of.remove(&gone.share);
            let slot = GROUPS | u32::try_from(group).expect("it was one when it was inserted");
            registry.routes.remove(&gone.filter, slot);
            self.interest.sub(self.config.index, 1);
        }
    }

    /// Gives a message to one member of a group.
    pub(super) fn give(
        &mut self,
        now: Instant,
        publication: &mut Publication<'_>,
        turn: Turn,
        owing: &mut Owing,
        fx: &mut Vec<Effect>,
    ) {
        let Turn { group, foreign, not } = turn;
        let Some((member, share)) = self.choose(now, publication, group, &not) else { return };
        if member.shard == self.config.index {
            let met = Met::of_member(&member, share);
            self.deliver(now, publication, &met, &mut Route::to_one(foreign), owing, fx);
            return;
        }
        let message = self.stored(now, publication);
        let qos = publication.qos.min(member.terms.qos);
        if let Some(session) = member.stored.filter(|_| qos != Qos::AtMostOnce) {
            owing.to.push(member.terms.destination(session, qos, publication.retain));
            owing.shards.push(member.shard);
        }
        let shard = member.shard;
        fx.push(Effect::Cross {
            shard,
            crossing: Crossing::Given(Box::new(Given { message, member, share, not })),
        });
    }

    fn choose(
        &mut self,
        now: Instant,
        publication: &Publication<'_>,
        group: usize,
        not: &[(usize, u64)],
    ) -> Option<(Member, TopicFilter)> {
        let registry = &self.registries[publication.registry];
        let Group { members, next, share, .. } = &registry.groups[group];
        let (index, count) = (self.config.index, members.len());
        let turn = |n: usize| (next + n) % count.max(1);
        let mut best: Option<(u8, usize)> = None;
        for at in (0..count).map(turn) {
            let member = &members[at];
            if not.contains(&(member.shard, member.tag)) {
                continue;
            }
            let acknowledged = publication.qos.min(member.terms.qos) != Qos::AtMostOnce;
            let rank = if member.shard == index {
                // Another session may have its slot, before its end is heard of here.
                let session = self.sessions.get(member.slot as usize);
                let Some(session) = session.filter(|session| session.tag == member.tag) else { continue };
                let (uid, topic) = (publication.publisher.uid, publication.topic);
                if !session.may_be_owed(&registry.voices, uid, topic) {
                    continue;
                }
                if session.conn.is_some() && !session.has_ended(now) {
                    u8::from(session.is_behind())
                } else {
                    2
                }
            } else {
                if member.connected { 0 } else { 2 }
            };
            if rank == 2 && !(acknowledged && member.stored.is_some()) {
                continue;
            }
            if best.is_none_or(|(known, _)| rank < known) {
                best = Some((rank, at));
            }
            if rank == 0 {
                break;
            }
        }
        let (_, at) = best?;
        let chosen = (members[at].clone(), share.clone());
        self.registries[publication.registry].groups[group].next = at + 1;
        Some(chosen)
    }

    /// A message that its first reader has not answered goes to another member.
    fn give_again(
        &mut self,
        now: Instant,
        registry: usize,
        group: usize,
        message: &Arc<Message>,
        not: Vec<(usize, u64)>,
        fx: &mut Vec<Effect>,
    ) {
        let Ok(topic) = TopicName::parse(&message.topic) else { return };
        // It is stored anew: the record of old may be gone with the session it was owed to.
        let mut publication = Publication { stored: None, ..Publication::of(registry, topic, message) };
        let mut owing = Owing::default();
        let place = self.outbox.mark();
        self.templates.clear();
        self.give(now, &mut publication, Turn { group, foreign: false, not }, &mut owing, fx);
        if !owing.to.is_empty() {
            let message = self.stored(now, &mut publication);
            self.store_message(&message, owing.to, false, true, place);
            if let Some(id) = message.id {
                let told = owing.shards.into_iter().map(|shard| Waiter::Tell(shard, id));
                self.await_stored(told);
            }
        }
    }

    /// The home of a group has chosen a session of this shard.
    pub(super) fn given(&mut self, now: Instant, given: &Given, fx: &mut Vec<Effect>) {
        let Given { message, member, share, not } = given;
        let hand_back = || {
            let mut not = not.clone();
            not.push((member.shard, member.tag));
            Change::HandsBack { message: Arc::clone(message), not }
        };
        let here = self.sessions.get(member.slot as usize);
        let is_here = here.is_some_and(|session| session.tag == member.tag);
        // [MQTT-3.10.4-2] (5.0): it may have left the group meanwhile, and has been told that it has.
        let shares =
            here.is_some_and(|session| session.filters.get(share).is_some_and(|s| s.shared.is_some()));
        let registry = self.registry(&message.registry);
        let Ok(topic) = TopicName::parse(&message.topic) else { return };
        if !is_here {
            // It has ended meanwhile: the home has heard of it, or will; what is owed to it is owed to nobody.
            self.tell_home(registry, share, hand_back());
            return;
        }
        let stored = member.stored.filter(|_| message.qos.min(member.terms.qos) != Qos::AtMostOnce);
        if let (Some(session), Some(id)) = (stored, message.id) {
            self.note_foreign_one(id, session);
        }
        let mut publication = Publication::of(registry, topic, message);
        let met = Met::of_member(member, share.clone());
        let mut owing = Owing::default();
        self.templates.clear();
        let fate = if shares {
            self.deliver(now, &mut publication, &met, &mut Route::to_one(true), &mut owing, fx)
        } else {
            Fate::Withheld
        };
        if matches!(fate, Fate::Withheld) {
            self.tell_home(registry, share, hand_back());
        }
        if let (Some(_), Some(id), true) = (stored, message.id, owing.to.is_empty()) {
            self.is_done(member.slot, id);
        }
        let early = |id: &MessageId| self.stored_early.iter().position(|early| early == id);
        if let Some((id, at)) = message.id.and_then(|id| Some((id, early(&id)?))) {
            self.stored_early.remove(at);
            self.foreign_is_stored(now, id, fx);
        }
    }
}
