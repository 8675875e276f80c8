//! Who sends, when, and what became of it: as fast as a window permits (closed loop), or at a fixed rate (open loop:
//! a message is due at its time whether or not the ones before have arrived, and its delay counts from then, so that
//! a broker that stands still is charged for all that should have been sent meanwhile).

use std::collections::VecDeque;
use std::time::Duration;

use super::args::{Span, Window};
use super::client::Heard;
use super::clock;
use super::histogram::Histogram;
use super::packet::{Stamp, Template};
use super::process::{Meter, Process, Used};
use super::report::Report;
use super::swarm::{Swarm, faults};
use crate::Failure;

/// Without any progress for so long, what is under way counts as lost.
const LOST_NS: u64 = 2_000_000_000;
/// Sent later than this after it was due, a message counts as late: the generator's fault, not the broker's.
const LATE_NS: u64 = 1_000_000;
/// The poll counts in milliseconds; nearer than this the generator looks again without sleeping.
const SLEEP_NS: u64 = 1_500_000;

/// What brings a publisher its next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// So many copies have come in, and at QoS 1 and 2 it is acknowledged too.
    Received { copies: u64 },
    /// It is acknowledged.
    Acknowledged,
}

/// One that publishes.
struct Sender {
    at: usize,
    template: Template,
    /// Digits of the topic that count: where they stand, and how many numbers there are.
    numbers: Option<(usize, u32)>,
    next_number: u32,
    sent: u64,
    acknowledged: u64,
    received: u64,
    unacknowledged_max: usize,
    /// Packet identifiers that wait for their acknowledgement, and when they were due.
    waiting: VecDeque<(u16, u64)>,
}

/// All that publish.
pub(super) struct Traffic {
    senders: Vec<Sender>,
    /// The sender of a client, by place.
    sender_of: Vec<u32>,
    until: Until,
    window: Option<Window>,
    /// Nanoseconds between messages, and when the first was due.
    rate: Option<(f64, u64)>,
    next: u64,
    /// The processor is needed by others too: sleep between messages though the poll is only good to 1 ms.
    sleeps: bool,
    measuring: bool,
    last_progress_ns: u64,
    /// From due to received.
    pub(super) times: Histogram,
    /// From due to acknowledged.
    pub(super) acknowledgements: Histogram,
    /// From due to sent: what the generator itself was late.
    late: Histogram,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) acknowledged: u64,
    pub(super) lost: u64,
}

const NO_SENDER: u32 = u32::MAX;

impl Traffic {
    /// `window`: how much at once, `None` for no bound. `rate`: messages a second, all together, 0 for no rate.
    pub(super) fn new(until: Until, window: Option<Window>, rate: u32, now_ns: u64) -> Self {
        Self {
            senders: Vec::new(),
            sender_of: Vec::new(),
            until,
            window,
            rate: (rate > 0).then(|| (1e9 / f64::from(rate), now_ns)),
            next: 0,
            sleeps: false,
            measuring: false,
            last_progress_ns: now_ns,
            times: Histogram::default(),
            acknowledgements: Histogram::default(),
            late: Histogram::default(),
            sent: 0,
            received: 0,
            acknowledged: 0,
            lost: 0,
        }
    }

    /// From now on it sleeps where it would look again without sleeping; messages may be 1 ms late.
    pub(super) fn may_sleep(&mut self) {
        self.sleeps = true;
    }

    /// One more publisher, the admitted client at this place. `numbers`: the place of the digits in its topic, and how
    /// many numbers there are.
    pub(super) fn sender(
        &mut self,
        swarm: &Swarm,
        at: usize,
        template: Template,
        numbers: Option<(usize, u32)>,
    ) {
        self.put(at, swarm.peek(at).unacknowledged_max, template, numbers);
    }

