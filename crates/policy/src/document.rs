//! The document, and what becomes of it for one principal and one connection.

use std::sync::Arc;

use drawbridge_names::PolicyName;

use crate::connection::{Connection, Origin, When};
use crate::decide::{Action, CompiledRule, Effect, Place, Placed, Rights, Sides};
use crate::error::{Fault, PolicyError, VariableFault};
use crate::limits::{Bound, PolicyLimits};
use crate::reader::{Parts, read};
use crate::template::{Template, Variables};
use crate::token::TokenRules;
use crate::trial::Trial;

/// Longest document, in bytes.
pub const SOURCE_BYTES_MAX: usize = 64 * 1024;

/// Most patterns in one document, of all rules together.
pub const PATTERNS_MAX: usize = 512;

/// Most different conditions (`when`) in one document.
pub const CONDITIONS_MAX: usize = 32;

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
    /// Those without a variable and a condition, compiled once for all principals.
    fixed: Sides,
    gates: Vec<Gate>,
    when: Option<When>,
    limits: PolicyLimits,
    token: TokenRules,
    tests: Vec<Trial>,
}

/// One pattern of the document and where it stands in it.
#[derive(Debug)]
pub(crate) struct WrittenPattern {
    pub(crate) effect: Effect,
    pub(crate) action: Action,
    pub(crate) rule: u16,
    pub(crate) index: u16,
    pub(crate) template: Template,
    /// The condition of its rule, as its place among those of the document.
    pub(crate) gate: Option<u8>,
    pub(crate) bound: Option<Bound>,
}

/// Rules that speak over some connections only: those of one effect and one condition.
#[derive(Debug)]
struct Gate {
    effect: Effect,
    when: When,
    /// Their patterns without a variable, compiled once for all connections.
    fixed: Sides,
}

/// The gates that stand open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Gates(u32);

const _: () = assert!(CONDITIONS_MAX <= u32::BITS as usize);

