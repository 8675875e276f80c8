//! AWS IoT policy documents.
//!
//! The subset: `Allow` and `Deny`; `iot:Connect`, `iot:Publish`, `iot:RetainPublish`, `iot:Subscribe`,
//! `iot:Receive` and `iot:*`; resources `client/`, `topic/` and `topicfilter/` that are written out, are `*`,
//! or end with `/*`; variables for the thing, its attributes, the client id and the subject of a certificate.
//!
//! There `*` stands for any characters, `/` included, and `+` and `#` for themselves. So `topic/a/*` is all
//! below `a` but not `a` itself: `a/+/#`. And `topicfilter/a/*` is every subscription that begins with `a/`,
//! `a/#` among them, of which only what `iot:Receive` allows is handed out.

use drawbridge_names::TopicFilter;
use serde_json::{Map, Value};

use super::{ImportedPolicy, Rule, comment, fault, is_pattern, quoted};
use crate::error::Fault;

/// Deepest nesting is that of a document; what is longer than this is no document of AWS (2,048 characters).
const JSON_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Connect,
    Publish,
    RetainPublish,
    Subscribe,
    Receive,
}

const VERBS: [(&str, Verb); 5] = [
    ("iot:connect", Verb::Connect),
    ("iot:publish", Verb::Publish),
    ("iot:retainpublish", Verb::RetainPublish),
    ("iot:subscribe", Verb::Subscribe),
    ("iot:receive", Verb::Receive),
];

/// A filter as it is written here, and the topic just above it that it means and AWS does not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    written: String,
    not: Option<String>,
}

#[derive(Default)]
struct Sorted {
    publish: Vec<Filter>,
    retain: Vec<Filter>,
    subscribe: Vec<Filter>,
    receive: Vec<Filter>,
    /// Client ids; `None`: whatever is bound to the principal anyway.
    connect: Vec<Option<String>>,
}

struct Import {
    faults: Vec<Fault>,
    dropped: Vec<String>,
    notes: Vec<String>,
    allow: Sorted,
    deny: Sorted,
}

pub(super) fn import(json: &str) -> Result<ImportedPolicy, Vec<Fault>> {
    let whole = |text: String| vec![fault(0, String::new(), text)];
    if json.len() > JSON_BYTES_MAX {
        return Err(whole(format!("{} bytes, at most {JSON_BYTES_MAX} are allowed", json.len())));
    }
    let value: Value = serde_json::from_str(json).map_err(|error| whole(format!("as JSON: {error}")))?;
    let statements = match value.get("Statement") {
        Some(Value::Array(statements)) => statements.iter().collect(),
        Some(statement @ Value::Object(_)) => vec![statement],
        _ => return Err(whole("no `Statement`; wanted an AWS IoT policy document".to_owned())),
    };
    let mut import = Import {
        faults: Vec::new(),
        dropped: Vec::new(),
        notes: Vec::new(),
        allow: Sorted::default(),
        deny: Sorted::default(),
    };
    for (at, statement) in statements.into_iter().enumerate() {
        import.statement(&format!("Statement[{at}]"), statement);
    }
    import.finish()
}

impl Import {
    /// What cannot be said: of an allow it is left out, of a deny nothing may be left out.
    fn cannot(&mut self, deny: bool, place: &str, text: impl Into<String>) {
        let text = text.into();
        if deny {
            self.faults.push(fault(0, place.to_owned(), text));
        } else {
            self.dropped.push(format!("{place}: {text}"));
        }
    }

