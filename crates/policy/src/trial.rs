//! Tests inside a document: `[[test]]`. They are run before a policy is applied.

use std::collections::BTreeMap;
use std::net::IpAddr;

use drawbridge_names::{PrincipalName, RegistryName, TopicFilter, TopicName};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::connection::{
    Connection, ConnectionFacts, IssuerClaims, Method, Protocol, SubjectField, Tls, VerifiedCertificate,
};
use crate::decide::{Action, Decision, Rights};
use crate::document::Policy;
use crate::error::Fault;
use crate::limits::{PAYLOAD_BYTES_MAX, PublishFacts};
use crate::template::Variables;
use crate::token::{integer, shown};

/// Most tests in one document.
pub const TESTS_MAX: usize = 256;

/// One test: who asks for what, over which connection, and what the answer has to be.
#[derive(Debug)]
pub(crate) struct Trial {
    line: usize,
    place: String,
    name: Option<String>,
    principal: PrincipalName,
    registry: RegistryName,
    attributes: BTreeMap<String, String>,
    certificate: Option<VerifiedCertificate>,
    token: Option<IssuerClaims>,
    facts: OwnedFacts,
    action: Action,
    topic: String,
    message: PublishFacts,
    allow: bool,
    by: Option<String>,
    granted_qos: Option<u8>,
}

#[derive(Debug, Default)]
struct OwnedFacts {
    facts: ConnectionFacts<'static>,
    client_id: Option<String>,
}

impl Trial {
    /// What is wrong, if the policy does not answer as the test wants.
    pub(crate) fn run(&self, policy: &Policy) -> Option<Fault> {
        let variables =
            Variables { device: &self.principal, registry: &self.registry, attributes: &self.attributes };
        let connection = Connection {
            facts: ConnectionFacts { client_id: self.facts.client_id.as_deref(), ..self.facts.facts },
            certificate: self.certificate.as_ref(),
            token: self.token.as_ref(),
        };
        let (rights, broken) = match policy.compile_for(&variables, &connection) {
            Ok(rights) => (rights, None),
            Err(error) => (Rights::none(), Some(error)),
        };
        let filter;
        let (decision, granted) = match self.action {
            Action::Subscribe => {
                filter = TopicFilter::parse(&self.topic).expect("`read` has parsed it");
                rights.may_subscribe_with(&filter, self.message.qos)
            }
            action => {
                let topic = TopicName::parse(&self.topic).expect("`read` has parsed it");
                let decision = match action {
                    Action::Receive => rights.may_receive(topic),
                    _ => rights.may_publish_with(topic, &self.message),
                };
                (decision, 0)
            }
        };
        if decision.allowed == self.allow
            && self.is_by(&decision)
            && self.granted_qos.is_none_or(|qos| qos == granted)
        {
            return None;
        }
        let name = self.name.as_ref().map_or_else(String::new, |name| format!("\"{name}\": "));
        let found = match broken {
            Some(error) => format!("nothing is allowed: {error}"),
            None => decision.explain(&self.topic).to_string(),
        };
        let found_qos = self.granted_qos.map_or_else(String::new, |_| format!(" (granted QoS {granted})"));
        let allow = if self.allow { "allow" } else { "deny" };
        let by = self.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
        let qos = self.granted_qos.map_or_else(String::new, |qos| format!(" with granted QoS {qos}"));
        let text = format!(
            "{name}found: `{}` {found}{found_qos}; wanted: {allow}{by}{qos}; mend the rules, or the test if it \
             is wrong",
            self.principal
        );
        Some(Fault { line: self.line, place: self.place.clone(), text })
    }

    /// `by` names a pattern, like `deny[0].publish[1]`, or its rule alone.
    fn is_by(&self, decision: &Decision<'_>) -> bool {
        let Some(by) = &self.by else { return true };
        decision.rule().is_some_and(|rule| {
            let whole = format!("{}[{}]", rule.effect, rule.index);
            *by == whole || *by == format!("{whole}.{}[{}]", rule.action, rule.pattern_index)
        })
    }