impl Gates {
    pub(crate) fn has(self, gate: usize) -> bool {
        self.0 & (1 << gate) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// For whom a policy is compiled.
#[derive(Clone, Copy)]
enum View<'a> {
    /// For a connection, or one of which nothing is known.
    Connection(Connection<'a>),
    /// For all connections that a principal may have.
    Anywhere,
}

impl Policy {
    /// Takes a TOML text as a policy. An empty text is a policy too: one that allows nothing.
    ///
    /// # Errors
    /// [`PolicyError::Document`] with every fault of the text: syntax, unknown keys, patterns that
    /// are no topic filters, unknown variables.
    pub fn parse(name: &PolicyName, toml: &str) -> Result<Self, PolicyError> {
        let fault = |text| Fault { line: 0, place: String::new(), text };
        let mut faults = Vec::new();
        let mut parts = Parts::default();
        if toml.len() > SOURCE_BYTES_MAX {
            faults.push(fault(format!(
                "the document has {} bytes, at most {SOURCE_BYTES_MAX} are allowed; split it into several policies",
                toml.len()
            )));
        } else {
            (parts, faults) = read(toml);
        }
        let Parts { patterns, conditions, when, limits, token, tests } = parts;
        if patterns.len() > PATTERNS_MAX {
            faults.push(fault(format!(
                "{} patterns, at most {PATTERNS_MAX} are allowed; use wildcards",
                patterns.len()
            )));
        }
        if conditions.len() > CONDITIONS_MAX {
            faults.push(fault(format!(
                "{} different `when`, at most {CONDITIONS_MAX} are allowed; split the document into several policies",
                conditions.len()
            )));
        }
        if !faults.is_empty() {
            faults.sort();
            return Err(PolicyError::Document { policy: name.clone(), faults });
        }
        let fixed_at = |gate: Option<u8>| {
            // At most PATTERNS_MAX patterns, so the number fits.
            let here = (0..).zip(&patterns).filter(|(_, entry)| entry.gate == gate);
            Sides::of_all(
                here.filter_map(|(written, entry)| {
                    let rule = CompiledRule::new(entry.effect, written, entry.template.fixed()?.clone());
                    Some(Placed { action: entry.action, bound: entry.bound, rule })
                })
                .collect(),
            )
        };
        let gates = (0..)
            .zip(conditions)
            .map(|(at, (effect, when))| Gate { effect, when, fixed: fixed_at(Some(at)) })
            .collect();
        let fixed = fixed_at(None);
        let source = toml.to_owned();
        let name = name.clone();
        Ok(Self(Arc::new(Document { name, source, patterns, fixed, gates, when, limits, token, tests })))
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

    /// Puts the values of one principal in, for a connection of which nothing is known: no rule that asks
    /// something of the connection allows anything, all that deny do.
    ///
    /// # Errors
    /// As [`Self::compile_for`].
    pub fn compile(&self, variables: &Variables<'_>) -> Result<Rights, PolicyError> {
        self.compile_for(variables, &Connection::default())
    }

    /// Puts the values of one principal in, and judges what the rules ask of its connection.
    ///
    /// A pattern of an allow that has a variable without a usable value speaks of nothing (see
    /// [`Self::left_out`]).
    ///
    /// # Errors
    /// [`PolicyError::Variable`] when a deny has such a variable: leaving that out would widen the policy, so
    /// all of it is refused. The caller goes on with [`Rights::none`] and logs the error.
    pub fn compile_for(
        &self,
        variables: &Variables<'_>,
        connection: &Connection<'_>,
    ) -> Result<Rights, PolicyError> {
        self.compiled(variables, View::Connection(*connection))
    }

    /// Puts the values of one principal in, for all connections that it may have: what it may over any of
    /// them. For what is judged again, or was judged before, by the rights of a connection: what a token may
    /// carry, what is kept for a session that is away, whether a stored message may still be delivered.
    /// Patterns with `${cert...}` and `${token...}` speak of nothing here.
    ///
    /// # Errors
    /// As [`Self::compile_for`].
    pub fn compile_anywhere(&self, variables: &Variables<'_>) -> Result<Rights, PolicyError> {
        self.compiled(variables, View::Anywhere)
    }

    fn compiled(&self, variables: &Variables<'_>, view: View<'_>) -> Result<Rights, PolicyError> {
        let document = &*self.0;
        let connection = match view {
            View::Connection(connection) => connection,
            View::Anywhere => Connection::default(),
        };
        let mut gates = Gates::default();
        for (at, gate) in document.gates.iter().enumerate() {
            let open = match view {
                View::Connection(connection) => {
                    gate.when.holds(&connection.facts).unwrap_or(gate.effect == Effect::Deny)
                }
                View::Anywhere => gate.effect == Effect::Allow,
            };
            gates.0 |= u32::from(open) << at;
        }
        let shut = match (&document.when, view) {
            (Some(when), View::Connection(connection)) => when.holds(&connection.facts) != Some(true),
            _ => false,
        };
        let mut rules = Vec::new();
        // At most PATTERNS_MAX patterns, so the number fits.
        for (written, entry) in (0..).zip(&document.patterns) {
            let speaks = entry.gate.is_none_or(|gate| gates.has(usize::from(gate)));
            let unknown = matches!(view, View::Anywhere) && entry.template.needs_connection();
            if !speaks || unknown || entry.template.fixed().is_some() {
                continue; // those without variables stand in `fixed`
            }
            match entry.template.compile(variables, &connection) {
                Ok(pattern) => {
                    let rule = CompiledRule::new(entry.effect, written, pattern);
                    rules.push(Placed { action: entry.action, bound: entry.bound, rule });
                }
                Err(_) if entry.effect == Effect::Allow => {}
                Err(fault) => return Err(self.variable_fault(entry, fault)),
            }
        }
        let origin = self.asks_for_connection().then(|| Box::new(Origin::of(variables, &connection)));
        Ok(Rights::of(self.clone(), rules, gates, shut, origin))
    }

    /// The patterns that speak of nothing, because a variable in them has no usable value.
    #[must_use]
    pub fn left_out(&self, variables: &Variables<'_>, connection: &Connection<'_>) -> Vec<PolicyError> {
        let entries = self.0.patterns.iter().filter(|entry| entry.effect == Effect::Allow);
        let faults = entries.filter_map(|entry| {
            let fault = entry.template.compile(variables, connection).err()?;
            Some(self.variable_fault(entry, fault))
        });
        faults.collect()
    }

    fn variable_fault(&self, entry: &WrittenPattern, fault: VariableFault) -> PolicyError {
        PolicyError::Variable {
            policy: self.0.name.clone(),
            place: format!("{}[{}].{}[{}]", entry.effect, entry.rule, entry.action, entry.index),
            written: entry.template.written().to_owned(),
            fault,
        }
    }

    /// Whether a connection matters: if not, [`Self::compile`] gives what it gives for every connection.
    #[must_use]
    pub fn asks_for_connection(&self) -> bool {
        self.0.when.is_some()
            || !self.0.gates.is_empty()
            || self.0.patterns.iter().any(|entry| entry.template.needs_connection())
    }

    /// What the whole document asks of a connection: section `[when]`.
    #[must_use]
    pub fn when(&self) -> Option<&When> {
        self.0.when.as_ref()
    }

    /// Runs the tests of the document. A policy whose tests fail is not to be applied.
    ///
    /// # Errors
    /// [`PolicyError::Tests`] with every test that failed: what was found and what was wanted.
    pub fn run_tests(&self) -> Result<(), PolicyError> {
        let faults: Vec<Fault> = self.0.tests.iter().filter_map(|test| test.run(self)).collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(PolicyError::Tests { policy: self.0.name.clone(), faults })
        }
    }

    /// How many tests the document has.
    #[must_use]
    pub fn tests(&self) -> usize {
        self.0.tests.len()
    }

    pub(crate) fn limits(&self) -> &PolicyLimits {
        &self.0.limits
    }

    /// The patterns that are the same for all principals, by their condition.
    pub(crate) fn gated(&self) -> impl Iterator<Item = (usize, &Sides)> {
        self.0.gates.iter().map(|gate| &gate.fixed).enumerate()
    }

    /// The patterns that are the same for all principals.
    pub(crate) fn fixed(&self) -> &Sides {
        &self.0.fixed
    }

    /// Where the pattern numbered `written` stands, and its text.
    pub(crate) fn place(&self, written: u16) -> Place<'_> {
        let entry = &self.0.patterns[usize::from(written)];
        Place {
            effect: entry.effect,
            action: entry.action,
            index: entry.rule,
            pattern_index: entry.index,
            written: entry.template.written(),
            when: entry.gate.map(|gate| &self.0.gates[usize::from(gate)].when),
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
