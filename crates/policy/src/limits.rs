//! What a rule says of the message itself: its QoS, its size, whether it is retained or a will. And what a
//! policy says of all messages of a principal together: section `[limits]`.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::token::{integer, shown};

/// Largest payload that a ceiling can name: the largest packet of MQTT, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 268_435_455;
/// Highest rate that a policy can name, in messages or bytes a second.
pub const RATE_MAX: u32 = 1_000_000_000;

/// Highest QoS there is.
const QOS_MAX: u8 = 2;
/// QoS, retained or not, will or not.
const KINDS: usize = 12;

/// What is known of a message before it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishFacts {
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Whether it is the will of a CONNECT.
    pub will: bool,
    /// Length of the payload, in bytes.
    pub payload_bytes: usize,
}

impl PublishFacts {
    fn kind(&self) -> Option<usize> {
        (self.qos <= QOS_MAX).then(|| kind(self.qos, self.retain, self.will))
    }
}

fn kind(qos: u8, retain: bool, will: bool) -> usize {
    usize::from(qos) * 4 + usize::from(retain) * 2 + usize::from(will)
}

fn kinds() -> impl Iterator<Item = (usize, u8, bool, bool)> {
    (0..=QOS_MAX).flat_map(|qos| {
        [(false, false), (false, true), (true, false), (true, true)]
            .into_iter()
            .map(move |(retain, will)| (kind(qos, retain, will), qos, retain, will))
    })
}

/// All that rights say of one topic, in 48 bytes: for each QoS, retained or not, will or not, how long a
/// payload may be. For who publishes to the topic again and does not want to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A payload must be shorter than this; 0: nothing of this kind; the largest number: any.
    below: [u32; KINDS],
}

impl Limits {
    /// Everything is allowed.
    pub const FREE: Self = Self { below: [u32::MAX; KINDS] };
    /// Nothing is allowed.
    pub const NOTHING: Self = Self { below: [0; KINDS] };

    /// Whether such a message is allowed.
    #[must_use]
    #[inline]
    pub fn admits(&self, facts: &PublishFacts) -> bool {
        let below = facts.kind().map_or(0, |kind| self.below[kind]);
        below == u32::MAX || u32::try_from(facts.payload_bytes).is_ok_and(|bytes| bytes < below)
    }

    /// Whether every message is allowed.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self == Self::FREE
    }

    /// Whether no message is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::NOTHING
    }

    /// What either allows is allowed.
    pub(crate) fn widen(&mut self, bound: &Bound) {
        for (kind, qos, retain, will) in kinds() {
            if bound.speaks_of(retain, will) && qos <= bound.qos_max {
                self.below[kind] = self.below[kind].max(bound.below());
            }
        }
    }

    /// What this denies is allowed no longer.
    pub(crate) fn take_away(&mut self, denied: &Bound) {
        for (kind, _, retain, will) in kinds() {
            if denied.speaks_of(retain, will) {
                self.below[kind] = 0;
            }
        }
    }

    /// Nothing beyond these ceilings is.
    pub(crate) fn narrow(&mut self, ceilings: &Bound) {
        for (kind, qos, retain, will) in kinds() {
            let fits = ceilings.speaks_of(retain, will) && qos <= ceilings.qos_max;
            self.below[kind] = if fits { self.below[kind].min(ceilings.below()) } else { 0 };
        }
    }
}

/// Of which messages a rule speaks. Also the ceilings of `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) qos_max: u8,
    /// Only of retained messages, or only of others.
    pub(crate) retain: Option<bool>,
    /// Only of wills, or only of others.
    pub(crate) will: Option<bool>,
    pub(crate) payload_bytes_max: u32,
}

impl Bound {
    pub(crate) const FREE: Self =
        Self { qos_max: QOS_MAX, retain: None, will: None, payload_bytes_max: u32::MAX };

    fn below(&self) -> u32 {
        self.payload_bytes_max.saturating_add(1)
    }

    #[inline]
    pub(crate) fn speaks_of(&self, retain: bool, will: bool) -> bool {
        self.retain.is_none_or(|wanted| wanted == retain) && self.will.is_none_or(|wanted| wanted == will)
    }

    /// What is in the way of this message, if anything is.
    #[inline]
    pub(crate) fn hinders(&self, facts: &PublishFacts) -> Option<Ceiling> {
        if let Some(retain) = self.retain.filter(|retain| *retain != facts.retain) {
            return Some(Ceiling::Retain(retain));
        }
        if let Some(will) = self.will.filter(|will| *will != facts.will) {
            return Some(Ceiling::Will(will));
        }
        if facts.qos > self.qos_max {
            return Some(Ceiling::Qos(self.qos_max));
        }
        let fits = u32::try_from(facts.payload_bytes).is_ok_and(|bytes| bytes <= self.payload_bytes_max);
        (!fits).then_some(Ceiling::Payload(self.payload_bytes_max))
    }

