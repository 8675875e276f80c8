//! What a driver does: a turn of a shard, from its inputs to what leaves it; and what the model learns by it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_broker::storage::SessionId;
use drawbridge_broker::{Admitted, ConnId, Crossing, Effect, Ended, Message, Refused, RefusedReason, What};
use drawbridge_mqtt::codec::{Frame, Packet, Side, decode};
use drawbridge_names::{Epoch, KeyId, MqttClientId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_policy::Rights;

use crate::model::{Answer, Heard, Owed, Pub, Sess, Wanted, Word, last_words, matches};
use crate::sim::{Sim, registry_name};
use crate::world::{Fetched, Input, News, Told, lets_read};

pub fn number_of(message: &Message) -> Option<u64> {
    std::str::from_utf8(&message.payload).ok()?.parse().ok()
}

pub fn at(n: u64) -> usize {
    usize::try_from(n).expect("a small number")
}

fn brief(record: &drawbridge_broker::storage::Record) -> String {
    use drawbridge_broker::storage::Record;
    match record {
        Record::Message { id, message, to, retained } => {
            let n = number_of(message);
            format!("Message {id:?}: {n:?} on {} to {to:?}, retained {retained}", message.topic)
        }
        Record::Session(session) => {
            format!(
                "Session {:?} of {} {}, expiry {}",
                session.id, session.uid, session.client_id, session.expiry_s
            )
        }
        other => format!("{other:?}"),
    }
}

impl Sim {
    /// Calls a shard with each input, then stores and hands on what came of it.
    pub fn turn(&mut self, shard: usize, inputs: Vec<Input>) {
        let mut arrived = Vec::new();
        let mut after = Vec::new();
        for input in inputs {
            let mut fx = Vec::new();
            self.call(shard, input, &mut fx, &mut arrived);
            self.world.note_made(shard, self.step);
            self.at_once(shard, fx, &mut after);
        }
        loop {
            if self.world.shape.durable
                && let Some(batch) = self.world.shards[shard].take_batch()
            {
                if self.loud {
                    batch
                        .records
                        .iter()
                        .for_each(|record| self.note(|| format!("  {shard} stores {}", brief(record))));
                }
                self.world.disk.submit(shard, batch);
            }
            let mut fx = Vec::new();
            for effect in std::mem::take(&mut after) {
                self.carry_out(shard, effect, &mut fx);
            }
            if fx.is_empty() {
                break;
            }
            self.world.note_made(shard, self.step);
            self.at_once(shard, fx, &mut after);
        }
        for n in arrived {
            let p = &mut self.pubs[at(n)];
            if p.links == 0 {
                p.firm = Some(self.step);
            }
        }
    }

    fn call(&mut self, shard: usize, input: Input, fx: &mut Vec<Effect>, arrived: &mut Vec<u64>) {
        let now = self.world.now;
        match input {
            Input::Bytes(socket, bytes) => {
                let state = &mut self.world.sockets[socket];
                state.up_at += bytes.len() as u64;
                let mut heard = Vec::new();
                while state.marks.front().is_some_and(|(mark, _)| *mark <= state.up_at) {
                    heard.extend(state.marks.pop_front().map(|(_, heard)| heard));
                }
                let Some(conn) = state.conn.filter(|_| state.is_open()) else { return };
                let mut numbers = Vec::new();
                for heard in heard {
                    if let Heard::Publish { n } = &heard {
                        numbers.push(*n);
                    }
                    self.heard(socket, &heard);
                }
                self.world.shards[shard].receive(now, conn, &bytes, fx);
                let closes =
                    fx.iter().any(|effect| matches!(effect, Effect::Close { conn: c, .. } if *c == conn));
                let denied = |effect: &Effect| matches!(effect, Effect::Report(r) if matches!(r.what, What::PublishDenied { .. }));
                let denies = fx.iter().any(denied);
                if closes || denies {
                    // What was refused, and what came behind that which ended the connection, was not heard.
                    for word in self.words.values_mut().flatten() {
                        word.certain &= !numbers.contains(&word.n);
                    }
                }
                if closes {
                    numbers.iter().for_each(|n| self.pubs[at(*n)].crashed = true);
                    if denies
                        && self.goodbyes.remove(&socket)
                        && let Some(sess) = self.socket_sess.get(&socket)
                    {
                        let sess = &mut self.sess[*sess];
                        sess.expires_as_before_or_now();
                    }
                }
                arrived.extend(numbers);
            }
            Input::HungUp(socket) => {
                let Some(conn) = self.world.sockets[socket].conn.take() else { return };
                self.world.sockets[socket].gone = true;
                self.connection_ended(socket);
                self.world.shards[shard].hung_up(now, conn, fx);
            }
            Input::Drained(socket) => {
                let Some(conn) = self.world.sockets[socket].conn else { return };
                self.world.take_output(socket);
                self.world.sockets[socket].wants_write = false;
                self.world.shards[shard].drained(now, conn, fx);
            }
            Input::Tick => self.world.shards[shard].tick(now, fx),
            Input::Cross(crossing) => {
                if let Crossing::Publish { message, .. } = &crossing
                    && let Some(n) = number_of(message)
                {
                    let p = &mut self.pubs[at(n)];
                    p.links -= 1;
                    if p.links == 0 {
                        p.firm = Some(self.step);
                    }
                }
                self.world.shards[shard].crossings(now, vec![crossing], fx);
            }
            Input::Adopt(socket, moving) => {
                // Asked once more, as when the answer was handed over.
                let asked = self.asked[&socket];
                if self.admit(socket).is_err() || asked.rights != Some(self.people[asked.person].rights) {
                    self.world.sockets[socket].gone = true;
                    return;
                }
                let conn = self.world.shards[shard].adopt(now, *moving, fx);
                let state = &mut self.world.sockets[socket];
                (state.shard, state.conn) = (shard, Some(conn));
            }
            Input::News(News::Answer { socket, conn }) => {
                if self.world.sockets[socket].conn != Some(conn) {
                    return;
                }
                let rights = self.people[self.asked[&socket].person].rights;
                if let Some(asked) = self.asked.get_mut(&socket) {
                    asked.rights = Some(rights);
                }
                let answer = self.admit(socket);
                self.world.shards[shard].answer(now, conn, answer, fx);
            }
            Input::News(News::Ends(which)) => {
                self.world.shards[shard].end_sessions(now, &which, fx);
                if let Ended::Policy { registry, uid, rights: Some(rights) } = &which {
                    self.rights_switched(shard, registry, *uid, rights);
                }
            }
            Input::Told(Told::Committed(number)) => self.world.shards[shard].committed(now, number, fx),
            Input::Told(Told::Fetched(session, messages)) => self.fetched(shard, session, messages, fx),
            Input::Told(Told::Judged(standing, session, messages)) => {
                for (registry, uid, rights) in standing {
                    self.world.shards[shard].learn_standing(&registry_name(registry), Uid(uid), rights);
                    self.world.voices_known.insert((shard, registry, uid));
                }
                self.world.shards[shard].fetched(now, session, messages, fx);
            }
            Input::Told(Told::Stalled(stalled)) => self.world.shards[shard].stalled(now, stalled, fx),
        }
    }

    /// The sessions of a principal that are open here have other rights; those that would lose something end, which
    /// is seen when their connections are closed.
    fn rights_switched(&mut self, shard: usize, registry: &RegistryName, uid: Uid, rights: &Arc<Rights>) {
        let Some(index) = self.rights.iter().position(|known| Arc::ptr_eq(known, rights)) else { return };
        for at in 0..self.sess.len() {
            let Some(socket) = self.sess[at].socket else { continue };
            let person = &self.people[self.sess[at].person];
            let whose = (registry_name(person.registry), Uid(person.uid));
            if self.world.sockets[socket].shard == shard && whose == (registry.clone(), uid) {
                self.sess[at].rights = index;
                self.socket_rights.entry(socket).or_default().push((self.step, index));
            }
        }
    }

    /// As the bridge does: how publishers stand who spoke before the start is asked first.
    fn fetched(&mut self, shard: usize, session: SessionId, messages: Fetched, fx: &mut Vec<Effect>) {
        let old = messages.iter().filter_map(|(id, message)| Some((id, message.as_ref()?)));
        let old = old.filter(|(id, _)| id.0 <= self.world.restored_message_max);
        let publishers = old.map(|(_, message)| (message.registry.clone(), message.publisher.uid.0));
        let publishers: BTreeSet<_> = publishers
            .filter_map(|(name, uid)| Some(((0..2).find(|registry| registry_name(*registry) == name)?, uid)))
            .filter(|(registry, uid)| !self.world.voices_known.contains(&(shard, *registry, *uid)))
            .collect();
        if publishers.is_empty() {
            self.world.shards[shard].fetched(self.world.now, session, messages, fx);
            return;
        }
        let standing = publishers.into_iter().map(|(registry, uid)| {
            let person = self.people.iter().find(|person| person.uid == uid).expect("it has spoken");
            let rights = (!person.blocked && !person.deleted).then(|| self.rights[person.rights].clone());
            (registry, uid, rights)
        });
        let judged = Told::Judged(standing.collect(), session, messages);
        self.world.told[shard].push_back(judged);
    }

    /// What must be done before the next input; the rest is kept for the end of the turn.
    pub fn at_once(&mut self, shard: usize, fx: Vec<Effect>, after: &mut Vec<Effect>) {
        for effect in fx {
            match effect {
                Effect::Authenticate { conn, .. } => {
                    let socket = self.world.socket_at(shard, conn).expect("it is open");
                    self.world.news[shard].push_back(News::Answer { socket, conn });
                }
                Effect::Admitted { conn } => self.admitted(shard, conn),
                Effect::Move { conn, shard: to, moving } => {
                    let socket = self.world.socket_at(shard, conn).expect("it is open");
                    self.world.sockets[socket].conn = None;
                    self.world.moves[to].push_back((socket, moving));
                }
                Effect::Close { conn, how } => {
                    if let Some(socket) = self.world.socket_at(shard, conn) {
                        assert!(!self.world.sockets[socket].server_closed, "closed once");
                        self.world.sockets[socket].server_closed = true;
                        self.connection_ended(socket);
                    }
                    after.push(Effect::Close { conn, how });
                }
                Effect::Report(report) => {
                    assert!(!matches!(report.what, What::ProtocolFault(_)), "no client broke it: {report:?}");
                    self.note(|| format!("report {:?}", report.what));
                }
                other => after.push(other),
            }
        }
    }

    pub fn carry_out(&mut self, shard: usize, effect: Effect, fx: &mut Vec<Effect>) {
        match effect {
            Effect::Write { conn } => {
                let Some(socket) = self.world.socket_at(shard, conn) else { return };
                if self.world.sockets[socket].stalled {
                    self.world.sockets[socket].wants_write = true;
                    return;
                }
                self.world.take_output(socket);
                self.world.shards[shard].drained(self.world.now, conn, fx);
            }
            Effect::Close { conn, how } => {
                if let Some(socket) = self.world.socket_at(shard, conn)
                    && lets_read(how)
                {
                    self.world.take_output(socket);
                }
            }
            Effect::Cross { shard: to, crossing } => {
                assert_ne!(to, shard);
                if let Crossing::Publish { message, .. } = &crossing
                    && let Some(n) = number_of(message)
                {
                    let p = &mut self.pubs[at(n)];
                    p.links += 1;
                    p.firm = None;
                }
                self.world.links[shard][to].push_back(crossing);
            }
            Effect::Fetch { session, messages } => {
                let disk = &self.world.disk;
                let found = messages.into_iter().map(|id| (id, disk.message(id))).collect();
                self.world.told[shard].push_back(Told::Fetched(session, found));
            }
            Effect::Resume { .. } => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    /// What the admission says now.
    fn admit(&self, socket: usize) -> Result<Admitted, Refused> {
        let client = &self.clients[self.world.sockets[socket].client];
        let asked = self.asked[&socket];
        let person = &self.people[asked.person];
        if person.blocked || person.deleted {
            let reason = RefusedReason::NotAuthorized;
            return Err(Refused { reason, for_owner: None, server_time_s: None, hint: None });
        }
        Ok(Admitted {
            registry: registry_name(person.registry),
            uid: Uid(person.uid),
            name: PrincipalName::parse(&format!("p{}", person.uid)).expect("a name"),
            kind: PrincipalKind::Application,
            client_id: MqttClientId::parse(&client.id).expect("a client id"),
            assigned_client_id: false,
            rights: self.rights[person.rights].clone(),
            ends: asked.ends,
            kid: KeyId::parse(&"k".repeat(43)).ok(),
            epoch: Epoch(0),
            policy_epoch: 0,
            sessions_max: 100,
            leading_slash: false,
            proven: false,
            closes: None,
            ticket: None,
        })
    }

    /// The shard has let a client in: is the session the one it should be?
    fn admitted(&mut self, shard: usize, conn: ConnId) {
        let socket = self.world.socket_at(shard, conn).expect("it is open");
        let version = self.world.sockets[socket].version;
        let output = self.world.shards[shard].output(conn).cloned();
        let client_at = self.world.sockets[socket].client;
        let present = match &output {
            // It waits until the end of the old session is stored.
            None => false,
            Some(output) => match decode(output, Some(version), usize::MAX, Side::FromServer) {
                Ok(Frame::Complete { packet: Packet::ConnAck(connack), .. }) => {
                    assert!(!connack.reason.is_error(), "admitted and refused");
                    connack.session_present
                }
                other => panic!("CONNACK comes first: {other:?}"),
            },
        };
        self.presents.insert(socket, present);
        let now_ms = self.world.wall_ms();
        let client = &self.clients[client_at];
        let crate::sim::Connecting { clean, expiry_s, person, .. } = self.asked[&socket];
        let expiry_s =
            if self.world.shape.durable { expiry_s.min(self.world.shape.session_expiry_s_max) } else { 0 };
        let old = client.sess;
        let expected = match old.map(|sess| self.sess[sess].exists(now_ms)) {
            _ if clean => Answer::No,
            None => Answer::No,
            // It ends with its connection, wherever that is.
            Some(_) if old.is_some_and(|sess| !self.sess[sess].stored && !self.sess[sess].crashed) => {
                Answer::No
            }
            Some(expected) => expected,
        };
        self.note(|| {
            format!("client {client_at} admitted on {shard}, present {present}, expected {expected:?}")
        });
        match expected {
            Answer::Yes => assert!(present, "the session of client {client_at} is lost"),
            Answer::No => {
                assert!(!present, "client {client_at} had no session");
            }
            Answer::Maybe => {}
        }
        let rights = self.people[person].rights;
        let known = |sess: &Sess| !sess.gone && (sess.certain || !sess.crashed);
        let resumed = old.filter(|sess| present && known(&self.sess[*sess]));
        if let Some(old) = old {
            for (other, state) in self.world.sockets.iter().enumerate() {
                let both = other != socket && self.sess[old].socket == Some(other) && self.sess[old].stored;
                assert!(!both || !state.is_open(), "client {client_at} has two connections to one session");
            }
        }
        let sess = match resumed {
            Some(sess) => sess,
            None => {
                // One on another shard ends when that hears of it.
                if let Some(old) = old.filter(|old| self.sess[*old].socket.is_none()) {
                    self.session_gone(old);
                }
                self.sess.push(Sess {
                    client: client_at,
                    person,
                    registry: self.people[person].registry,
                    stored: false,
                    expiry_s: (0, 0),
                    ended_ms: None,
                    ended_old: None,
                    expiry_old: (0, 0),
                    certain: present,
                    gone: false,
                    lenient: present,
                    socket: None,
                    rights,
                    filters: Default::default(),
                    ever: Vec::new(),
                    seen: Default::default(),
                    order: Default::default(),
                    asked_retained: Vec::new(),
                    breaks: Vec::new(),
                    crashed: false,
                    deaf: false,
                });
                self.sess.len() - 1
            }
        };
        // A will that waited is not spoken, or it is now.
        let (place, now) = (self.world.disk.batches.len() + 1, self.world.now);
        for p in self.pubs.iter_mut().filter(|p| p.is_will && p.client == client_at && p.arrived.is_some()) {
            match (resumed, p.not_before) {
                (Some(_), Some(due)) if due > now + Duration::from_millis(100) => {
                    p.dead = p.dead.or(Some(place))
                }
                (None, Some(due)) => p.not_before = Some(due.min(now)),
                _ => {}
            }
        }
        let state = &mut self.sess[sess];
        if resumed.is_none() && !present {
            state.expiry_old = (expiry_s, expiry_s);
            state.expiry_s = (expiry_s, expiry_s);
        }
        state.expires_after(expiry_s);
        state.stored = expiry_s > 0 || present;
        state.ended_old = state.ended_ms.take().map(|(lo, _)| lo);
        state.rights = rights;
        state.deaf = false;
        state.socket = Some(socket);
        self.people[person].muted = false;
        self.socket_rights.entry(socket).or_default().push((self.step, rights));
        self.clients[client_at].sess = Some(sess);
        self.socket_sess.insert(socket, sess);
    }

    pub fn session_gone(&mut self, sess: usize) {
        self.sess[sess].gone = true;
        self.sess[sess].socket = None;
        self.sess[sess].crashed = false;
        let client = self.sess[sess].client;
        let now = self.world.now;
        for p in self.pubs.iter_mut().filter(|p| p.is_will && p.client == client && p.arrived.is_some()) {
            p.not_before = p.not_before.map(|due| due.min(now));
        }
    }

    /// The connection is no more, for the shard.
    fn connection_ended(&mut self, socket: usize) {
        let Some(&sess) = self.socket_sess.get(&socket) else { return };
        if self.sess[sess].socket != Some(socket) {
            // It was ended by its successor, in the same call.
            if self.ended.insert(socket) {
                self.will_of(socket, sess);
            }
            return;
        }
        if !self.ended.insert(socket) {
            return;
        }
        let now_ms = self.world.wall_ms();
        let state = &mut self.sess[sess];
        state.socket = None;
        state.breaks.push(self.step);
        state.ended_ms = Some((now_ms, now_ms));
        let stays = state.stored && state.expiry_s.1 > 0 && !self.people[state.person].deleted;
        self.will_of(socket, sess);
        if !stays {
            self.session_gone(sess);
        }
    }

    fn will_of(&mut self, socket: usize, sess: usize) {
        let Some(n) = self.wills.remove(&socket) else { return };
        let (now, step, place) = (self.world.now, self.step, self.world.disk.batches.len() + 1);
        let delay = self.will_delays.get(&n).copied().unwrap_or(0).min(self.sess[sess].expiry_s.1);
        let said_goodbye = self.goodbyes.contains(&socket);
        let p = &mut self.pubs[at(n)];
        p.arrived = Some(step);
        p.arrivals = 1;
        p.not_before = Some(now + Duration::from_secs(u64::from(delay)));
        if said_goodbye {
            p.dead = Some(place);
        }
    }

    /// The last byte of a packet has come to the shard.
    fn heard(&mut self, socket: usize, heard: &Heard) {
        let Some(&sess) = self.socket_sess.get(&socket) else { return };
        if self.sess[sess].socket != Some(socket) {
            return;
        }
        match heard {
            Heard::Disconnect { with_will, expiry_s } => {
                // After the end of its right nothing is heard.
                let in_time = self.asked[&socket].ends.is_none_or(|ends| ends > self.world.now);
                if !in_time {
                    return;
                }
                if !with_will {
                    self.goodbyes.insert(socket);
                }
                if let Some(expiry_s) = *expiry_s
                    && self.sess[sess].stored
                {
                    let expiry_s = expiry_s.min(self.world.shape.session_expiry_s_max);
                    self.sess[sess].expires_after(expiry_s);
                }
            }
            Heard::Subscribe { filter, ever, handling, is_new } => {
                use drawbridge_mqtt::codec::RetainHandling as Handling;
                let allowed = self.may_subscribe(self.sess[sess].rights, filter);
                let ever = &mut self.sess[sess].ever[*ever];
                ever.allowed = Some(allowed);
                if !allowed {
                    ever.until = Some(0);
                    return;
                }
                if *handling == Handling::DoNotSend {
                    return;
                }
                self.sess[sess].asked_retained.push(filter.clone());
                let pending = &self.clients[self.sess[sess].client].subs;
                let ends = pending
                    .iter()
                    .flat_map(|(_, subs)| subs)
                    .any(|s| s.ever.is_none() && s.filter == *filter);
                let sure = (*handling == Handling::SendAtSubscribe || *is_new) && !ends;
                if sure {
                    self.want_retained(socket, sess, filter);
                }
            }
            Heard::Publish { n } => self.arrives(socket, sess, *n),
        }
    }

    fn want_retained(&mut self, socket: usize, sess: usize, filter: &str) {
        let registry = self.sess[sess].registry;
        if !self.may_subscribe(self.sess[sess].rights, filter) {
            return;
        }
        let mut wanted = Vec::new();
        for ((at_registry, topic), words) in &self.words {
            let [n] = last_words(words, &self.pubs)[..] else { continue };
            if *at_registry != registry || !matches(filter, topic) || n == 0 {
                continue;
            }
            let p = &self.pubs[at(n)];
            let newest_is_firm = words.iter().all(|word| self.pubs[at(word.n)].firm.is_some());
            if newest_is_firm && self.may_have(sess, p) && p.expires_ms.is_none() {
                wanted.push(Wanted { n, socket, topic: topic.clone(), registry, done: false });
            }
        }
        self.wanted.extend(wanted);
    }

    /// Whether nothing that is known now stands against it.
    pub fn may_have(&self, sess: usize, p: &Pub) -> bool {
        let sess = &self.sess[sess];
        let (owner, publisher) = (&self.people[sess.person], &self.people[p.person]);
        let known = |person: &crate::sim::Person| person.told.is_some() && !person.blocked;
        known(owner)
            && !sess.deaf
            && known(publisher)
            && !publisher.muted
            && !owner.muted
            && self.may_receive(sess.rights, &p.topic)
            && self.may_receive(owner.rights, &p.topic)
            && self.may_publish(publisher.rights, &p.topic)
    }

    /// A message has come to the server.
    fn arrives(&mut self, socket: usize, from: usize, n: u64) {
        let (step, now) = (self.step, self.world.now);
        let shard = self.world.sockets[socket].shard;
        let refused = !self.may_publish(self.sess[from].rights, &self.pubs[at(n)].topic);
        let p = &mut self.pubs[at(n)];
        p.refusable |= refused;
        if refused {
            return;
        }
        let again = p.arrived.is_some();
        let anew = !again || p.qos < 2 || p.crashed;
        p.arrived = p.arrived.or(Some(step));
        p.arrivals += 1;
        p.firm = None;
        let expires = p.expires_ms;
        if !again && let Some(life_ms) = expires {
            p.expires_ms = Some(self.world.wall_ms() + life_ms);
        }
        if !anew {
            return;
        }
        let p = &self.pubs[at(n)];
        if p.retain {
            // Perhaps it is remembered as the one that came before the crash.
            let certain = !(again && p.qos == 2);
            let word = Word { n, at: now, shard, step, certain };
            let key = (p.registry, p.topic.clone());
            self.wanted
                .iter_mut()
                .filter(|w| (w.registry, &w.topic) == (key.0, &key.1))
                .for_each(|w| w.done = true);
            self.words.entry(key).or_default().push(word);
        }
        if p.qos == 0 || p.clears {
            return;
        }
        let now_ms = self.world.wall_ms();
        let mut owed = Vec::new();
        for (index, sess) in self.sess.iter().enumerate() {
            let p = &self.pubs[at(n)];
            let away = sess.socket.is_none();
            if sess.registry != p.registry
                || sess.exists(now_ms) != Answer::Yes
                || (away && !sess.stored)
                || !self.may_have(index, p)
                || sess.seen.contains_key(&n)
                || (again && p.qos == 2 && !self.owed.iter().any(|owed| owed.n == n && owed.sess == index))
                || self.owed.iter().any(|owed| {
                    owed.n == n && owed.sess == index && (!owed.dropped || (owed.denied && p.qos == 2))
                })
            {
                continue;
            }
            let own = index == from;
            let mut qos = 0;
            let mut exact = true;
            let (mut as_published, mut identifiers) = (false, Vec::new());
            for (filter, state) in sess.filters.iter().filter(|(filter, _)| matches(filter, &p.topic)) {
                let open: Vec<_> =
                    sess.ever.iter().filter(|e| e.filter == *filter && e.until.is_none()).collect();
                exact &= state.certain && open.len() == 1;
                let counts = |asked: &crate::model::Asked| !(own && asked.no_local);
                if state.certain && open.iter().all(|e| counts(&e.asked)) {
                    qos = qos.max(open.iter().map(|e| e.asked.qos).min().unwrap_or(0));
                }
                for ever in open.iter().filter(|e| counts(&e.asked)) {
                    as_published |= ever.asked.as_published;
                    identifiers.extend(Some(ever.asked.identifier).filter(|id| *id != 0));
                }
            }
            if qos > 0 {
                identifiers.sort_unstable();
                let terms = (qos.min(p.qos), p.retain && as_published, identifiers);
                let exact = Some(terms).filter(|_| exact && !again);
                owed.push(Owed { n, sess: index, exact, done: false, dropped: false, denied: false });
            }
        }
        self.owed.extend(owed);
    }
}