    fn statement(&mut self, place: &str, statement: &Value) {
        let Value::Object(members) = statement else {
            return self.faults.push(fault(
                0,
                place.to_owned(),
                "no object; wanted `Effect`, `Action`, `Resource`".to_owned(),
            ));
        };
        let deny = match members.get("Effect").and_then(Value::as_str) {
            Some("Allow") => false,
            Some("Deny") => true,
            _ => {
                return self.faults.push(fault(
                    0,
                    place.to_owned(),
                    "`Effect` is neither Allow nor Deny".to_owned(),
                ));
            }
        };
        for name in members.keys() {
            if !matches!(name.as_str(), "Effect" | "Action" | "Resource" | "Condition" | "Sid") {
                let text = format!(
                    "`{}` cannot be said here; write the statement with `Action` and `Resource`",
                    name.escape_debug()
                );
                return self.cannot(deny, place, text);
            }
        }
        if let Err(text) = condition(members, deny) {
            return self.cannot(deny, place, text);
        }
        let (Some(actions), Some(resources)) = (texts(members.get("Action")), texts(members.get("Resource")))
        else {
            let text = "`Action` and `Resource` have to be texts or lists of texts".to_owned();
            return self.faults.push(fault(0, place.to_owned(), text));
        };
        let mut verbs = Vec::new();
        for action in actions {
            let lower = action.to_ascii_lowercase();
            if lower == "*" || lower == "iot:*" {
                verbs.extend(VERBS.iter().map(|(_, verb)| (*verb, true)));
            } else if let Some((_, verb)) = VERBS.iter().find(|(name, _)| *name == lower) {
                verbs.push((*verb, false));
            } else if lower.contains(['*', '?']) {
                self.cannot(deny, place, format!("`{}`: name the actions one by one", action.escape_debug()));
            } else if deny {
                // It denies what is not there.
                self.dropped
                    .push(format!("{place}: there is no `{}` here to be denied", action.escape_debug()));
            } else {
                let text = format!(
                    "there is no `{}` here; give the principal a role, or leave it",
                    action.escape_debug()
                );
                self.dropped.push(format!("{place}: {text}"));
            }
        }
        for (verb, of_all) in verbs {
            for resource in &resources {
                self.resource(place, deny, verb, of_all, resource);
            }
        }
    }

    fn resource(&mut self, place: &str, deny: bool, verb: Verb, of_all: bool, resource: &str) {
        let place = format!("{place} {verb:?} `{}`", resource.escape_debug());
        let wanted = match verb {
            Verb::Connect => "client",
            Verb::Subscribe => "topicfilter",
            _ => "topic",
        };
        let name = if resource == "*" {
            "*"
        } else {
            // arn:PARTITION:iot:REGION:ACCOUNT:KIND/NAME
            match resource.splitn(6, ':').nth(5) {
                Some("*") => "*",
                Some(rest) if resource.starts_with("arn:") => match rest.split_once('/') {
                    Some((kind, name)) if kind == wanted => name,
                    // Of `iot:*` each action takes what is its own.
                    _ if of_all => return,
                    _ => {
                        let text =
                            format!("the resource is no `{wanted}/...`, so it says nothing in AWS either");
                        return self.dropped.push(format!("{place}: {text}"));
                    }
                },
                _ => return self.cannot(deny, &place, "no ARN; wanted `arn:aws:iot:REGION:ACCOUNT:...`"),
            }
        };
        let name = match with_our_variables(name) {
            Ok(name) => name,
            Err(text) => return self.cannot(deny, &place, text),
        };
        if verb == Verb::Connect {
            return self.connect(&place, deny, &name);
        }
        match filter(&name, verb == Verb::Subscribe) {
            Ok(filter) => {
                let sorted = if deny { &mut self.deny } else { &mut self.allow };
                let list = match verb {
                    Verb::Publish => &mut sorted.publish,
                    Verb::RetainPublish => &mut sorted.retain,
                    Verb::Subscribe => &mut sorted.subscribe,
                    Verb::Receive | Verb::Connect => &mut sorted.receive,
                };
                if !list.contains(&filter) {
                    list.push(filter);
                }
            }
            Err(Unsaid::Reserved) => self.dropped.push(format!(
                "{place}: topics that begin with `$` are the server's own, and it has none of that name"
            )),
            Err(Unsaid::Because(text)) => self.cannot(deny, &place, text),
        }
    }

    fn connect(&mut self, place: &str, deny: bool, name: &str) {
        if deny {
            return self.cannot(true, place, "a client id cannot be denied; name those that are allowed");
        }
        match name {
            "*" | "${device}" => self.allow.connect.push(None),
            name if name.contains("${") || name.contains('?') => {
                self.cannot(
                    false,
                    place,
                    "a client id is matched by its characters and `*`, without variables",
                );
            }
            name => self.allow.connect.push(Some(name.to_owned())),
        }
    }