    /// Takes one `[[test]]`; nothing when it has a fault.
    pub(crate) fn read(
        value: &Spanned<DeValue<'_>>,
        index: usize,
        line: usize,
        fault: &mut dyn FnMut(usize, &str, String),
    ) -> Option<Self> {
        let place = format!("test[{index}]");
        let DeValue::Table(table) = value.get_ref() else {
            fault(value.span().start, &place, format!("found {}; wanted a table", shown(value.get_ref())));
            return None;
        };
        let mut sketch = Sketch::default();
        let mut faults = 0;
        for (key, value) in table {
            if let Err(text) = sketch.key(key.get_ref(), value) {
                faults += 1;
                fault(value.span().start, &format!("{place}.{}", key.get_ref().escape_debug()), text);
            }
        }
        if faults > 0 {
            return None;
        }
        let finished = sketch.finish(line, place.clone());
        finished.map_err(|text| fault(value.span().start, &place, text)).ok()
    }
}

/// A test while it is read.
#[derive(Default)]
struct Sketch {
    name: Option<String>,
    principal: Option<PrincipalName>,
    registry: Option<RegistryName>,
    attributes: BTreeMap<String, String>,
    certificate: Option<VerifiedCertificate>,
    token: Option<IssuerClaims>,
    facts: OwnedFacts,
    asked: Vec<(Action, String)>,
    message: PublishFacts,
    allow: Option<bool>,
    by: Option<String>,
    granted_qos: Option<u8>,
}

const KEYS: &str = "`name`, `principal`, `registry`, `attributes`, `certificate`, `token`, `connection`, `publish`, \
                    `subscribe`, `receive`, `qos`, `retain`, `will`, `payload_bytes`, `expect`, `by` or `granted_qos`";

impl Sketch {
    fn key(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
        match key {
            "name" => self.name = Some(text(value)?.chars().take(200).flat_map(char::escape_debug).collect()),
            "principal" => {
                self.principal = Some(PrincipalName::parse(text(value)?).map_err(|error| error.to_string())?);
            }
            "registry" => {
                self.registry = Some(RegistryName::parse(text(value)?).map_err(|error| error.to_string())?);
            }
            "attributes" => self.attributes = texts(value)?,
            "certificate" => {
                let mut subject = Vec::new();
                for (name, value) in texts(value)? {
                    let field = SubjectField::of_word(&name).ok_or_else(|| {
                        format!(
                            "`{}` is no field; wanted cn, o, ou, c, l, st or serial_number",
                            name.escape_debug()
                        )
                    })?;
                    subject.push((field, value));
                }
                self.certificate = Some(VerifiedCertificate::of_verified_chain(subject));
            }
            "token" => self.token = Some(IssuerClaims::of_access_token(texts(value)?)),
            "connection" => self.facts = connection(table(value)?)?,
            "publish" => {
                TopicName::parse(text(value)?).map_err(|error| error.to_string())?;
                self.asked.push((Action::Publish, text(value)?.to_owned()));
            }
            "receive" => {
                TopicName::parse(text(value)?).map_err(|error| error.to_string())?;
                self.asked.push((Action::Receive, text(value)?.to_owned()));
            }
            "subscribe" => {
                TopicFilter::parse(text(value)?).map_err(|error| error.to_string())?;
                self.asked.push((Action::Subscribe, text(value)?.to_owned()));
            }
            "qos" => self.message.qos = integer(value, 0, 2)? as u8,
            "granted_qos" => self.granted_qos = Some(integer(value, 0, 2)? as u8),
            "payload_bytes" => self.message.payload_bytes = integer(value, 0, PAYLOAD_BYTES_MAX)? as usize,
            "retain" => self.message.retain = flag(value)?,
            "will" => self.message.will = flag(value)?,
            "expect" => {
                self.allow = Some(match text(value)? {
                    "allow" => true,
                    "deny" => false,
                    _ => {
                        return Err(format!(
                            "found {}; wanted \"allow\" or \"deny\"",
                            shown(value.get_ref())
                        ));
                    }
                });
            }
            "by" => self.by = Some(text(value)?.chars().take(200).flat_map(char::escape_debug).collect()),
            _ => return Err(format!("it is no key of a test; wanted {KEYS}")),
        }
        Ok(())
    }

