//! The text of a document, taken apart: TOML, judged whole, every fault shown at once.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::connection::When;
use crate::decide::{Action, Effect};
use crate::document::WrittenPattern;
use crate::error::Fault;
use crate::limits::{Bound, PolicyLimits};
use crate::template::Template;
use crate::token::TokenRules;
use crate::trial::{TESTS_MAX, Trial};

/// What a document says.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) patterns: Vec<WrittenPattern>,
    /// The different conditions of its rules.
    pub(crate) conditions: Vec<(Effect, When)>,
    pub(crate) when: Option<When>,
    pub(crate) limits: PolicyLimits,
    pub(crate) token: TokenRules,
    pub(crate) tests: Vec<Trial>,
}

/// Takes a text apart. With a fault, what is missing in the parts is not to be relied on.
pub(crate) fn read(toml: &str) -> (Parts, Vec<Fault>) {
    let mut reader = Reader { toml, faults: Vec::new(), parts: Parts::default() };
    reader.document();
    (reader.parts, reader.faults)
}

struct Reader<'t> {
    toml: &'t str,
    faults: Vec<Fault>,
    parts: Parts,
}

/// What a rule says beside its patterns.
#[derive(Clone, Copy)]
struct Terms {
    gate: Option<u8>,
    bound: Bound,
}