    fn finish(mut self) -> Result<ImportedPolicy, Vec<Fault>> {
        if self.allow.connect.is_empty() {
            let text = "no statement allows iot:Connect, so by this document alone nobody comes in; a principal has \
                        one policy here: put the statements of all its AWS policies into one document";
            self.faults.push(fault(0, "Statement".to_owned(), text.to_owned()));
        }
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let (mut free, mut plain, mut retained) = (
            Rule::new("allow"),
            Rule::new("allow").with("retain = false"),
            Rule::new("allow").with("retain = true"),
        );
        let mut read = Rule::new("allow");
        let (mut deny, mut deny_retained) = (Rule::new("deny"), Rule::new("deny").with("retain = true"));
        for publish in &self.allow.publish {
            if self.allow.retain.iter().any(|retain| covers(retain, publish)) {
                free.publish(&publish.written);
                continue;
            }
            plain.publish(&publish.written);
            for retain in self.allow.retain.iter().filter(|retain| covers(publish, retain)) {
                retained.publish(&retain.written);
            }
        }
        for retain in &self.allow.retain {
            if !self.allow.publish.iter().any(|publish| covers(publish, retain) || covers(retain, publish)) {
                self.dropped
                    .push(format!("RetainPublish `{}`: no iot:Publish allows it as a whole", retain.written));
            }
        }
        for subscribe in self.allow.subscribe.clone() {
            self.subscription(&subscribe, &mut read, &mut deny);
        }
        if self.allow.subscribe.is_empty() && !self.allow.receive.is_empty() {
            self.dropped
                .push("Receive: there is no iot:Subscribe, and nothing is received without one".to_owned());
        }
        self.deny.publish.iter().for_each(|filter| deny.publish(&filter.written));
        self.deny.retain.iter().for_each(|filter| deny_retained.publish(&filter.written));
        self.deny.receive.iter().for_each(|filter| deny.receive(&filter.written));
        for filter in &self.deny.subscribe {
            deny.subscribe(&filter.written);
            self.notes.push(format!(
                "the denied subscription `{}` is withheld from wider ones too; in AWS it is for iot:Receive to say",
                filter.written
            ));
        }
        let mut toml = comment("From an AWS IoT policy document.");
        self.notes.iter().for_each(|note| toml.push_str(&comment(note)));
        self.dropped.iter().for_each(|left| toml.push_str(&comment(&format!("left out: {left}"))));
        if self.allow.connect.iter().all(Option::is_some) {
            let ids: Vec<String> = self.allow.connect.iter().flatten().map(|id| quoted(id)).collect();
            toml.push_str(&format!("\n[when]\nclient_id = [{}]\n", ids.join(", ")));
        }
        [free, plain, retained, read, deny, deny_retained].iter().for_each(|rule| rule.write(&mut toml));
        Ok(ImportedPolicy { user: None, toml, dropped: self.dropped, notes: self.notes })
    }

    /// A subscription hands out what `iot:Receive` allows, and no more.
    fn subscription(&mut self, subscribe: &Filter, read: &mut Rule, deny: &mut Rule) {
        let receive = &self.allow.receive;
        if receive.iter().any(|receive| covers(receive, subscribe)) {
            read.subscribe(&subscribe.written);
            if let Some(above) = &subscribe.not
                && !receive
                    .iter()
                    .any(|receive| stand_in(receive).is_some_and(|receive| speaks_of(&receive, above)))
            {
                deny.receive(above);
            }
            return;
        }
        let within: Vec<&Filter> = receive.iter().filter(|receive| covers(subscribe, receive)).collect();
        for receive in &within {
            read.subscribe(&receive.written);
            self.notes.push(format!(
                "of the subscription `{}` only `{}` may be received, so only that may be subscribed to",
                subscribe.written, receive.written
            ));
        }
        if within.is_empty() {
            self.dropped.push(format!(
                "Subscribe `{}`: no iot:Receive allows it, or a part of it, as a whole; allow one of the two to lie \
                 within the other",
                subscribe.written
            ));
        }
    }
}

/// Whether `wide` means all that `narrow` means, in the sense of AWS.
fn covers(wide: &Filter, narrow: &Filter) -> bool {
    let exact = Filter {
        written: match &narrow.not {
            // Without the topic above.
            Some(above) => format!("{above}/+/#"),
            None => narrow.written.clone(),
        },
        not: None,
    };
    match (stand_in(wide), stand_in(&exact)) {
        (Some(wide), Some(narrow)) => wide.covers(&narrow),
        _ => false,
    }
}

/// Variables stand for one level or a part of it, and the same one always for the same.
fn stand_in(filter: &Filter) -> Option<TopicFilter> {
    TopicFilter::parse(&stand_in_text(&filter.written)).ok()
}

fn stand_in_text(written: &str) -> String {
    written.replace("${", "\u{1}{").replace('\u{1}', "VARIABLE-")
}

