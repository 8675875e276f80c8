//! `corpus.txt`: packets by hand and what becomes of them.

use drawbridge_mqtt::codec::{Frame, ProtocolVersion, Side, decode};

const PACKET_BYTES_MAX: usize = 65_536;

#[test]
fn every_packet_of_the_corpus_has_its_outcome() {
    let mut faults = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    for (number, line) in include_str!("corpus.txt").lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [hex, version, side, wanted, what] = columns[..] else {
            panic!("line {}: wanted five columns: {line}", number + 1);
        };
        let found = outcome(&bytes(hex), version, side);
        if found.starts_with("ok") {
            taken += 1;
        }
        if found.starts_with("DB-") {
            refused += 1;
        }
        if found != wanted {
            faults.push(format!("line {}: {what}: {found}, wanted {wanted}", number + 1));
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(taken >= 40 && refused >= 70, "{taken} taken, {refused} refused");
}

fn outcome(input: &[u8], version: &str, side: &str) -> String {
    let version = match version {
        "-" => None,
        "3.1.1" => Some(ProtocolVersion::V311),
        "5" => Some(ProtocolVersion::V5),
        other => panic!("no version: {other}"),
    };
    let side = match side {
        "client" => Side::FromClient,
        "server" => Side::FromServer,
        other => panic!("no side: {other}"),
    };
    match decode(input, version, PACKET_BYTES_MAX, side) {
        Ok(Frame::Complete { packet, bytes }) if bytes == input.len() => {
            format!("ok {}", packet.packet_type())
        }
        Ok(Frame::Complete { packet, bytes }) => {
            format!("ok+{} {}", input.len() - bytes, packet.packet_type())
        }
        Ok(Frame::Incomplete { bytes_total: Some(total) }) => format!("more {total}"),
        Ok(Frame::Incomplete { bytes_total: None }) => "more ?".to_owned(),
        Err(fault) => format!("{} {:#04x}", fault.code(), fault.reason_code().byte()),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    assert!(digits.len().is_multiple_of(2), "half a byte: {hex}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}
