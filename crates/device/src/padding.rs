//! CONNECT of a length that says nothing of the way in. What it hides and what not: `docs/traffic-analysis.md`.

use drawbridge_mqtt::codec::{self, Connect, PAD, Packet, ProtocolVersion, UserProperties};

use crate::{DeviceError, Way};

/// What fills a CONNECT: the value of a User Property in MQTT 5, the end of the user name in 3.1.1.
pub(crate) struct Filler {
    zeros: String,
    user_name: String,
}

impl Filler {
    /// What brings it to a multiple of `pad_to` bytes.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] where 3.1.1 leaves no room, or the multiple is longer than a text can be.
    pub(crate) fn of(connect: &Connect<'_>, way: &Way, pad_to: u16) -> Result<Self, DeviceError> {
        // Beside a token, and without a password, the user name of 3.1.1 says nothing.
        if connect.version == ProtocolVersion::V311 && !matches!(way, Way::Token | Way::Certificate) {
            return Err(DeviceError::Protocol(
                "a CONNECT of MQTT 3.1.1 with this way in has no room for padding; use MQTT 5, or set `pad_to` to 0"
                    .to_owned(),
            ));
        }
        let size = |filler| {
            let (filler, mut bytes) = (Self::new(connect, filler), Vec::new());
            let told = filler.told(connect);
            Packet::from(filler.fill(connect, &told)).encode(connect.version, &mut bytes).ok()?;
            Some(bytes.len())
        };
        codec::filler(usize::from(pad_to), size).map(|filler| Self::new(connect, filler)).ok_or_else(|| {
            DeviceError::Protocol(format!(
                "CONNECT cannot be a multiple of {pad_to} bytes; `pad_to` 1024 does"
            ))
        })
    }

    fn new(connect: &Connect<'_>, bytes: usize) -> Self {
        let mut user_name = connect.username.unwrap_or_default().to_owned();
        // No principal's name has a space.
        user_name.extend(std::iter::repeat_n(' ', bytes));
        Self { zeros: "0".repeat(bytes), user_name }
    }

    /// The User Properties of the padded CONNECT.
    pub(crate) fn told<'a>(&'a self, connect: &Connect<'a>) -> Vec<(&'a str, &'a str)> {
        let own = connect.properties.user_properties.iter();
        own.chain([(PAD, self.zeros.as_str())]).collect()
    }

    /// The padded CONNECT.
    pub(crate) fn fill<'a>(&'a self, connect: &Connect<'a>, told: &'a [(&'a str, &'a str)]) -> Connect<'a> {
        let mut connect = connect.clone();
        match connect.version {
            ProtocolVersion::V5 => connect.properties.user_properties = UserProperties::of(told),
            ProtocolVersion::V311 => connect.username = Some(&self.user_name),
        }
        connect
    }
}