    /// Takes one key of a rule or of `[limits]`; `false` when it is none of these.
    pub(crate) fn read(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        place: &str,
        fault: &mut dyn FnMut(usize, &str, String),
    ) -> bool {
        let place = &format!("{place}.{key}");
        let at = value.span().start;
        match key {
            "qos_max" => match integer(value, 0, u32::from(QOS_MAX)) {
                Ok(qos) => self.qos_max = qos as u8,
                Err(text) => fault(at, place, text),
            },
            "payload_bytes_max" => match integer(value, 0, PAYLOAD_BYTES_MAX) {
                Ok(bytes) => self.payload_bytes_max = bytes,
                Err(text) => fault(at, place, text),
            },
            "retain" | "will" => match value.get_ref() {
                DeValue::Boolean(wanted) if key == "retain" => self.retain = Some(*wanted),
                DeValue::Boolean(wanted) => self.will = Some(*wanted),
                other => fault(at, place, format!("found {}; wanted `true` or `false`", shown(other))),
            },
            _ => return false,
        }
        true
    }
}

/// What was in the way of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ceiling {
    /// The highest QoS.
    Qos(u8),
    /// Only retained ones, or only others.
    Retain(bool),
    /// Only wills, or only others.
    Will(bool),
    /// The longest payload, in bytes.
    Payload(u32),
}

impl Ceiling {
    pub(crate) fn code_and_word(self) -> (&'static str, &'static str) {
        match self {
            Self::Qos(_) => ("DB-3015", "qos-above-ceiling"),
            Self::Retain(_) => ("DB-3016", "retain-not-allowed"),
            Self::Will(_) => ("DB-3017", "will-not-allowed"),
            Self::Payload(_) => ("DB-3018", "payload-above-ceiling"),
        }
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qos(max) => write!(f, "QoS {max} at most"),
            Self::Retain(true) => f.write_str("retained messages only"),
            Self::Retain(false) => f.write_str("no retained messages"),
            Self::Will(true) => f.write_str("wills only"),
            Self::Will(false) => f.write_str("no wills"),
            Self::Payload(max) => write!(f, "payloads of {max} bytes at most"),
        }
    }
}

/// How fast a session of a principal may publish. `None`: as fast as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Messages a second.
    pub messages_per_s: Option<u32>,
    /// Bytes of topic and payload a second.
    pub bytes_per_s: Option<u32>,
}

impl Rates {
    /// Whether there is no ceiling.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

/// Section `[limits]`: what holds for every message, whichever rule allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyLimits {
    pub(crate) bound: Bound,
    pub(crate) rates: Rates,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self { bound: Bound::FREE, rates: Rates::default() }
    }
}

impl PolicyLimits {
    pub(crate) fn read(table: &DeTable<'_>, fault: &mut dyn FnMut(usize, &str, String)) -> Self {
        const PLACE: &str = "limits";
        let mut limits = Self::default();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if limits.bound.read(name, value, PLACE, fault) {
                continue;
            }
            let rate = match name {
                "messages_per_s" => &mut limits.rates.messages_per_s,
                "bytes_per_s" => &mut limits.rates.bytes_per_s,
                other => {
                    let text = format!(
                        "unknown key `{}`; wanted `qos_max`, `payload_bytes_max`, `retain`, `will`, \
                         `messages_per_s` or `bytes_per_s`",
                        other.escape_debug()
                    );
                    fault(key.span().start, PLACE, text);
                    continue;
                }
            };
            match integer(value, 1, RATE_MAX) {
                Ok(number) => *rate = Some(number),
                Err(text) => fault(value.span().start, &format!("{PLACE}.{name}"), text),
            }
        }
        // `true` is what holds anyway; it does not mean that every message has to be a retained one.
        limits.bound.retain = limits.bound.retain.filter(|allowed| !allowed);
        limits.bound.will = limits.bound.will.filter(|allowed| !allowed);
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_topic_say_the_same_as_the_bounds_they_were_made_of() {
        let bounds = [
            Bound::FREE,
            Bound { qos_max: 0, ..Bound::FREE },
            Bound { retain: Some(false), payload_bytes_max: 10, ..Bound::FREE },
            Bound { retain: Some(true), qos_max: 1, ..Bound::FREE },
            Bound { will: Some(false), payload_bytes_max: 0, ..Bound::FREE },
            Bound { will: Some(true), ..Bound::FREE },
        ];
        for at in 0..bounds.len().pow(3) {
            let of = |place: u32| &bounds[at / bounds.len().pow(place) % bounds.len()];
            let (a, b, ceiling) = (of(0), of(1), of(2));
            for denied in [None, Some(Bound { retain: Some(true), ..Bound::FREE })] {
                let mut limits = Limits::NOTHING;
                limits.widen(a);
                limits.widen(b);
                denied.iter().for_each(|denied| limits.take_away(denied));
                limits.narrow(ceiling);
                for (_, qos, retain, will) in kinds() {
                    for payload_bytes in [0, 1, 10, 11, 1_000_000] {
                        let facts = PublishFacts { qos, retain, will, payload_bytes };
                        let allowed = (a.hinders(&facts).is_none() || b.hinders(&facts).is_none())
                            && denied.is_none_or(|denied| denied.hinders(&facts).is_some())
                            && ceiling.hinders(&facts).is_none();
                        assert_eq!(
                            limits.admits(&facts),
                            allowed,
                            "{facts:?}: {a:?} {b:?} {denied:?} {ceiling:?}"
                        );
                    }
                }
            }
        }
        let odd = PublishFacts { qos: 3, ..PublishFacts::default() };
        assert!(!Limits::FREE.admits(&odd) && Bound::FREE.hinders(&odd).is_some());
    }
}