    fn put(&mut self, at: usize, unacknowledged_max: u16, template: Template, numbers: Option<(usize, u32)>) {
        if self.sender_of.len() <= at {
            self.sender_of.resize(at + 1, NO_SENDER);
        }
        let index = u32::try_from(self.senders.len()).expect("fewer than sockets");
        self.sender_of[at] = index;
        // Each begins elsewhere, so that they do not all use the same number at a time.
        let next_number = numbers.map_or(0, |(_, count)| index.wrapping_mul(7_919) % count);
        self.senders.push(Sender {
            at,
            template,
            numbers,
            next_number,
            sent: 0,
            acknowledged: 0,
            received: 0,
            unacknowledged_max: usize::from(unacknowledged_max),
            waiting: VecDeque::new(),
        });
    }

    /// Sends what is due or fits. Answers how long there is nothing to do but to hear.
    pub(super) fn send(&mut self, swarm: &mut Swarm) -> Duration {
        let now = swarm.clock.ns();
        match self.rate {
            Some((every, from)) => self.send_due(swarm, now, every, from),
            None => {
                self.send_fitting(swarm, now);
                Duration::from_millis(20)
            }
        }
    }

    fn send_due(&mut self, swarm: &mut Swarm, now: u64, every: f64, from: u64) -> Duration {
        loop {
            let due = from + (self.next as f64 * every) as u64;
            if due > now {
                let wait = due - now;
                return match wait {
                    SLEEP_NS.. => Duration::from_millis(wait / 1_000_000 - 1),
                    _ if self.sleeps => Duration::from_millis(1),
                    _ => Duration::ZERO,
                };
            }
            let index = usize::try_from(self.next % self.senders.len() as u64).expect("one of them");
            let sender = &self.senders[index];
            let most = self.window.map_or(u64::MAX, |window| u64::from(window.in_flight));
            if sender.under_way(self.until) >= most || sender.room() == 0 {
                return Duration::from_millis(1); // it stays due, and its delay grows
            }
            if self.measuring {
                self.late.add(now - due);
            }
            self.publish(swarm, index, due);
            self.next += 1;
        }
    }

    fn send_fitting(&mut self, swarm: &mut Swarm, now: u64) {
        let window = self.window.expect("no rate: then there is a window");
        let (in_flight, batch) = (u64::from(window.in_flight), u64::from(window.batch.min(window.in_flight)));
        let quiet = now.saturating_sub(self.last_progress_ns) > LOST_NS;
        for index in 0..self.senders.len() {
            let sender = &mut self.senders[index];
            let under_way = sender.under_way(self.until);
            if quiet && under_way > 0 {
                self.lost += sender.give_up(self.until);
                self.last_progress_ns = now;
            } else if under_way + batch.min(sender.unacknowledged_max as u64) > in_flight {
                continue;
            }
            // Few at a time are few in a write, so a full batch is waited for.
            let batch = batch.min(sender.unacknowledged_max as u64);
            if (sender.room() as u64) < batch {
                continue;
            }
            for _ in 0..batch {
                self.publish(swarm, index, now);
            }
        }
    }

    fn publish(&mut self, swarm: &mut Swarm, index: usize, due_ns: u64) {
        let sender = &mut self.senders[index];
        if let Some((digits, count)) = sender.numbers {
            sender.template.number(digits, sender.next_number);
            sender.next_number = (sender.next_number + 1) % count;
        }
        let stamp = Stamp { due_ns, sender: u32::try_from(index).expect("fewer than sockets") };
        let id = swarm.publish(sender.at, &sender.template, stamp);
        if id != 0 {
            sender.waiting.push_back((id, due_ns));
        }
        sender.sent += 1;
        self.sent += 1;
    }

