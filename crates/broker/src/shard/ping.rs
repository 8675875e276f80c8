//! A ping whose length the client chooses. Why: `docs/decisions/0030-padding.md`.

use std::time::Instant;

use drawbridge_mqtt::codec::{Qos, ReasonCode};
use drawbridge_mqtt::connection::Inbound;

use super::Shard;
use super::publish::Origin;
use crate::effect::{ConnId, Effect};
use crate::report::What;

/// A publish here at QoS 0 keeps the connection alive, as PINGREQ does, and has a length of the client's choice. It is
/// allowed to every client, goes nowhere and counts as no message.
pub const PING_TOPIC: &str = "$drawbridge/ping";
/// Longest payload of such a publish, in bytes.
const PING_BYTES_MAX: usize = 1_024;

impl Shard {
    /// A publish to [`PING_TOPIC`]: that it came is all it says.
    pub(super) fn on_ping_publish(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        inbound: &Inbound<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let rule = match inbound.qos {
            Qos::AtMostOnce if inbound.retain => "a ping is not retained".to_owned(),
            Qos::AtMostOnce if inbound.payload.len() > PING_BYTES_MAX => {
                format!("a ping of {} bytes, at most {PING_BYTES_MAX} are taken", inbound.payload.len())
            }
            Qos::AtMostOnce => return,
            Qos::AtLeastOnce | Qos::ExactlyOnce => "a ping is published at QoS 0".to_owned(),
        };
        let exactly_once = inbound.qos == Qos::ExactlyOnce;
        let origin = match inbound.packet_id {
            Some(packet_id) => Origin::Client { slot, packet_id, exactly_once },
            None => Origin::Unanswered,
        };
        let what = What::PublishDenied { topic: PING_TOPIC.to_owned(), rule };
        self.refuse_publish(now, conn, origin, ReasonCode::NotAuthorized, what, fx);
    }
}
