//! A small seeded mutator: bit flips, splices, truncation, words. One seed gives one run.

pub(crate) const JSON_WORDS: &[&str] = &[
    "null",
    "true",
    "1e400",
    "-1",
    "9007199254740992",
    "1795301000.5",
    "\"\"",
    "[]",
    "{}",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"iss\":",
    "\"sub\":",
    "\"aud\":",
    "\"exp\":",
    "\"nbf\":",
    "\"iat\":",
    "\"jti\":",
    "\"cnf\":",
    "\"jwk\":",
    "\"upd\":",
    "\"scope\":",
    "\"public_key\":",
    "\"htm\":",
    "\"htu\":",
    "\"ath\":",
    "\"nonce\":",
    "\"act\":",
    "\"uid\":",
    "\"epoch\":",
    "\"akid\":",
    "\"alg\":",
    "\"typ\":",
    "\"kid\":",
    "\"crit\":[\"b64\"],",
    "\"b64\":false,",
    "\"jku\":\"x\",",
    "\"kty\":",
    "\"crv\":",
    "\"x\":",
    "\"y\":",
    "\"n\":",
    "\"e\":\"AQAB\"",
    "\"d\":\"AAAA\",",
    "\"use\":\"sig\",",
    "\"key_ops\":[\"verify\"],",
    "\"ES256\"",
    "\"EdDSA\"",
    "\"Ed25519\"",
    "\"RS256\"",
    "\"none\"",
    "\"HS256\"",
    "\"JWT\"",
    "\"at+jwt\"",
    "\"dpop+jwt\"",
    "\"key-update+jwt\"",
    "\"key-pop+jwt\"",
    "application/",
    "\\u0000",
    "\\ud800",
    "\\u0061",
    "\u{feff}",
    " ",
    "\n",
    "=",
    "==",
    ".",
    "..",
    "eyJ",
    "AA",
    "A",
];

pub(crate) const KEY_WORDS: &[&str] = &[
    "-----BEGIN PUBLIC KEY-----",
    "-----END PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "-----END CERTIFICATE-----",
    "-----BEGIN PRIVATE KEY-----",
    "-----",
    "\n",
    "\r\n",
    " ",
    "=",
    "==",
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
    "MCowBQYDK2VwAyEA",
    "\u{30}\u{59}",
    "\u{5}\u{0}",
    "\u{2}\u{1}\u{0}",
    "{",
    "\"kty\":\"EC\"",
];

pub(crate) const FORM_WORDS: &[&str] = &[
    "&",
    "=",
    "%",
    "%00",
    "%26",
    "%3D",
    "%C3%A9",
    "%ff",
    "%61",
    "%2",
    "+",
    "grant_type",
    "client_credentials",
    "scope",
    "client_assertion",
    "client_assertion_type",
    "resource",
    "token",
    "&&",
    "==",
    "a=1&a=2",
];

pub(crate) const POLICY_WORDS: &[&str] = &[
    "[[allow]]\n",
    "[token]\n",
    "life_s = ",
    "format = ",
    "\"opaque\"",
    "renewals_max = ",
    "alias_scopes = ",
    "[[deny]]\n",
    "publish = ",
    "subscribe = ",
    "[\"devices/${device}/#\"]",
    "\"#\"",
    "\"+/a\"",
    "${device}",
    "${registry}",
    "${attr.site}",
    "${",
    "}",
    "[",
    "]",
    "\"",
    "'''",
    "\n",
    "#",
    "$SYS/#",
    "$share/g/a",
    "$drawbridge/x",
    "= 1",
    "\\u0000",
];

pub(crate) const TOPIC_WORDS: &[&str] = &[
    "/",
    "+",
    "#",
    "+/",
    "/#",
    "//",
    "$SYS",
    "$share/g/",
    "$",
    "\u{0}",
    "\u{feff}",
    "\n",
    "a",
    "é",
    "\u{fffd}",
    "-",
    ".",
    "~",
    "goog",
];

/// Makes new inputs out of known ones.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The run of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number (splitmix64).
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }

    /// One known input, changed in one to four places, at most `bytes_max` long.
    pub fn next(&mut self, known: &[Vec<u8>], words: &[&str], bytes_max: usize) -> Vec<u8> {
        let mut input = known[self.below(known.len())].clone();
        // Small inputs are told in few bytes: one change says enough.
        let changes = if input.len() < 12 { 1 + self.below(2) } else { 1 + self.below(4) };
        for _ in 0..changes {
            self.change(&mut input, known, words);
        }
        input.truncate(bytes_max);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, known: &[Vec<u8>], words: &[&str]) {
        // The first bytes are often a choice of mode: they change less often than the rest.
        let spare = if input.len() > 2 && self.below(4) > 0 { 2 } else { 0 };
        let at = spare + self.below(input.len() + 1 - spare);
        let span = [1, 1, 2, 4, 8, 16, 64][self.below(7)];
        let end = (at + span).min(input.len());
        match self.below(12) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = [0, 1, 0x20, b'"', b'.', b'=', 0x7f, 0x80, 0xff, b'0'][self.below(10)];
                }
            }
            3 => input.insert(at, (self.draw() % 256) as u8),
            4 => drop(input.drain(at..end)),
            5 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            // Mostly only the end is cut off: what is cut early says little.
            6 => {
                let end = if self.below(4) == 0 { at } else { input.len() - self.below(4).min(input.len()) };
                input.truncate(end.max(2));
            }
            7 | 8 if !words.is_empty() => {
                let word = words[self.below(words.len())].bytes();
                let end = if self.below(2) == 0 { at } else { end };
                input.splice(at..end, word);
            }
            9 => {
                // A digit becomes another one: times, lengths and sizes move a little.
                if let Some(digit) = input[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + self.below(10) as u8;
                }
            }
            10 => {
                // The beginning of this one and the end of another.
                let other = &known[self.below(known.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = byte.wrapping_add([1, 0xff][self.below(2)]);
                }
            }
        }
    }
}