    /// Takes what a client of this traffic says; what is none of its business is a fault.
    pub(super) fn hear(&mut self, at: usize, heard: Heard<'_>, now_ns: u64) -> Result<(), Failure> {
        match heard {
            Heard::Message(payload) => {
                let stamp = Stamp::read(payload);
                let Some(sender) = stamp.and_then(|s| self.senders.get_mut(s.sender as usize)) else {
                    return Ok(()); // somebody else's
                };
                sender.received += 1;
                self.received += 1;
                self.last_progress_ns = now_ns;
                if self.measuring {
                    self.times.add(now_ns.saturating_sub(stamp.expect("just found").due_ns));
                }
                Ok(())
            }
            Heard::Done(id) => {
                let index = self.sender_of.get(at).copied().unwrap_or(NO_SENDER);
                let Some(sender) = self.senders.get_mut(index as usize) else { return Ok(()) };
                sender.acknowledged += 1;
                self.acknowledged += 1;
                self.last_progress_ns = now_ns;
                // In the order of the publishes, unless a broker does as it likes.
                if let Some(found) = sender.waiting.iter().position(|(waiting, _)| *waiting == id) {
                    let (_, due) = sender.waiting.remove(found).expect("`position` just found it");
                    if self.measuring {
                        self.acknowledgements.add(now_ns.saturating_sub(due));
                    }
                }
                Ok(())
            }
            other => faults(other),
        }
    }

    /// The schedule of a fixed rate begins anew: what became due since it was made was not sent.
    pub(super) fn restart(&mut self, now_ns: u64) {
        if let Some((_, from)) = &mut self.rate {
            *from = now_ns;
        }
        (self.next, self.last_progress_ns) = (0, now_ns);
    }

    /// From now on it counts; what was before is forgotten.
    pub(super) fn measure(&mut self) {
        self.measuring = true;
        (self.sent, self.received, self.acknowledged, self.lost) = (0, 0, 0, 0);
        self.times = Histogram::default();
        self.acknowledgements = Histogram::default();
        self.late = Histogram::default();
    }

    /// Warms up, measures, and answers what both sides used while it was measured.
    pub(super) fn run(
        &mut self,
        swarm: &mut Swarm,
        span: Span,
        server: Option<Process>,
    ) -> Result<Used, Failure> {
        let clock = swarm.clock;
        self.restart(clock.ns());
        let warm = clock.ns() + clock::ns(span.warm_up);
        self.go_on(swarm, warm)?;
        let meter = Meter::start(server, clock)?;
        self.measure();
        self.go_on(swarm, warm + clock::ns(span.duration))?;
        meter.used()
    }

    /// Goes on until this time of the clock.
    pub(super) fn go_on(&mut self, swarm: &mut Swarm, until_ns: u64) -> Result<(), Failure> {
        let clock = swarm.clock;
        while clock.ns() < until_ns {
            let wait = self.send(swarm);
            swarm.turn(Some(wait), |at, heard| self.hear(at, heard, clock.ns()))?;
        }
        Ok(())
    }

    /// What the generator itself could not keep.
    pub(super) fn tell_late(&self, report: &mut Report) {
        let total = self.late.total().max(1);
        report.found("generator_late_p99_us", self.late.at_us(0.99));
        report.found("generator_late_max_us", self.late.max_us());
        report.found(
            "generator_late_over_1_ms_percent",
            100.0 * self.late.above(LATE_NS) as f64 / total as f64,
        );
    }
}

impl Sender {
    fn finished(&self, until: Until) -> u64 {
        match until {
            Until::Acknowledged => self.acknowledged,
            Until::Received { copies } => {
                let received = self.received / copies;
                if self.template.qos().bits() > 0 { received.min(self.acknowledged) } else { received }
            }
        }
    }

    /// How many more the broker takes before it has acknowledged some.
    fn room(&self) -> usize {
        self.unacknowledged_max.saturating_sub(self.waiting.len())
    }

    fn under_way(&self, until: Until) -> u64 {
        self.sent.saturating_sub(self.finished(until))
    }

