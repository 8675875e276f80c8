//! The document: TOML, judged whole, every fault shown at once.

use std::sync::Arc;

use drawbridge_names::PolicyName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::decide::{Action, CompiledRule, Effect, Rights, Sides};
use crate::error::{Fault, PolicyError};
use crate::template::{Template, Variables};
use crate::token::TokenRules;

/// Longest document, in bytes.
pub const SOURCE_BYTES_MAX: usize = 64 * 1024;

/// Most patterns in one document, of all rules together.
pub const PATTERNS_MAX: usize = 512;

/// The policy that `device add` attaches when none is named.
const DEVICE_TEMPLATE: &str = r#"# What every device may do: send its events and state, receive its commands and config.
[[allow]]
publish   = ["devices/${device}/events/#", "devices/${device}/state"]
subscribe = ["devices/${device}/commands/#", "devices/${device}/config"]
"#;

/// A parsed, faultless policy document. Cheap to clone.
///
/// ```
/// # use drawbridge_policy::*; use drawbridge_names::*;
/// let name = PolicyName::parse("pumps").unwrap();
/// let policy = Policy::parse(&name, r#"
/// [[allow]]
/// publish   = ["devices/${device}/events/#"]
/// [[deny]]
/// publish   = ["devices/${device}/events/debug/#"]
/// "#).unwrap();
/// let rights = policy.compile(&Variables {
///     device: &PrincipalName::parse("p1").unwrap(),
///     registry: &RegistryName::default_registry(),
///     attributes: &Default::default(),
/// }).unwrap();
/// assert!(rights.may_publish(TopicName::parse("devices/p1/events/hot").unwrap()).allowed);
/// assert!(!rights.may_publish(TopicName::parse("devices/p2/events/hot").unwrap()).allowed);
/// assert!(!rights.may_publish(TopicName::parse("devices/p1/events/debug/x").unwrap()).allowed);
/// ```
#[derive(Debug, Clone)]
pub struct Policy(Arc<Document>);

#[derive(Debug)]
pub(crate) struct Document {
    name: PolicyName,
    source: String,
    patterns: Vec<WrittenPattern>,
    /// Those without a variable, compiled once for all principals.
    fixed: Sides,
    token: TokenRules,
}

/// One pattern of the document and where it stands in it.
#[derive(Debug)]
struct WrittenPattern {
    effect: Effect,
    action: Action,
    rule: u16,
    index: u16,
    template: Template,
}

impl Policy {
    /// Takes a TOML text as a policy. An empty text is a policy too: one that allows nothing.
    ///
    /// # Errors
    /// [`PolicyError::Document`] with every fault of the text: syntax, unknown keys, patterns that
    /// are no topic filters, unknown variables.
    pub fn parse(name: &PolicyName, toml: &str) -> Result<Self, PolicyError> {
        let mut reader =
            Reader { toml, faults: Vec::new(), patterns: Vec::new(), token: TokenRules::default() };
        if toml.len() > SOURCE_BYTES_MAX {
            let text = format!(
                "the document has {} bytes, at most {SOURCE_BYTES_MAX} are allowed; split it into several policies",
                toml.len()
            );
            reader.faults.push(Fault { line: 0, place: String::new(), text });
        } else {
            reader.document();
        }
        let Reader { mut faults, patterns, token, .. } = reader;
        if patterns.len() > PATTERNS_MAX {
            let text =
                format!("{} patterns, at most {PATTERNS_MAX} are allowed; use wildcards", patterns.len());
            faults.push(Fault { line: 0, place: String::new(), text });
        }
        if !faults.is_empty() {
            faults.sort();
            return Err(PolicyError::Document { policy: name.clone(), faults });
        }
        let mut fixed = Vec::new();
        for (written, entry) in (0..).zip(&patterns) {
            if let Some(pattern) = entry.template.fixed() {
                let rule = CompiledRule::new(entry.effect, written, pattern.clone());
                fixed.push((entry.action, rule));
            }
        }
        let fixed = Sides::of_all(fixed);
        Ok(Self(Arc::new(Document { name: name.clone(), source: toml.to_owned(), patterns, fixed, token })))
    }

