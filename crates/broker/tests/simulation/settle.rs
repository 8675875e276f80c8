//! The steps; and the end of a run, when everything becomes quiet and is counted.

use std::collections::VecDeque;
use std::time::Duration;

use drawbridge_broker::EndedWhy;
use drawbridge_broker::storage::Record;

use crate::Rng;
use crate::model::{Answer, last_words};
use crate::sim::{Sim, stall};
use crate::turn::at;
use crate::world::Input;

impl Sim {
    /// One step of the run.
    pub fn one(&mut self, what: usize, rng: &mut Rng) {
        self.step += 1;
        let client = rng.below(self.actors());
        let shards = self.world.shards.len();
        match what {
            0..60 => {
                let busy = self.clients[client].socket.is_some();
                if !busy || rng.chance(10) {
                    self.connect(client, rng.below(shards), rng, None);
                }
            }
            60..110 => self.subscribe(client, rng, None),
            110..120 => self.unsubscribe(client, rng),
            120..280 => {
                for _ in 0..1 + rng.below(3) {
                    self.publish(client, rng);
                }
            }
            280..420 => self.read(client),
            420..520 => self.acknowledge(client, rng, 3),
            520..525 => self.disconnect(client, rng, false),
            525..540 => self.hang_up(client, rng),
            540..550 => {
                if let Some(socket) = self.clients[client].socket {
                    self.world.sockets[socket].stalled = true;
                }
            }
            550..570 => self.unstall(client),
            570..680 => self.bytes(rng),
            680..760 => self.link(rng),
            760..820 => {
                if !self.world.disk.stalled {
                    self.world.commit(1 + rng.below(4));
                }
            }
            820..880 => self.told(rng),
            880..910 => self.news(rng),
            910..930 => self.close(rng),
            930..965 => {
                self.world.now += Duration::from_millis(rng.below(400) as u64);
                let shard = rng.below(shards);
                self.turn(shard, vec![Input::Tick]);
            }
            965..970 => {
                // No shard leaves its inbox alone for 30 s, after which marks of cleared topics go.
                let most_s = if self.world.links.iter().flatten().all(VecDeque::is_empty) { 70 } else { 2 };
                self.world.now += Duration::from_secs(1 + rng.below(most_s) as u64);
            }
            970..973 => {
                let person = rng.below(4);
                self.new_policy(person, rng.below(4));
            }
            973..976 => {
                let why = *rng.pick(&[
                    EndedWhy::Blocked,
                    EndedWhy::Blocked,
                    EndedWhy::Revoked,
                    EndedWhy::Operator,
                    EndedWhy::Deleted,
                ]);
                let person = self.clients[client].person;
                self.block(person, why);
            }
            976..982 => {
                let person = self.clients[client].person;
                self.unblock(person);
            }
            982..986 => self.crash(rng),
            986..989 => stall(&mut self.world, true),
            989..995 => stall(&mut self.world, false),
            995..997 => self.forget(rng),
            _ => self.quiet(rng, rng.clone().chance(50)),
        }
        if self.world.is_quiet() {
            self.told_all();
        }
    }

    fn unstall(&mut self, client: usize) {
        let Some(socket) = self.clients[client].socket else { return };
        let state = &mut self.world.sockets[socket];
        state.stalled = false;
        if state.wants_write && state.conn.is_some() {
            let shard = state.shard;
            self.turn(shard, vec![Input::Drained(socket)]);
        }
    }

    /// Bytes of some clients come to a shard, in one turn.
    fn bytes(&mut self, rng: &mut Rng) {
        let ready: Vec<usize> = (0..self.world.sockets.len())
            .filter(|at| {
                let state = &self.world.sockets[*at];
                state.conn.is_some() && !state.up.is_empty()
            })
            .collect();
        if ready.is_empty() {
            return;
        }
        let first = *rng.pick(&ready);
        let shard = self.world.sockets[first].shard;
        let mut inputs = Vec::new();
        for socket in ready {
            if self.world.sockets[socket].shard == shard && (socket == first || rng.chance(30)) {
                let up = &mut self.world.sockets[socket].up;
                let count = if rng.chance(70) { up.len() } else { 1 + rng.below(up.len()) };
                inputs.push(Input::Bytes(socket, up.drain(..count).collect()));
            }
        }
        self.turn(shard, inputs);
    }

    fn link(&mut self, rng: &mut Rng) {
        let shards = self.world.shards.len();
        let mut ready = Vec::new();
        for to in 0..shards {
            let links = (0..shards).filter(|from| !self.world.links[*from][to].is_empty());
            ready.extend(links.map(|from| (Some(from), to)));
            ready.extend(Some((None, to)).filter(|_| !self.world.moves[to].is_empty()));
        }
        if ready.is_empty() {
            return;
        }
        let (from, to) = *rng.pick(&ready);
        let count = 1 + rng.below(4);
        let inputs = match from {
            Some(from) => take(&mut self.world.links[from][to], count).map(Input::Cross).collect(),
            None => take(&mut self.world.moves[to], 1)
                .map(|(socket, moving)| Input::Adopt(socket, moving))
                .collect(),
        };
        self.turn(to, inputs);
    }