impl Reader<'_> {
    fn fault(&mut self, at: usize, place: &str, text: impl Into<String>) {
        self.faults.push(fault_at(self.toml, at, place, text.into()));
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
                    if let Some(table) = self.section("token", value) {
                        self.parts.token = TokenRules::read(table, &mut |at, place, text| {
                            self.faults.push(fault_at(self.toml, at, place, text))
                        });
                    }
                    continue;
                }
                "limits" => {
                    if let Some(table) = self.section("limits", value) {
                        self.parts.limits = PolicyLimits::read(table, &mut |at, place, text| {
                            self.faults.push(fault_at(self.toml, at, place, text))
                        });
                    }
                    continue;
                }
                "when" => {
                    self.parts.when = Some(self.condition("when", value));
                    continue;
                }
                "test" => {
                    self.tests(value);
                    continue;
                }
                other => {
                    let text = format!(
                        "unknown key `{}`; wanted `[[allow]]`, `[[deny]]`, `[when]`, `[limits]`, `[token]` or \
                         `[[test]]`",
                        other.escape_debug()
                    );
                    self.fault(key.span().start, "", text);
                    continue;
                }
            };
            self.rules(effect, value);
        }
    }

    fn section<'v, 'i>(&mut self, name: &str, value: &'v Spanned<DeValue<'i>>) -> Option<&'v DeTable<'i>> {
        let DeValue::Table(table) = value.get_ref() else {
            let found = value.get_ref().type_str();
            self.fault(
                value.span().start,
                name,
                format!("found a {found}; wanted one section headed `[{name}]`"),
            );
            return None;
        };
        Some(table)
    }

    fn condition(&mut self, place: &str, value: &Spanned<DeValue<'_>>) -> When {
        When::read(value, place, &mut |at, place, text| {
            self.faults.push(fault_at(self.toml, at, place, text));
        })
    }

    fn tests(&mut self, value: &Spanned<DeValue<'_>>) {
        let at = value.span().start;
        let DeValue::Array(tests) = value.get_ref() else {
            let found = value.get_ref().type_str();
            let text = format!("found a {found}; wanted a list of tests, each headed `[[test]]`");
            return self.fault(at, "test", text);
        };
        if tests.len() > TESTS_MAX {
            let text = format!("{} tests, at most {TESTS_MAX} are allowed; leave some out", tests.len());
            return self.fault(at, "test", text);
        }
        for (index, test) in tests.iter().enumerate() {
            let line = line_of(self.toml, test.span().start);
            let read = Trial::read(test, index, line, &mut |at, place, text| {
                self.faults.push(fault_at(self.toml, at, place, text));
            });
            self.parts.tests.extend(read);
        }
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
        let terms = self.terms(effect, place, table);
        let mut lists = Vec::new();
        for (key, value) in table {
            let action = match key.get_ref().as_ref() {
                "publish" => Action::Publish,
                "subscribe" => Action::Subscribe,
                "receive" => Action::Receive,
                "when" | "qos_max" | "payload_bytes_max" | "retain" | "will" => continue,
                other => {
                    let text = format!(
                        "unknown key `{}`; wanted `publish`, `subscribe`, `receive`, `when`, `qos_max`, \
                         `payload_bytes_max`, `retain` or `will`",
                        other.escape_debug()
                    );
                    self.fault(key.span().start, place, text);
                    continue;
                }
            };
            lists.push(action);
            let place = format!("{place}.{action}");
            if effect == Effect::Allow && action == Action::Receive {
                let text = "what may be subscribed to may be received; wanted `subscribe`, or `receive` in a `[[deny]]`";
                self.fault(value.span().start, &place, text);
                continue;
            }
            let DeValue::Array(patterns) = value.get_ref() else {
                let text = format!("found a {}; wanted a list of patterns", value.get_ref().type_str());
                self.fault(value.span().start, &place, text);
                continue;
            };
            for (index, value) in patterns.iter().enumerate() {
                self.pattern(effect, action, (rule, index), terms, value);
            }
        }
        if lists.is_empty() {
            let text = "the rule says nothing; wanted `publish` or `subscribe` with a list of patterns";
            self.fault(at, place, text);
        }
        let bound = terms.bound;
        let asks_for_message =
            bound.retain.is_some() || bound.will.is_some() || bound.payload_bytes_max != u32::MAX;
        if asks_for_message && !lists.is_empty() && !lists.contains(&Action::Publish) {
            let text = "`retain`, `will` and `payload_bytes_max` speak of what is published; wanted `publish` beside them";
            self.fault(at, place, text);
        }
        if asks_for_message && effect == Effect::Deny && lists.iter().any(|action| *action != Action::Publish)
        {
            let text = "`retain` and `will` speak of what is published; wanted what else is denied in a rule of its own";
            self.fault(at, place, text);
        }
    }

    fn terms(&mut self, effect: Effect, place: &str, table: &DeTable<'_>) -> Terms {
        let mut terms = Terms { gate: None, bound: Bound::FREE };
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if name == "when" {
                let when = self.condition(&format!("{place}.when"), value);
                let conditions = &mut self.parts.conditions;
                let known = conditions.iter().position(|known| known.0 == effect && known.1 == when);
                let at = known.unwrap_or_else(|| {
                    conditions.push((effect, when));
                    conditions.len() - 1
                });
                // More than there may be are a fault of the document.
                terms.gate = u8::try_from(at).ok();
                continue;
            }
            if effect == Effect::Deny && matches!(name, "qos_max" | "payload_bytes_max") {
                let text = format!(
                    "`{name}` is a ceiling of what a rule allows; wanted it in an `[[allow]]` or in `[limits]`"
                );
                self.fault(key.span().start, &format!("{place}.{name}"), text);
                continue;
            }
            terms.bound.read(name, value, place, &mut |at, place, text| {
                self.faults.push(fault_at(self.toml, at, place, text));
            });
        }
        terms
    }

    fn pattern(
        &mut self,
        effect: Effect,
        action: Action,
        (rule, index): (u16, usize),
        terms: Terms,
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
        let bound = match action {
            Action::Publish => terms.bound,
            // Of a subscription there is the QoS and nothing else.
            Action::Subscribe => Bound { qos_max: terms.bound.qos_max, ..Bound::FREE },
            Action::Receive => Bound::FREE,
        };
        let bound = (bound != Bound::FREE).then_some(bound);
        match u16::try_from(index) {
            Ok(index) => {
                let gate = terms.gate;
                self.parts.patterns.push(WrittenPattern {
                    effect,
                    action,
                    rule,
                    index,
                    template,
                    gate,
                    bound,
                });
            }
            Err(_) => self.fault(at, &place, "too many patterns in one list"),
        }
    }
}

fn line_of(toml: &str, at: usize) -> usize {
    let before = &toml.as_bytes()[..at.min(toml.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn fault_at(toml: &str, at: usize, place: &str, text: String) -> Fault {
    Fault { line: line_of(toml, at), place: place.to_owned(), text }
}
