//! What a policy says of its principals' access tokens.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Longest life of an access token that a policy may give, in seconds.
pub const TOKEN_LIFE_S_MAX: u32 = 86_400;
/// How often a token may be renewed unless the policy says otherwise.
const RENEWALS_DEFAULT: u32 = 24;
/// More renewals than seconds in the day that a chain lasts make no sense.
const RENEWALS_MAX: u32 = 86_400;
/// Most words that a policy may name.
const ALIAS_SCOPES_MAX: usize = 64;
/// Longest of them, in bytes.
const ALIAS_SCOPE_BYTES_MAX: usize = 64;

/// The form of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenForm {
    /// A signed JWT: `at+jwt`.
    Jwt,
    /// Random text: `opaque`.
    Opaque,
}

/// Section `[token]` of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// `life_s`: how long a token is good, in seconds; `None`: as the registry says.
    pub life_s: Option<u32>,
    /// `format`: `at+jwt` or `opaque`; `None`: as the registry says.
    pub form: Option<TokenForm>,
    /// `renewals_max`: how often in a row a token of the IoT IdP paths may be renewed; 0: never. Default 24.
    pub renewals_max: u32,
    /// `alias_scopes`: words that may be asked for on the IoT IdP paths. They are repeated by introspection
    /// and mean nothing to the server.
    pub alias_scopes: Vec<String>,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self { life_s: None, form: None, renewals_max: RENEWALS_DEFAULT, alias_scopes: Vec::new() }
    }
}

impl TokenRules {
    /// Reads the section; each fault has its place in the document, the key, and its text.
    pub(crate) fn read(table: &DeTable<'_>, fault: &mut dyn FnMut(usize, &str, String)) -> Self {
        let mut rules = Self::default();
        for (key, value) in table {
            let at = value.span().start;
            match key.get_ref().as_ref() {
                "life_s" => match integer(value, 1, TOKEN_LIFE_S_MAX) {
                    Ok(life_s) => rules.life_s = Some(life_s),
                    Err(text) => fault(at, "token.life_s", text),
                },
                "renewals_max" => match integer(value, 0, RENEWALS_MAX) {
                    Ok(renewals) => rules.renewals_max = renewals,
                    Err(text) => fault(at, "token.renewals_max", text),
                },
                "format" => match value.get_ref() {
                    DeValue::String(word) if word == "at+jwt" => rules.form = Some(TokenForm::Jwt),
                    DeValue::String(word) if word == "opaque" => rules.form = Some(TokenForm::Opaque),
                    other => {
                        let text = format!("found {}; wanted \"at+jwt\" or \"opaque\"", shown(other));
                        fault(at, "token.format", text);
                    }
                },
                "alias_scopes" => rules.read_scopes(value, fault),
                other => {
                    let text = format!(
                        "unknown key `{}`; wanted `life_s`, `format`, `renewals_max` or `alias_scopes`",
                        other.escape_debug()
                    );
                    fault(key.span().start, "token", text);
                }
            }
        }
        rules
    }

    fn read_scopes(&mut self, value: &Spanned<DeValue<'_>>, fault: &mut dyn FnMut(usize, &str, String)) {
        const PLACE: &str = "token.alias_scopes";
        let DeValue::Array(words) = value.get_ref() else {
            let text = format!("found {}; wanted a list of words", shown(value.get_ref()));
            return fault(value.span().start, PLACE, text);
        };
        if words.len() > ALIAS_SCOPES_MAX {
            let text = format!("{} words, at most {ALIAS_SCOPES_MAX} are allowed", words.len());
            return fault(value.span().start, PLACE, text);
        }
        for (index, value) in words.iter().enumerate() {
            let place = format!("{PLACE}[{index}]");
            match value.get_ref() {
                DeValue::String(word) if is_scope_token(word) => self.alias_scopes.push(word.to_string()),
                other => {
                    let text = format!(
                        "found {}; wanted a word of 1 to {ALIAS_SCOPE_BYTES_MAX} printable ASCII characters \
                         without blank, `\"` and `\\`",
                        shown(other)
                    );
                    fault(value.span().start, &place, text);
                }
            }
        }
    }
}

/// Source: RFC 6749 section 3.3 (`scope-token`).
fn is_scope_token(word: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (1..=ALIAS_SCOPE_BYTES_MAX).contains(&word.len()) && word.bytes().all(fits)
}

/// A whole number from `min` to `max`; the error says what was found and wanted.
pub(crate) fn integer(value: &Spanned<DeValue<'_>>, min: u32, max: u32) -> Result<u32, String> {
    let wanted = || format!("found {}; wanted a whole number from {min} to {max}", shown(value.get_ref()));
    let DeValue::Integer(number) = value.get_ref() else { return Err(wanted()) };
    let number = u32::from_str_radix(number.as_str(), number.radix()).map_err(|_| wanted())?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(wanted()) }
}

/// A value as an error names it: short, and without line breaks.
pub(crate) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            format!("\"{}\"", text.chars().take(64).flat_map(char::escape_debug).collect::<String>())
        }
        DeValue::Integer(number) => number.as_str().chars().take(64).collect(),
        other => format!("a {}", other.type_str()),
    }
}