    fn told(&mut self, rng: &mut Rng) {
        let shard = rng.below(self.world.shards.len());
        let count = 1 + rng.below(3);
        let inputs = take(&mut self.world.told[shard], count).map(Input::Told).collect();
        self.turn(shard, inputs);
    }

    fn news(&mut self, rng: &mut Rng) {
        let shard = rng.below(self.world.shards.len());
        let inputs = take(&mut self.world.news[shard], 1 + rng.below(2)).map(Input::News).collect();
        self.turn(shard, inputs);
    }

    /// A socket that is closed on either side frees its place.
    fn close(&mut self, rng: &mut Rng) {
        let ready: Vec<usize> = (0..self.world.sockets.len()).filter(|at| self.may_close(*at)).collect();
        if !ready.is_empty() {
            let socket = *rng.pick(&ready);
            self.turn(self.world.sockets[socket].shard, vec![Input::HungUp(socket)]);
        }
    }

    fn may_close(&self, socket: usize) -> bool {
        let state = &self.world.sockets[socket];
        state.conn.is_some() && (state.server_closed || (state.client_gone && state.up.is_empty()))
    }

    /// All that is on its way arrives, until nothing moves any more; `answering`: and clients answer.
    fn quiet(&mut self, rng: &mut Rng, answering: bool) {
        stall(&mut self.world, false);
        for _ in 0..400 {
            self.step += 1;
            let before = self.signature();
            for client in 0..self.clients.len() {
                self.unstall(client);
            }
            while self.world.sockets.iter().any(|s| s.conn.is_some() && !s.up.is_empty()) {
                self.bytes(rng);
            }
            let shards = self.world.shards.len();
            for to in 0..shards {
                while !self.world.news[to].is_empty() {
                    let inputs = take(&mut self.world.news[to], 2).map(Input::News).collect();
                    self.turn(to, inputs);
                }
                while !self.world.moves[to].is_empty() {
                    let inputs =
                        take(&mut self.world.moves[to], 1).map(|(s, m)| Input::Adopt(s, m)).collect();
                    self.turn(to, inputs);
                }
                for from in 0..shards {
                    let inputs =
                        take(&mut self.world.links[from][to], usize::MAX).map(Input::Cross).collect();
                    self.turn(to, inputs);
                }
                self.world.commit(usize::MAX);
                let inputs = take(&mut self.world.told[to], usize::MAX).map(Input::Told).collect();
                self.turn(to, inputs);
            }
            for socket in 0..self.world.sockets.len() {
                if self.may_close(socket) {
                    self.turn(self.world.sockets[socket].shard, vec![Input::HungUp(socket)]);
                }
            }
            self.world.now += Duration::from_millis(60);
            for shard in 0..shards {
                self.turn(shard, vec![Input::Tick]);
            }
            for client in 0..self.clients.len() {
                self.read(client);
                if answering {
                    self.acknowledge(client, rng, 100);
                }
            }
            if self.world.is_quiet() {
                self.told_all();
                if before == self.signature() {
                    break;
                }
            }
        }
        assert!(self.world.is_quiet(), "it never becomes quiet");
        if answering {
            self.check_owed(false);
        }
    }

    fn signature(&self) -> (u64, usize, usize, usize, u64) {
        let todo = self.clients.iter().map(|client| client.todo.len()).sum();
        let up: u64 = self.world.sockets.iter().map(|s| s.up_at + s.up.len() as u64).sum();
        let gone = self.world.sockets.iter().filter(|s| s.gone).count();
        (self.delivered, todo, self.world.disk.stored, gone, up)
    }

    /// What must have come has come, to those who are there; `all`: everybody has been back.
    fn check_owed(&self, all: bool) {
        let now_ms = self.world.wall_ms();
        let missed: Vec<String> = self
            .owed
            .iter()
            .filter(|owed| !owed.done && !owed.dropped)
            .filter(|owed| {
                let (p, sess) = (&self.pubs[at(owed.n)], &self.sess[owed.sess]);
                let there = sess.socket.is_some_and(|s| self.clients[sess.client].socket == Some(s));
                let there = there && self.clients[sess.client].connected;
                p.acked
                    && !p.lost
                    && p.expires_ms.is_none_or(|end| end > now_ms + 1_000)
                    && sess.exists(now_ms) == Answer::Yes
                    && (there || (all && sess.stored))
            })
            .map(|owed| {
                let (p, sess) = (&self.pubs[at(owed.n)], &self.sess[owed.sess]);
                format!("{} on {} at {} to client {} ({owed:?})", owed.n, p.topic, p.qos, sess.client)
            })
            .collect();
        let full = self.world.total(|stats| stats.queue_full);
        assert!(missed.len() as u64 <= full, "not delivered, {full} for a full queue: {missed:#?}");
        let untold: Vec<_> = self
            .wanted
            .iter()
            .filter(|wanted| !wanted.done && !all)
            .filter(|wanted| {
                let client = self.world.sockets[wanted.socket].client;
                self.clients[client].socket == Some(wanted.socket) && self.clients[client].connected
            })
            .collect();
        assert!(untold.is_empty(), "retained and not told: {untold:?}");
    }

