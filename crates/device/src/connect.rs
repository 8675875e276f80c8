//! From an open link to an admitted client: CONNECT, perhaps AUTH, CONNACK.

use std::time::Duration;

use drawbridge_mqtt::codec::{Auth, ConnAck, Connect, Packet, Qos, ReasonCode, UserProperties};

use crate::link::{ANSWER_S_MAX, Link};
use crate::{DeviceError, Environment};

/// What the server said when it let us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// It has kept our session.
    pub(crate) session_present: bool,
    /// The client id it gave us.
    pub(crate) client_id: Option<String>,
    /// Keep alive in force, if it is not ours, in seconds.
    pub(crate) keep_alive_s: Option<u16>,
    /// How many of our QoS 1 and 2 publishes it takes at once.
    pub(crate) receive_maximum: u16,
    /// Highest QoS that it takes.
    pub(crate) maximum_qos: Qos,
    /// Largest packet that it takes, in bytes.
    pub(crate) packet_bytes_max: usize,
    /// Seconds until our credential ends, if it said so.
    pub(crate) life_s: Option<u64>,
}

/// The user property of CONNACK and AUTH that says how long the credential of the session is good, in seconds.
pub(crate) const LIFE_PROPERTY: &str = "db-expires-in";
/// The user property that tells the time of the server, in seconds since 1970.
const TIME_PROPERTY: &str = "db-time";

enum Heard {
    Accepted(Accepted),
    Refused(DeviceError),
    Challenge(Vec<u8>),
    Other,
}

/// Sends CONNECT and goes through what follows. `answer` gives the Authentication Data that answers a challenge.
///
/// # Errors
/// [`DeviceError::Refused`] with the reason of CONNACK or DISCONNECT, and whatever `answer` and the link answer.
pub(crate) fn admit(
    link: &mut Link,
    connect: Connect<'_>,
    environment: &dyn Environment,
    mut answer: impl FnMut(&[u8]) -> Result<Vec<u8>, DeviceError>,
) -> Result<Accepted, DeviceError> {
    let method = connect.properties.authentication_method.map(str::to_owned);
    link.send(&Packet::Connect(Box::new(connect)))?;
    let deadline = environment.elapsed() + Duration::from_secs(ANSWER_S_MAX);
    loop {
        match link.next(hear)? {
            Some(Heard::Accepted(accepted)) => return Ok(accepted),
            Some(Heard::Refused(refused)) => return Err(refused),
            Some(Heard::Challenge(challenge)) => {
                let data = answer(&challenge)?;
                link.send(&Packet::Auth(Auth {
                    reason: ReasonCode::ContinueAuthentication,
                    method: method.as_deref(),
                    data: Some(&data),
                    reason_string: None,
                    user_properties: UserProperties::default(),
                }))?;
            }
            Some(Heard::Other) => {}
            None => {
                let now = environment.elapsed();
                if now >= deadline {
                    return Err(DeviceError::TimedOut { what: "CONNECT", seconds: ANSWER_S_MAX });
                }
                link.wait(deadline - now)?;
            }
        }
    }
}

fn hear(packet: Packet<'_>) -> Heard {
    match packet {
        Packet::ConnAck(connack) if connack.reason.is_error() => Heard::Refused(refused(&connack)),
        Packet::ConnAck(connack) => Heard::Accepted(accepted(&connack)),
        Packet::Auth(auth) => Heard::Challenge(auth.data.unwrap_or_default().to_vec()),
        Packet::Disconnect(bye) => Heard::Refused(DeviceError::Refused {
            code: bye.reason.byte(),
            why: bye.reason_string.unwrap_or(bye.reason.text()).to_owned(),
            server_time_s: number(&bye.user_properties, TIME_PROPERTY),
        }),
        _ => Heard::Other,
    }
}

fn accepted(connack: &ConnAck<'_>) -> Accepted {
    let properties = &connack.properties;
    Accepted {
        session_present: connack.session_present,
        client_id: properties.assigned_client_id.map(str::to_owned),
        keep_alive_s: properties.server_keep_alive_s,
        receive_maximum: properties.receive_maximum.map_or(u16::MAX, std::num::NonZeroU16::get),
        maximum_qos: properties.maximum_qos.unwrap_or(Qos::ExactlyOnce),
        packet_bytes_max: properties.maximum_packet_size.map_or(usize::MAX, |bytes| bytes.get() as usize),
        life_s: number(&properties.user_properties, LIFE_PROPERTY),
    }
}

fn refused(connack: &ConnAck<'_>) -> DeviceError {
    DeviceError::Refused {
        code: connack.reason.byte(),
        why: connack.properties.reason_string.unwrap_or(connack.reason.text()).to_owned(),
        server_time_s: number(&connack.properties.user_properties, TIME_PROPERTY),
    }
}

pub(crate) fn number(properties: &UserProperties<'_>, name: &str) -> Option<u64> {
    properties.first(name)?.parse().ok()
}