    /// Nothing of what is under way will come any more; answers how many that were.
    fn give_up(&mut self, until: Until) -> u64 {
        let lost = self.under_way(until);
        self.acknowledged = self.acknowledged.max(self.sent);
        if let Until::Received { copies } = until {
            self.received = self.received.max(self.sent * copies);
        }
        self.waiting.clear();
        lost
    }
}

#[cfg(test)]
mod tests {
    use drawbridge_device::{ProtocolVersion, Qos};

    use super::*;

    fn traffic(qos: Qos, until: Until) -> Traffic {
        let mut traffic = Traffic::new(until, Some(Window { in_flight: 4, batch: 2 }), 0, 0);
        let template = Template::new(ProtocolVersion::V311, "bench/0", qos, 16).expect("good");
        traffic.put(3, 20, template, None);
        traffic
    }

    fn payload(due_ns: u64) -> Vec<u8> {
        let template = Template::new(ProtocolVersion::V311, "t", Qos::AtMostOnce, 16).expect("good");
        let mut bytes = Vec::new();
        template.write(0, Stamp { due_ns, sender: 0 }, &mut bytes);
        bytes.split_off(bytes.len() - 16)
    }

    #[test]
    fn a_message_is_under_way_until_every_copy_has_come_and_it_is_acknowledged() {
        let until = Until::Received { copies: 2 };
        let mut traffic = traffic(Qos::AtLeastOnce, until);
        traffic.senders[0].sent = 1;
        let bytes = payload(5);
        traffic.hear(9, Heard::Message(&bytes), 10).expect("heard");
        traffic.hear(3, Heard::Done(1), 10).expect("heard");
        assert_eq!(traffic.senders[0].under_way(until), 1);
        traffic.hear(9, Heard::Message(&bytes), 10).expect("heard");
        assert_eq!(traffic.senders[0].under_way(until), 0);
        assert_eq!((traffic.received, traffic.acknowledged), (2, 1));
    }

    #[test]
    fn no_more_is_sent_than_the_broker_takes_unacknowledged() {
        let mut traffic = traffic(Qos::AtLeastOnce, Until::Acknowledged);
        assert_eq!(traffic.senders[0].room(), 20);
        traffic.senders[0].waiting.extend((1..=20).map(|id| (id, 0)));
        assert_eq!(traffic.senders[0].room(), 0);
        traffic.hear(3, Heard::Done(7), 1).expect("heard");
        assert_eq!(traffic.senders[0].room(), 1);
    }

    #[test]
    fn delays_count_from_when_a_message_was_due_and_only_while_it_is_measured() {
        let mut traffic = traffic(Qos::AtMostOnce, Until::Received { copies: 1 });
        traffic.hear(9, Heard::Message(&payload(1_000)), 5_000).expect("heard");
        assert_eq!(traffic.times.total(), 0);
        traffic.measure();
        traffic.hear(9, Heard::Message(&payload(1_000)), 5_000).expect("heard");
        assert_eq!((traffic.times.total(), traffic.times.at_us(1.0)), (1, 4.0));
    }

    #[test]
    fn what_is_given_up_is_lost_once_and_may_still_come() {
        let until = Until::Received { copies: 1 };
        let mut traffic = traffic(Qos::AtMostOnce, until);
        traffic.senders[0].sent = 3;
        assert_eq!(traffic.senders[0].give_up(until), 3);
        assert_eq!(traffic.senders[0].give_up(until), 0);
        traffic.hear(9, Heard::Message(&payload(1)), 2).expect("heard");
        assert_eq!(traffic.senders[0].under_way(until), 0);
    }

    #[test]
    fn a_lost_connection_and_a_refusal_end_the_run() {
        let mut traffic = traffic(Qos::AtMostOnce, Until::Acknowledged);
        assert!(matches!(traffic.hear(3, Heard::Closed("x".into()), 0), Err(Failure::Unavailable(_))));
        assert!(matches!(traffic.hear(3, Heard::Refused("x".into()), 0), Err(Failure::Denied(_))));
    }
}
