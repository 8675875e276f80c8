//! Form bodies.

use std::collections::BTreeMap;

use crate::{Outcome, judge_code, judge_text};

pub(crate) mod form_body {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let params = match drawbridge_http::fuzzing::form(data) {
            Ok(params) => params,
            Err((code, detail)) => {
                judge_code(code);
                judge_text(&detail, data);
                return Outcome::refused(detail.split('`').next().unwrap_or_default());
            }
        };
        // Read in our own plain way it says the same; nothing stands there twice, nothing is lost.
        let mut wanted = BTreeMap::new();
        for pair in data.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let name = text(&pair[..at]).expect("a name is text");
            let value = text(pair.get(at + 1..).unwrap_or_default()).expect("a value is text");
            assert!(!value.contains('\0'));
            assert!(wanted.insert(name, value).is_none(), "a parameter stands there twice");
        }
        wanted.retain(|_, value| !value.is_empty());
        assert_eq!(params, wanted);
        let again: Vec<String> =
            params.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        assert_eq!(drawbridge_http::fuzzing::form(again.join("&").as_bytes()).as_ref(), Ok(&params));
        Outcome::accepted()
    }

    fn text(encoded: &[u8]) -> Option<String> {
        let mut bytes = Vec::new();
        let mut at = 0;
        while at < encoded.len() {
            let hex = encoded.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
            let hex = hex.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
            match (encoded[at], hex) {
                (b'%', Some(two)) => {
                    bytes.push(u8::from_str_radix(two, 16).ok()?);
                    at += 3;
                    continue;
                }
                (b'+', _) => bytes.push(b' '),
                (byte, _) => bytes.push(byte),
            }
            at += 1;
        }
        String::from_utf8(bytes).ok()
    }

    fn encode(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02X}")).collect()
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        [
            "grant_type=client_credentials&scope=telemetry%3Awrite&resource=https%3A%2F%2Fcore.example%2Fmqtt",
            "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJhbGciOiJFUzI1NiJ9.e30.AA",
            "token=dbo_abc&token_type_hint=access_token",
            "a=&b=1&c=x+y%20z&d",
            "%61=1&b=%C3%A9",
            "",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    }
}