/// Whether a filter and all topics of another meet.
fn speaks_of(filter: &TopicFilter, other: &str) -> bool {
    let other = stand_in_text(other);
    let (mut a, mut b) = (filter.levels(), other.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

enum Unsaid {
    /// Below `$`: there is nothing of the kind here.
    Reserved,
    Because(String),
}

/// The name of a topic or filter of AWS as a pattern of ours.
fn filter(name: &str, is_filter: bool) -> Result<Filter, Unsaid> {
    let because = |text: String| Err(Unsaid::Because(text));
    if name == "*" {
        return Ok(Filter { written: "#".to_owned(), not: None });
    }
    if name.starts_with('$') && !name.starts_with("${") {
        return Err(Unsaid::Reserved);
    }
    if name.contains('?') {
        return because("`?` stands for one character, and no MQTT filter says that; name the topics, or use `+` for a level".to_owned());
    }
    let (stem, below) = match name.strip_suffix("/*") {
        Some(stem) => (stem, true),
        None => (name, false),
    };
    if stem.contains('*') {
        let whole_levels = name.split('/').all(|level| level == "*" || !level.contains('*'));
        let mend = if whole_levels {
            format!("write a level as `+`: `{}`", name.replace('*', "+").escape_debug())
        } else {
            "name the topics, or use `+` for a whole level".to_owned()
        };
        return because(format!(
            "`*` stands for any characters, `/` included, and an MQTT filter says that only behind the last `/`; {mend}"
        ));
    }
    if !is_filter && stem.contains(['+', '#']) {
        return because(
            "`+` and `#` stand for themselves in a topic of AWS, and no topic has them; use `*`".to_owned(),
        );
    }
    let (written, not) = match (below, is_filter) {
        (false, _) => (stem.to_owned(), None),
        (true, false) => (format!("{stem}/+/#"), None),
        (true, true) => (format!("{stem}/#"), Some(stem.to_owned())),
    };
    match is_pattern(&written) {
        Ok(()) => Ok(Filter { written, not }),
        Err(text) => because(text),
    }
}

/// AWS's variables by ours.
fn with_our_variables(name: &str) -> Result<String, String> {
    let mut ours = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(start) = rest.find("${") {
        let inner = &rest[start + 2..];
        let end = inner.find('}').ok_or("`${` is not closed by `}`")?;
        ours.push_str(&rest[..start]);
        ours.push_str(&variable(&inner[..end])?);
        rest = &inner[end + 1..];
    }
    ours.push_str(rest);
    Ok(ours)
}

fn variable(name: &str) -> Result<String, String> {
    const ATTRIBUTE: &str = "iot:Connection.Thing.Attributes[";
    if let Some(attribute) = name.strip_prefix(ATTRIBUTE).and_then(|rest| rest.strip_suffix(']')) {
        return Ok(format!("${{attr.{attribute}}}"));
    }
    let field = match name {
        // Of both the server makes sure that they are the principal's own.
        "iot:Connection.Thing.ThingName" | "iot:ClientId" => return Ok("${device}".to_owned()),
        "iot:Certificate.Subject.CommonName" => "cn",
        "iot:Certificate.Subject.Organization" => "o",
        "iot:Certificate.Subject.OrganizationalUnit" => "ou",
        "iot:Certificate.Subject.Country" => "c",
        "iot:Certificate.Subject.State" => "st",
        "iot:Certificate.Subject.SerialNumber" => "serial_number",
        "*" | "?" | "$" => {
            return Err(format!("`${{{name}}}` stands for a character that no pattern can have"));
        }
        other => {
            return Err(format!(
                "`${{{}}}` has no counterpart; keep the value in an attribute of the device and use `${{attr.NAME}}`",
                other.escape_debug()
            ));
        }
    };
    Ok(format!("${{cert.{field}}}"))
}

/// Nothing but that the thing is the certificate's, which always holds here.
fn condition(members: &Map<String, Value>, deny: bool) -> Result<(), String> {
    let conditions = match members.get("Condition") {
        None => return Ok(()),
        Some(Value::Object(conditions)) => conditions,
        Some(_) => return Err("`Condition` is no object".to_owned()),
    };
    let attached = |operator: &str, keys: &Value| {
        let keys = keys.as_object()?;
        (operator == "Bool" && keys.len() == 1).then_some(())?;
        let value = keys.get("iot:Connection.Thing.IsAttached")?;
        let values = match value {
            Value::Bool(flag) => vec![flag.to_string()],
            other => texts(Some(other))?,
        };
        (values == ["true"]).then_some(())
    };
    for (operator, keys) in conditions {
        if deny || attached(operator, keys).is_none() {
            return Err(format!(
                "the condition `{}` is not taken over; write the rule by hand with `when`, such as `when = {{ address = \
                 [\"10.0.0.0/8\"] }}`",
                operator.escape_debug()
            ));
        }
    }
    Ok(())
}

fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