    /// Everybody comes back and takes what waits, then leaves for good; nothing is left.
    pub fn end(&mut self, rng: &mut Rng) {
        self.note(|| "the end begins".to_owned());
        self.quiet(rng, true);
        for person in 0..self.people.len() {
            self.unblock(person);
        }
        self.quiet(rng, true);
        let shards = self.world.shards.len();
        // What all say again when they are back may be too much for one of them.
        for _ in 0..3 {
            self.world.now += Duration::from_secs(11); // take-overs are counted for 10 s
            for client in 0..self.clients.len() {
                if !self.clients[client].connected || self.clients[client].ends.is_some() {
                    self.connect(client, rng.below(shards), rng, Some(true));
                }
            }
            self.quiet(rng, true);
        }
        for client in 0..self.clients.len() {
            let there = self.clients[client].connected;
            let state = &self.clients[client];
            assert!(there || self.people[state.person].blocked, "client {client} is not let in");
        }
        self.check_owed(true);
        self.check_retained(rng);
        self.world.now += Duration::from_secs(11);
        for client in 0..self.clients.len() {
            self.connect(client, rng.below(shards), rng, Some(false));
        }
        self.quiet(rng, true);
        for client in 0..self.clients.len() {
            self.disconnect(client, rng, true);
        }
        self.quiet(rng, true);
        // Wills that wait, and what the wheel still holds.
        for _ in 0..3 {
            self.world.now += Duration::from_secs(101);
            self.quiet(rng, true);
        }
        self.check_nothing_is_left();
    }

    /// A stranger who may everything is told the last word on each topic.
    fn check_retained(&mut self, rng: &mut Rng) {
        let lookers: Vec<usize> = (self.actors()..self.clients.len()).collect();
        for client in lookers {
            self.world.now += Duration::from_secs(11);
            self.connect(client, 0, rng, Some(false));
            self.quiet(rng, true);
            self.clients[client].seen_retained.clear();
            let registry = self.people[self.clients[client].person].registry;
            self.subscribe(client, &mut Rng(0), Some("#"));
            self.quiet(rng, true);
            let seen = self.clients[client].seen_retained.clone();
            for ((_, topic), words) in self.words.iter().filter(|((r, _), _)| *r == registry) {
                let found = seen.get(topic).copied().unwrap_or(0);
                let last = last_words(words, &self.pubs);
                let withheld = last.iter().any(|n| {
                    let p = &self.pubs[at(*n)];
                    let person = &self.people[p.person];
                    *n > 0 && (person.muted || person.blocked || !self.may_publish(person.rights, topic))
                });
                assert!(
                    last.contains(&found) || (found == 0 && withheld),
                    "the last word on {topic} of registry {registry} is {found}, not one of {last:?}: {words:?}"
                );
            }
        }
    }

    fn check_nothing_is_left(&self) {
        let image = self.world.disk.image();
        assert!(image.sessions.is_empty(), "sessions in the image: {:?}", image.sessions.keys());
        let retained: usize = image.retained.values().map(std::collections::BTreeMap::len).sum();
        assert_eq!(image.references.len(), retained, "references: {:?}", image.references);
        for shard in &self.world.shards {
            let stats = shard.stats();
            let left = [
                ("connections", stats.connections),
                ("sessions", stats.sessions),
                ("subscriptions", stats.subscriptions),
                ("stored sessions", stats.sessions_stored),
                ("waiting", stats.waiting),
                ("waiting bytes", stats.waiting_bytes),
                ("queued", stats.queued),
                ("behind", stats.sessions_behind),
                ("timers", stats.timers),
                ("wills", stats.delayed_wills),
                ("asked of other shards", stats.gathering),
                ("of other shards", stats.foreign),
            ];
            for (what, count) in left {
                assert_eq!(count, 0, "{what} are left");
            }
        }
        let messages = self.world.disk.batches.iter().flat_map(|(_, batch)| &batch.records);
        let numbers: Vec<u64> = messages
            .filter_map(|record| match record {
                Record::Message { id, .. } => Some(id.0),
                _ => None,
            })
            .collect();
        let different: std::collections::BTreeSet<&u64> = numbers.iter().collect();
        assert_eq!(different.len(), numbers.len(), "a number of a message was given twice");
    }
}

fn take<T>(queue: &mut VecDeque<T>, count: usize) -> std::vec::IntoIter<T> {
    queue.drain(..count.min(queue.len())).collect::<Vec<_>>().into_iter()
}
