//! Rights as other brokers write them, taken over into a document of ours.
//!
//! Nothing is ever widened: an allow that cannot be said is left out and named, a deny that cannot be said
//! refuses the whole import. What comes out is text for an operator to read before it is set.

mod aws;
mod mosquitto;

use drawbridge_names::PolicyName;

use crate::document::Policy;
use crate::error::{Fault, PolicyError};
use crate::template::Template;

/// A document made of another broker's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedPolicy {
    /// For whom it is: the user of a Mosquitto ACL file; `None` for all others.
    pub user: Option<String>,
    /// The document.
    pub toml: String,
    /// What was left out, each with the reason and the mend.
    pub dropped: Vec<String>,
    /// What is said in another way than there.
    pub notes: Vec<String>,
}

impl ImportedPolicy {
    /// Takes an AWS IoT policy document.
    ///
    /// # Errors
    /// [`PolicyError::Import`] when it is none, or denies something that cannot be said here.
    ///
    /// Source: AWS IoT Core Developer Guide, *AWS IoT Core policies* (actions, resources, variables).
    pub fn of_aws(json: &str) -> Result<Self, PolicyError> {
        let imported =
            aws::import(json).map_err(|faults| PolicyError::Import { from: "AWS IoT policy", faults })?;
        imported.judged("AWS IoT policy")
    }

    /// Takes an ACL file of Mosquitto: one document for each of its users, and one for everybody else.
    ///
    /// # Errors
    /// [`PolicyError::Import`] when it is none, or denies something that cannot be said here.
    ///
    /// Source: mosquitto.conf(5), `acl_file`.
    pub fn of_mosquitto(acl: &str) -> Result<Vec<Self>, PolicyError> {
        const FROM: &str = "Mosquitto ACL file";
        let imported = mosquitto::import(acl).map_err(|faults| PolicyError::Import { from: FROM, faults })?;
        imported.into_iter().map(|one| one.judged(FROM)).collect()
    }

    /// A document that we made is one that we take.
    fn judged(self, from: &'static str) -> Result<Self, PolicyError> {
        let name = PolicyName::parse("imported").expect("`imported` is a policy name");
        match Policy::parse(&name, &self.toml) {
            Err(PolicyError::Document { faults, .. }) => Err(PolicyError::Import { from, faults }),
            Err(other) => Err(other),
            Ok(_) => Ok(self),
        }
    }
}

/// Rules of one kind, to be written as one table.
#[derive(Debug, Default)]
struct Rule {
    heading: &'static str,
    lists: [(&'static str, Vec<String>); 3],
    terms: Vec<String>,
}

impl Rule {
    fn new(heading: &'static str) -> Self {
        let lists = [("publish", Vec::new()), ("subscribe", Vec::new()), ("receive", Vec::new())];
        Self { heading, lists, terms: Vec::new() }
    }

    fn with(mut self, term: &str) -> Self {
        self.terms.push(term.to_owned());
        self
    }

    fn publish(&mut self, pattern: &str) {
        Self::put(&mut self.lists[0].1, pattern);
    }

    fn subscribe(&mut self, pattern: &str) {
        Self::put(&mut self.lists[1].1, pattern);
    }

    fn receive(&mut self, pattern: &str) {
        Self::put(&mut self.lists[2].1, pattern);
    }

    fn put(list: &mut Vec<String>, pattern: &str) {
        if !list.iter().any(|known| known == pattern) {
            list.push(pattern.to_owned());
        }
    }

    fn write(&self, toml: &mut String) {
        if self.lists.iter().all(|(_, patterns)| patterns.is_empty()) {
            return;
        }
        toml.push_str(&format!("\n[[{}]]\n", self.heading));
        for (key, patterns) in self.lists.iter().filter(|(_, patterns)| !patterns.is_empty()) {
            let patterns: Vec<String> = patterns.iter().map(|pattern| quoted(pattern)).collect();
            toml.push_str(&format!("{key} = [{}]\n", patterns.join(", ")));
        }
        for term in &self.terms {
            toml.push_str(&format!("{term}\n"));
        }
    }
}

/// What is written of a document: the same characters need an escape in TOML and in JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A comment of a line, whatever `text` has in it.
fn comment(text: &str) -> String {
    format!(
        "# {}\n",
        text.chars()
            .flat_map(|c| c.escape_debug())
            .collect::<String>()
            .replace("\\'", "'")
            .replace("\\\"", "\"")
    )
}

/// Whether a pattern is one that a document can have.
fn is_pattern(pattern: &str) -> Result<(), String> {
    Template::parse(pattern).map(drop)
}

fn fault(line: usize, place: String, text: String) -> Fault {
    Fault { line, place, text }
}