    /// The default policy `device`.
    #[must_use]
    pub fn device_template() -> Self {
        let name = PolicyName::parse("device").expect("`device` is a policy name");
        Self::parse(&name, DEVICE_TEMPLATE).expect("the built-in policy has no fault, a test holds it")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PolicyName {
        &self.0.name
    }

    /// What it says of access tokens: section `[token]`.
    #[must_use]
    pub fn token(&self) -> &TokenRules {
        &self.0.token
    }

    /// The text it was parsed from, byte for byte.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Puts the values of one principal in.
    ///
    /// # Errors
    /// [`PolicyError::Variable`] when a variable has no value, or one that could change the shape of
    /// a pattern. The whole policy is refused then, not the one rule: dropping a deny would widen
    /// it. The caller goes on with [`Rights::none`] and logs the error.
    pub fn compile(&self, variables: &Variables<'_>) -> Result<Rights, PolicyError> {
        let mut rules = Vec::new();
        // At most PATTERNS_MAX patterns, so the number fits.
        for (written, entry) in (0..).zip(&self.0.patterns) {
            if entry.template.fixed().is_some() {
                continue; // stands in `fixed`
            }
            let pattern = entry.template.compile(variables).map_err(|fault| PolicyError::Variable {
                policy: self.0.name.clone(),
                place: format!("{}[{}].{}[{}]", entry.effect, entry.rule, entry.action, entry.index),
                written: entry.template.written().to_owned(),
                fault,
            })?;
            rules.push((entry.action, CompiledRule::new(entry.effect, written, pattern)));
        }
        Ok(Rights::of(self.clone(), rules))
    }

    /// The patterns that are the same for all principals.
    pub(crate) fn fixed(&self) -> &Sides {
        &self.0.fixed
    }

    /// Where the pattern numbered `written` stands, and its text.
    pub(crate) fn place(&self, written: u16) -> (Effect, Action, u16, u16, &str) {
        let entry = &self.0.patterns[usize::from(written)];
        (entry.effect, entry.action, entry.rule, entry.index, entry.template.written())
    }
}

struct Reader<'t> {
    toml: &'t str,
    faults: Vec<Fault>,
    patterns: Vec<WrittenPattern>,
    token: TokenRules,
}

