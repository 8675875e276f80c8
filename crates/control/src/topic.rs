//! The topics under `devices/{id}/` that are operations, not mere messages.

use drawbridge_names::{PrincipalName, TopicName};

use crate::ControlError;

/// Longest subfolder of a command, in bytes.
///
/// Source: Google Cloud IoT Core, `sendCommandToDevice`.
pub const SUBFOLDER_BYTES_MAX: usize = 256;

/// A topic where to publish is to control a device or to report its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTopic<'a> {
    /// `devices/{id}/commands` or `devices/{id}/commands/{subfolder}`.
    Command {
        /// `{id}`, not yet parsed as a name.
        device: &'a str,
        /// All after `commands/`.
        subfolder: Option<&'a str>,
    },
    /// `devices/{id}/config`.
    Config {
        /// `{id}`, not yet parsed as a name.
        device: &'a str,
    },
    /// `devices/{id}/state`.
    State {
        /// `{id}`, not yet parsed as a name.
        device: &'a str,
    },
}

impl<'a> ControlTopic<'a> {
    /// Whether a topic, in the native form, is one of a device's control topics. It allocates
    /// nothing: it stands on the path of every publish.
    #[must_use]
    pub fn parse(topic: TopicName<'a>) -> Option<Self> {
        let (device, word) = topic.as_str().strip_prefix("devices/")?.split_once('/')?;
        let first = *word.as_bytes().first()?;
        if first != b'c' && first != b's' {
            return None; // `events`, the most frequent by far
        }
        let found = match word {
            "commands" => Self::Command { device, subfolder: None },
            "config" => Self::Config { device },
            "state" => Self::State { device },
            _ => Self::Command { device, subfolder: Some(word.strip_prefix("commands/")?) },
        };
        PrincipalName::parse(device).ok().map(|_| found)
    }

    /// The device's name as it stands in the topic.
    #[must_use]
    pub fn device(self) -> &'a str {
        match self {
            Self::Command { device, .. } | Self::Config { device } | Self::State { device } => device,
        }
    }
}

/// `devices/{id}/commands`, or a subfolder of it.
///
/// # Errors
/// [`ControlError::BadSubfolder`] when the subfolder is empty, longer than [`SUBFOLDER_BYTES_MAX`],
/// has an empty level, a wildcard or a control character.
pub fn command_topic(device: &PrincipalName, subfolder: Option<&str>) -> Result<String, ControlError> {
    let Some(subfolder) = subfolder else {
        return Ok(format!("devices/{device}/commands"));
    };
    let fault = if subfolder.is_empty() {
        Some("it is empty; leave it out".to_owned())
    } else if subfolder.len() > SUBFOLDER_BYTES_MAX {
        Some(format!("it has {} bytes, at most {SUBFOLDER_BYTES_MAX} are allowed", subfolder.len()))
    } else if subfolder.split('/').any(str::is_empty) {
        Some("it has an empty level; remove the needless `/`".to_owned())
    } else {
        TopicName::parse(subfolder).err().map(|error| error.to_string())
    };
    match fault {
        Some(fault) => Err(ControlError::BadSubfolder { fault }),
        None => Ok(format!("devices/{device}/commands/{subfolder}")),
    }
}

/// `devices/{id}/config`.
#[must_use]
pub fn config_topic(device: &PrincipalName) -> String {
    format!("devices/{device}/config")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(topic: &str) -> Option<ControlTopic<'_>> {
        ControlTopic::parse(TopicName::parse(topic).expect(topic))
    }

    #[test]
    fn only_the_control_topics_of_a_device_are_operations() {
        let device = "lamp";
        let table = [
            ("devices/lamp/commands", Some(ControlTopic::Command { device, subfolder: None })),
            ("devices/lamp/commands/a/b", Some(ControlTopic::Command { device, subfolder: Some("a/b") })),
            ("devices/lamp/commands/", Some(ControlTopic::Command { device, subfolder: Some("") })),
            ("devices/lamp/config", Some(ControlTopic::Config { device })),
            ("devices/lamp/state", Some(ControlTopic::State { device })),
            ("devices/lamp/commandsx", None),
            ("devices/lamp/config/x", None),
            ("devices/lamp/state/x", None),
            ("devices/lamp/events", None),
            ("devices/lamp/", None),
            ("devices/lamp", None),
            ("devices//config", None),
            ("devices/$x/config", None),
            ("/devices/lamp/config", None),
            ("x/devices/lamp/config", None),
        ];
        for (topic, expected) in table {
            assert_eq!(parse(topic), expected, "{topic}");
        }
    }

    #[test]
    fn a_subfolder_with_wildcards_or_empty_levels_is_refused() {
        let lamp = PrincipalName::parse("lamp").expect("lamp");
        for bad in ["", "/", "a/", "/a", "a//b", "+", "a/#", "a\0", &"a".repeat(257)] {
            let error = command_topic(&lamp, Some(bad)).expect_err(bad);
            assert_eq!(error.word(), "bad-subfolder", "{bad:?}");
        }
        assert_eq!(command_topic(&lamp, Some("a/b")).expect("a/b"), "devices/lamp/commands/a/b");
        assert_eq!(command_topic(&lamp, None).expect("none"), "devices/lamp/commands");
        assert!(command_topic(&lamp, Some(&"a".repeat(256))).is_ok());
    }
}
