//! MQTT packets.

use drawbridge_mqtt::codec::{Frame, ProtocolVersion, Side, decode};

use crate::{Outcome, judge_code, judge_text};

pub(crate) mod mqtt_packet {
    use super::*;

    const PACKET_BYTES_MAX: usize = 65_536;

    /// The first byte: version (none yet, 3.1.1, 5) and side.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&mode, input)) = data.split_first() else { return Outcome::refused("empty") };
        let version = [None, Some(ProtocolVersion::V311), Some(ProtocolVersion::V5)][usize::from(mode) % 3];
        let side = if (mode / 3) % 2 == 0 { Side::FromClient } else { Side::FromServer };
        let frame = match decode(input, version, PACKET_BYTES_MAX, side) {
            Ok(frame) => frame,
            Err(fault) => {
                judge_code(fault.code());
                judge_text(&fault.to_string(), input);
                assert!(!fault.word().is_empty() && !fault.statement().is_empty());
                assert!(fault.reason_code().byte() >= 0x80, "a fault has a reason of failure");
                return Outcome::refused(fault.code());
            }
        };
        let Frame::Complete { packet, bytes } = frame else { return Outcome("incomplete".to_owned()) };
        assert!(bytes >= 2 && bytes <= input.len() && bytes <= PACKET_BYTES_MAX);
        // Cut short anywhere it is incomplete, never something else; what follows is not looked at.
        for length in [0, 1, 2, bytes / 2, bytes - 1].into_iter().filter(|length| *length < bytes) {
            let cut = decode(&input[..length], version, PACKET_BYTES_MAX, side);
            assert!(matches!(cut, Ok(Frame::Incomplete { .. })), "{length} of {bytes}: {cut:?}");
        }
        let longer = [&input[..bytes], &[0xff; 5]].concat();
        assert_eq!(
            decode(&longer, version, PACKET_BYTES_MAX, side),
            Ok(Frame::Complete { packet: packet.clone(), bytes })
        );
        // Written again it is read again, and means the same.
        let mut again = Vec::new();
        packet.encode(version.unwrap_or(ProtocolVersion::V5), &mut again).expect("a packet that was read");
        assert_eq!(
            decode(&again, version, PACKET_BYTES_MAX + 64, side),
            Ok(Frame::Complete { packet: packet.clone(), bytes: again.len() })
        );
        Outcome(format!("accepted {}", packet.packet_type()))
    }

    /// The packets that `crates/mqtt/tests/corpus.txt` holds: hex, version, side, outcome, what it is.
    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let lines = include_str!("../../mqtt/tests/corpus.txt").lines();
        let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        rows.filter_map(|row| {
            let columns: Vec<&str> = row.split('|').map(str::trim).collect();
            let [hex, version, side, outcome, _] = columns[..] else { return None };
            let version = ["-", "3.1.1", "5"].iter().position(|known| *known == version)?;
            let mode = version as u8 + if side == "server" { 3 } else { 0 };
            let digits: String = hex.chars().filter(char::is_ascii_hexdigit).collect();
            let bytes =
                (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
            let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
            outcome.starts_with("ok").then(|| [&[mode][..], &bytes].concat())
        })
        .collect()
    }
}
