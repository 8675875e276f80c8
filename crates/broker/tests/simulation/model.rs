//! MQTT as its clients see it, slow and simple: what each session is owed, what may come to it, and in what
//! form. Written from the two standards; it knows nothing of how the broker is built.

use std::collections::BTreeMap;
use std::time::Instant;

use drawbridge_mqtt::codec::RetainHandling;

/// What a shard hears from a client, when the last byte of it has come.
#[derive(Debug, Clone)]
pub enum Heard {
    /// `ever`: its place in the session.
    Subscribe {
        filter: String,
        ever: usize,
        handling: RetainHandling,
        is_new: bool,
    },
    Publish {
        n: u64,
    },
    Disconnect {
        with_will: bool,
        expiry_s: Option<u32>,
    },
}

/// A message, from its first sending on. Its number is its payload.
#[derive(Debug)]
pub struct Pub {
    pub registry: usize,
    pub person: usize,
    pub client: usize,
    /// Tells those apart whose messages keep their order: the session, or the connection.
    pub source: u64,
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    pub clears: bool,
    /// In ms of the wall clock.
    pub expires_ms: Option<i64>,
    pub is_will: bool,
    /// A will that will not speak; the place of the storage when that was known.
    pub dead: Option<usize>,
    /// A will does not speak before.
    pub not_before: Option<Instant>,
    /// When the server had it first, and how often it has come.
    pub arrived: Option<u64>,
    pub arrivals: u32,
    pub links: u32,
    /// It is on its way to no other shard since.
    pub firm: Option<u64>,
    pub acked: bool,
    pub refusable: bool,
    /// The process has ended since it arrived.
    pub crashed: bool,
    /// The storage keeps it no more.
    pub lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub qos: u8,
    pub no_local: bool,
    pub as_published: bool,
    pub identifier: u32,
}

/// A subscription that has been asked for.
#[derive(Debug)]
pub struct Ever {
    pub filter: String,
    pub asked: Asked,
    pub from: u64,
    /// Known to be over since.
    pub until: Option<u64>,
    /// Whether the session might have it when the shard heard of it.
    pub allowed: Option<bool>,
}

#[derive(Debug, Default)]
pub struct FilterState {
    /// The server has said that it has it, and nothing has been asked since.
    pub certain: bool,
}

#[derive(Debug, Default)]
pub struct Seen {
    /// How often the application was handed it, by QoS.
    pub apps: [u32; 3],
    /// How often it came without DUP.
    pub plain: u32,
    pub last: Option<(u16, usize)>,
}

#[derive(Debug)]
pub struct Sess {
    pub client: usize,
    pub person: usize,
    pub registry: usize,
    pub stored: bool,
    /// The least and the greatest that may hold.
    pub expiry_s: (u32, u32),
    /// The least and the greatest that held since all was stored.
    pub expiry_old: (u32, u32),
    /// Away since, at the earliest and the latest, in ms of the wall clock.
    pub ended_ms: Option<(i64, i64)>,
    /// The same of its absence before: that it is back may not be stored yet.
    pub ended_old: Option<i64>,
    /// It is known to be stored.
    pub certain: bool,
    pub gone: bool,
    /// Nothing is known of what it had before: it is believed.
    pub lenient: bool,
    pub socket: Option<usize>,
    pub rights: usize,
    pub filters: BTreeMap<String, FilterState>,
    pub ever: Vec<Ever>,
    pub seen: BTreeMap<u64, Seen>,
    pub order: BTreeMap<(u64, String, u8), u64>,
    /// Filters for which retained messages were wanted.
    pub asked_retained: Vec<String>,
    /// When its connections ended.
    pub breaks: Vec<u64>,
    pub crashed: bool,
    /// Its owner was blocked when the process started: nothing is queued for it until it is back.
    pub deaf: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    Maybe,
}

impl Sess {
    /// It outlives its connection for so long from now on. What held before may still be what is stored.
    pub fn expires_after(&mut self, expiry_s: u32) {
        let (old, now) = (self.expiry_old, self.expiry_s);
        self.expiry_old = (old.0.min(now.0), old.1.max(now.1));
        self.expiry_s = (expiry_s, expiry_s);
    }

    /// One or the other holds.
    pub fn expires_as_before_or_now(&mut self) {
        let (old, now) = (self.expiry_old, self.expiry_s);
        self.expiry_s = (old.0.min(now.0), old.1.max(now.1));
    }

    pub fn exists(&self, now_ms: i64) -> Answer {
        if self.gone {
            return if self.crashed { Answer::Maybe } else { Answer::No };
        }
        let sure = if self.certain || !self.crashed { Answer::Yes } else { Answer::Maybe };
        match self.ended_ms {
            None => sure,
            Some(_) if !self.stored => Answer::No,
            Some((lo, _)) if now_ms < lo + i64::from(self.expiry_s.0) * 1_000 - 200 => sure,
            Some(_) => Answer::Maybe,
        }
    }

    /// The subscriptions that a message may have come by: those that may have stood at some time between its
    /// arrival and its end of being routed.
    pub fn possible<'a>(
        &'a self,
        p: &'a Pub,
        n_step: u64,
        from_self: bool,
    ) -> impl Iterator<Item = &'a Ever> + 'a {
        let arrived = p.arrived.unwrap_or(0);
        let firm = if p.retain { n_step } else { p.firm.unwrap_or(n_step) };
        self.ever.iter().filter(move |ever| {
            matches(&ever.filter, &p.topic)
                && ever.allowed != Some(false)
                && ever.from <= firm
                && ever.until.is_none_or(|until| until >= arrived || p.retain)
                && !(from_self && ever.asked.no_local && !p.retain)
        })
    }
}

/// What a session must get.
#[derive(Debug)]
pub struct Owed {
    pub n: u64,
    pub sess: usize,
    /// QoS, RETAIN and identifiers, where nothing about them was in doubt.
    pub exact: Option<(u8, bool, Vec<u32>)>,
    pub done: bool,
    pub dropped: bool,
    /// It was withheld, perhaps: as a duplicate it does not come again.
    pub denied: bool,
}

/// A retained message that a subscriber must be told of, on the connection it subscribed on.
#[derive(Debug)]
pub struct Wanted {
    pub n: u64,
    pub socket: usize,
    pub topic: String,
    pub registry: usize,
    pub done: bool,
}

/// A candidate for the last word on a topic.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    pub n: u64,
    pub at: Instant,
    pub shard: usize,
    pub step: u64,
    /// It has certainly been said, and is stored if a crash came after it.
    pub certain: bool,
}

impl Word {
    /// Whether it is certainly a later word than `other`.
    pub fn is_after(&self, other: &Self) -> bool {
        self.at > other.at || (self.at == other.at && self.shard == other.shard && self.step > other.step)
    }
}

/// Which messages may be the last word; 0 is none.
pub fn last_words(words: &[Word], pubs: &[Pub]) -> Vec<u64> {
    let beaten = |word: &Word| words.iter().any(|other| other.certain && other.is_after(word));
    let mut last: Vec<u64> = words.iter().filter(|word| !beaten(word)).map(|word| word.n).collect();
    for n in &mut last {
        if *n > 0 && pubs[usize::try_from(*n).expect("small")].clears {
            *n = 0;
        }
    }
    if words.iter().all(|word| !word.certain) {
        last.push(0);
    }
    last
}

/// Source: MQTT 5.0 section 4.7. No topic of the simulation begins with `$`.
pub fn matches(filter: &str, topic: &str) -> bool {
    let (mut f, mut t) = (filter.split('/'), topic.split('/'));
    loop {
        match (f.next(), t.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}