impl Reader<'_> {
    fn fault(&mut self, at: usize, place: &str, text: impl Into<String>) {
        let before = &self.toml.as_bytes()[..at.min(self.toml.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.faults.push(Fault { line, place: place.to_owned(), text: text.into() });
    }

    fn document(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.toml);
        if !errors.is_empty() {
            // What the parser recovered is guesswork; only its errors are shown.
            for error in errors {
                let at = error.span().map_or(0, |span| span.start);
                self.fault(at, "", error.message().replace('\n', ", "));
            }
            return;
        }
        for (key, value) in table.get_ref() {
            let effect = match key.get_ref().as_ref() {
                "allow" => Effect::Allow,
                "deny" => Effect::Deny,
                "token" => {
                    self.token_section(value);
                    continue;
                }
                other => {
                    let text = format!(
                        "unknown key `{}`; wanted `[[allow]]`, `[[deny]]` or `[token]`",
                        other.escape_debug()
                    );
                    self.fault(key.span().start, "", text);
                    continue;
                }
            };
            self.rules(effect, value);
        }
    }

    fn token_section(&mut self, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(table) = value.get_ref() else {
            let text = format!("found a {}; wanted one section headed `[token]`", value.get_ref().type_str());
            return self.fault(value.span().start, "token", text);
        };
        self.token = TokenRules::read(table, &mut |at, place, text| self.fault(at, place, text));
    }

    fn rules(&mut self, effect: Effect, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(rules) = value.get_ref() else {
            let found = value.get_ref().type_str();
            self.fault(
                value.span().start,
                effect.as_str(),
                format!("found a {found}; wanted a list of rules, each headed `[[{effect}]]`"),
            );
            return;
        };
        for (rule, value) in rules.iter().enumerate() {
            let place = format!("{effect}[{rule}]");
            match (value.get_ref(), u16::try_from(rule)) {
                (DeValue::Table(table), Ok(rule)) => {
                    self.rule(effect, rule, &place, table, value.span().start)
                }
                (other, _) => {
                    let text =
                        format!("found a {}; wanted a table with `publish` or `subscribe`", other.type_str());
                    self.fault(value.span().start, &place, text);
                }
            }
        }
    }

    fn rule(&mut self, effect: Effect, rule: u16, place: &str, table: &DeTable<'_>, at: usize) {
        if table.is_empty() {
            self.fault(
                at,
                place,
                "the rule says nothing; wanted `publish` or `subscribe` with a list of patterns",
            );
        }
        for (key, value) in table {
            let action = match key.get_ref().as_ref() {
                "publish" => Action::Publish,
                "subscribe" => Action::Subscribe,
                other => {
                    let text =
                        format!("unknown key `{}`; wanted `publish` or `subscribe`", other.escape_debug());
                    self.fault(key.span().start, place, text);
                    continue;
                }
            };
            let place = format!("{place}.{action}");
            let DeValue::Array(patterns) = value.get_ref() else {
                let text = format!("found a {}; wanted a list of patterns", value.get_ref().type_str());
                self.fault(value.span().start, &place, text);
                continue;
            };
            for (index, value) in patterns.iter().enumerate() {
                self.pattern(effect, action, rule, index, value);
            }
        }
    }

    fn pattern(
        &mut self,
        effect: Effect,
        action: Action,
        rule: u16,
        index: usize,
        value: &Spanned<DeValue<'_>>,
    ) {
        let place = format!("{effect}[{rule}].{action}[{index}]");
        let at = value.span().start;
        let DeValue::String(written) = value.get_ref() else {
            let text = format!("found a {}; wanted a pattern in quotes", value.get_ref().type_str());
            return self.fault(at, &place, text);
        };
        let template = match Template::parse(written) {
            Ok(template) => template,
            Err(text) => return self.fault(at, &place, format!("`{}`: {text}", written.escape_debug())),
        };
        let first_level = written.split('/').next().unwrap_or_default();
        if first_level == "$share" {
            let text = "`$share/GROUP/` is taken off a subscription before rules are asked, so this rule would \
                        never speak; write the filter behind it";
            return self.fault(at, &place, text);
        }
        if effect == Effect::Allow
            && action == Action::Publish
            && crate::decide::reserved(first_level).is_some()
        {
            let text = format!(
                "`{first_level}` belongs to the server, no policy can allow a publish there; remove it"
            );
            return self.fault(at, &place, text);
        }
        match u16::try_from(index) {
            Ok(index) => self.patterns.push(WrittenPattern { effect, action, rule, index, template }),
            Err(_) => self.fault(at, &place, "too many patterns in one list"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(toml: &str) -> Vec<Fault> {
        match Policy::parse(&PolicyName::parse("p").expect("a name"), toml) {
            Err(PolicyError::Document { faults, .. }) => faults,
            other => panic!("{toml}: {other:?}"),
        }
    }

    #[test]
    fn every_fault_is_shown_at_once_with_its_line_and_place() {
        let found = faults(
            "colour = 1\n[[allow]]\npublish = [\"a/#/b\", 7]\npubish = []\n[[deny]]\nsubscribe = \"x\"\n\
             [[allow]]\nsubscribe = [\"${user}\"]\n[[deny]]\n",
        );
        let shown: Vec<(usize, &str)> = found.iter().map(|f| (f.line, f.place.as_str())).collect();
        assert_eq!(
            shown,
            [
                (1, ""),
                (3, "allow[0].publish[0]"),
                (3, "allow[0].publish[1]"),
                (4, "allow[0]"),
                (6, "deny[0].subscribe"),
                (8, "allow[1].subscribe[0]"),
                (9, "deny[1]"),
            ],
            "{found:#?}"
        );
    }

    #[test]
    fn documents_of_the_wrong_shape_are_refused() {
        let long = "#".repeat(SOURCE_BYTES_MAX + 1);
        let many = format!("[[allow]]\npublish = [{}]", "\"a\",".repeat(PATTERNS_MAX + 1));
        for bad in [
            "[allow]\npublish = []",
            "allow = [1]",
            "allow = 1",
            "[[allow]]\npublish = [\"a\"",
            "[[allow]]\npublish = []\npublish = []",
            "[[allow]]\npublish = [\"\"]",
            "[[allow]]\npublish = [\"$SYS/x\"]",
            "[[allow]]\npublish = [\"$drawbridge/#\"]",
            "[[deny]]\nsubscribe = [\"$share/g/a\"]",
            "[[allow]]\npublish = [\"a\\u0000\"]",
            "[[token]]\nlife_s = 1",
            "token = 1",
            "[token]\nlife_s = 0",
            "[token]\nlife_s = 86401",
            "[token]\nlife_s = -1",
            "[token]\nlife_s = 1.5",
            "[token]\nlife_s = \"1h\"",
            "[token]\nformat = \"jwt\"",
            "[token]\nformat = 1",
            "[token]\nrenewals_max = 86401",
            "[token]\nlifes = 1",
            "[token]\nalias_scopes = \"a\"",
            "[token]\nalias_scopes = [\"a b\"]",
            "[token]\nalias_scopes = [\"\"]",
            "[token]\nalias_scopes = [7]",
            &long,
            &many,
        ] {
            let found = faults(bad);
            assert!(!found.is_empty() && found.iter().all(|f| !f.text.is_empty()), "{bad}");
        }
    }

    #[test]
    fn a_policy_says_how_long_tokens_live_in_what_form_and_how_often_they_are_renewed() {
        let parse = |toml: &str| {
            Policy::parse(&PolicyName::parse("p").expect("a name"), toml).expect("no fault").token().clone()
        };
        assert_eq!(parse(""), TokenRules::default());
        assert_eq!((TokenRules::default().life_s, TokenRules::default().renewals_max), (None, 24));
        let rules = parse(
            "[token]\nlife_s = 0x384\nformat = \"opaque\"\nrenewals_max = 0\nalias_scopes = [\"tenant.demo\"]\n\
             [[allow]]\npublish = [\"a\"]\n",
        );
        let expected = TokenRules {
            life_s: Some(900),
            form: Some(crate::TokenForm::Opaque),
            renewals_max: 0,
            alias_scopes: vec!["tenant.demo".to_owned()],
        };
        assert_eq!(rules, expected);
        let found = faults("[token]\nlife_s = 0\nformat = \"x\"\nmore = 1\n");
        let shown: Vec<(usize, &str)> = found.iter().map(|f| (f.line, f.place.as_str())).collect();
        assert_eq!(shown, [(2, "token.life_s"), (3, "token.format"), (4, "token")], "{found:#?}");
    }

    #[test]
    fn the_error_names_the_policy_and_has_a_code() {
        let error =
            Policy::parse(&PolicyName::parse("pumps").expect("a name"), "x = 1").expect_err("unknown key");
        assert!(
            error.to_string().contains("`pumps`") && error.to_string().contains("unknown key `x`"),
            "{error}"
        );
        assert_eq!((error.code(), error.word()), ("DB-3001", "policy-invalid"));
    }

    #[test]
    fn the_device_template_is_faultless_and_keeps_its_source() {
        let policy = Policy::device_template();
        assert_eq!(policy.name().as_str(), "device");
        assert_eq!(policy.source(), DEVICE_TEMPLATE);
        assert_eq!(policy.0.patterns.len(), 4);
    }
}
