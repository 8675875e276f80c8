//! Padding: CONNECT and CONNACK whose size says nothing of what is in them. TLS hides the bytes and shows how many.
//!
//! Our own; why it is done here and not in TLS: `docs/decisions/0030-padding.md`.

/// The User Property of CONNECT and CONNACK whose value means nothing. A client that sends it gets a CONNACK with it.
pub const PAD: &str = "pad";
/// CONNACK for a client that sent [`PAD`] is as long as a multiple of this, in bytes.
pub const PADDED_CONNACK_BYTES: usize = 256;

/// How many bytes of filler bring a packet to a multiple of `block` bytes: the least that do. `size` is the length of
/// the whole packet with so much filler, `None` if there can be no such packet. `None`: not by any filler.
///
/// The lengths that stand in a packet grow with it, so a size can be out of reach; then it is the next multiple.
pub fn filler(block: usize, size: impl Fn(usize) -> Option<usize>) -> Option<usize> {
    let least = size(0)?;
    let mut wanted = least.checked_next_multiple_of(block)?;
    loop {
        let mut bytes = wanted - least;
        loop {
            let found = size(bytes)?;
            if found == wanted {
                return Some(bytes);
            }
            match found.checked_sub(wanted).and_then(|over| bytes.checked_sub(over)) {
                Some(fewer) => bytes = fewer,
                None => break,
            }
        }
        wanted = wanted.checked_add(block)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Connect, ConnectProperties, Packet, ProtocolVersion, UserProperties};

    fn connect_bytes(client_id: &str, filler: usize) -> Option<usize> {
        let zeros = "0".repeat(filler);
        let told = [(PAD, zeros.as_str())];
        let mut bytes = Vec::new();
        Packet::from(Connect {
            version: ProtocolVersion::V5,
            clean_start: true,
            keep_alive_s: 0,
            client_id,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                user_properties: UserProperties::of(&told),
                ..ConnectProperties::default()
            },
        })
        .encode(ProtocolVersion::V5, &mut bytes)
        .ok()?;
        Some(bytes.len())
    }

    #[test]
    fn every_packet_gets_to_a_multiple_and_nearly_every_one_to_the_next() {
        for block in [1, 7, 64, 256, 512, 1024, 16_384] {
            let mut beyond = 0;
            for length in 0..700 {
                let client_id = "c".repeat(length);
                let size = |filler| connect_bytes(&client_id, filler);
                let found = size(filler(block, size).expect("there is one")).expect("encodes");
                assert_eq!(found % block, 0, "{length} to {block}");
                let next = size(0).expect("encodes").next_multiple_of(block);
                assert!(found - next <= block, "{length} to {block}: {found}");
                beyond += usize::from(found > next);
            }
            assert!(beyond <= 8, "{block}: {beyond}");
        }
    }

    #[test]
    fn no_block_and_no_room_are_no_filler() {
        assert_eq!(filler(0, |bytes| Some(bytes + 1)), None);
        assert_eq!(
            filler(100_000, |bytes| connect_bytes("c", bytes)),
            None,
            "a text has at most 65,535 bytes"
        );
    }
}