    fn finish(self, line: usize, place: String) -> Result<Trial, String> {
        let mut asked = self.asked.into_iter();
        let (Some((action, topic)), None) = (asked.next(), asked.next()) else {
            return Err(
                "it does not ask for one thing; wanted one of `publish`, `subscribe`, `receive`".to_owned()
            );
        };
        if self.granted_qos.is_some() && action != Action::Subscribe {
            return Err("`granted_qos` is for `subscribe`; leave it out".to_owned());
        }
        let about_message = self.message.retain || self.message.will || self.message.payload_bytes > 0;
        if about_message && action != Action::Publish {
            return Err("`retain`, `will` and `payload_bytes` are for `publish`; leave them out".to_owned());
        }
        let principal = self.principal.ok_or("it names nobody; wanted `principal`")?;
        let allow = self.allow.ok_or("it expects nothing; wanted `expect = \"allow\"` or \"deny\"")?;
        Ok(Trial {
            line,
            place,
            name: self.name,
            principal,
            registry: self.registry.unwrap_or_else(RegistryName::default_registry),
            attributes: self.attributes,
            certificate: self.certificate,
            token: self.token,
            facts: self.facts,
            action,
            topic,
            message: self.message,
            allow,
            by: self.by,
            granted_qos: self.granted_qos,
        })
    }
}

fn connection(table: &DeTable<'_>) -> Result<OwnedFacts, String> {
    let mut owned = OwnedFacts::default();
    let facts = &mut owned.facts;
    for (key, value) in table {
        let wanted = |wanted: &str| {
            format!("`{}`: found {}; wanted {wanted}", key.get_ref().escape_debug(), shown(value.get_ref()))
        };
        match key.get_ref().as_ref() {
            "protocol" => {
                let found = Protocol::of_word(text(value)?);
                facts.protocol = Some(found.ok_or_else(|| wanted("\"mqtt3\", \"mqtt5\" or \"http\""))?);
            }
            "websocket" => facts.websocket = Some(flag(value)?),
            "port" => facts.port = u16::try_from(integer(value, 1, 65_535)?).ok(),
            "address" => {
                let found = text(value)?.parse::<IpAddr>();
                facts.address = Some(found.map_err(|_| wanted("an address like \"10.0.0.1\""))?);
            }
            "tls" => {
                let found = Tls::of_word(text(value)?);
                facts.tls = Some(found.ok_or_else(|| wanted("\"1.3\", \"1.2\" or \"none\""))?);
            }
            "method" => {
                let found = Method::of_word(text(value)?);
                facts.method = Some(found.ok_or_else(|| {
                    wanted("\"password\", \"jwt\", \"token\", \"certificate\", \"raw-key\", \"ace\" or \"anonymous\"")
                })?);
            }
            "client_id" => owned.client_id = Some(text(value)?.to_owned()),
            other => {
                return Err(format!(
                    "unknown key `{}`; wanted `protocol`, `websocket`, `port`, `address`, `tls`, `method` or \
                     `client_id`",
                    other.escape_debug()
                ));
            }
        }
    }
    Ok(owned)
}

fn text<'v>(value: &'v Spanned<DeValue<'_>>) -> Result<&'v str, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(format!("found {}; wanted a text in quotes", shown(other))),
    }
}

fn flag(value: &Spanned<DeValue<'_>>) -> Result<bool, String> {
    match value.get_ref() {
        DeValue::Boolean(flag) => Ok(*flag),
        other => Err(format!("found {}; wanted `true` or `false`", shown(other))),
    }
}

fn table<'v, 'i>(value: &'v Spanned<DeValue<'i>>) -> Result<&'v DeTable<'i>, String> {
    match value.get_ref() {
        DeValue::Table(table) => Ok(table),
        other => Err(format!("found {}; wanted a table like `{{ name = \"value\" }}`", shown(other))),
    }
}

fn texts(value: &Spanned<DeValue<'_>>) -> Result<BTreeMap<String, String>, String> {
    let pairs = table(value)?.iter();
    pairs.map(|(key, value)| Ok((key.get_ref().to_string(), text(value)?.to_owned()))).collect()
}
