//! What can be wrong with a policy, its variables or a grant. A decision is no error: see
//! [`crate::Decision`].

use std::fmt;

use drawbridge_names::PolicyName;

/// Why a policy or a grant cannot be used. Whoever gets one uses [`crate::Rights::none`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The document has faults; all of them, in the order of the text. The operator's mistake.
    #[error("policy `{policy}` has {} fault(s) and allows nothing until they are mended: {}", .faults.len(), Joined(.faults))]
    Document {
        /// The policy.
        policy: PolicyName,
        /// At least one.
        faults: Vec<Fault>,
    },
    /// Tests of the document fail; all that do, in the order of the text. The operator's mistake.
    #[error("policy `{policy}` fails {} of its own test(s) and was not applied: {}", .faults.len(), Joined(.faults))]
    Tests {
        /// The policy.
        policy: PolicyName,
        /// At least one.
        faults: Vec<Fault>,
    },
    /// Rights of another broker that cannot be taken over without widening them. The operator's to mend.
    #[error("the {from} was not taken over, {} fault(s): {}", .faults.len(), Joined(.faults))]
    Import {
        /// What was to be imported.
        from: &'static str,
        /// At least one.
        faults: Vec<Fault>,
    },
    /// A variable has no usable value for this principal. The operator's mistake: variables come
    /// from fields that only the operator sets.
    #[error("policy `{policy}`, {place} `{written}`: {fault}")]
    Variable {
        /// The policy.
        policy: PolicyName,
        /// Where the pattern stands, like `allow[0].publish[1]`.
        place: String,
        /// The pattern as written.
        written: String,
        /// What is wrong.
        fault: VariableFault,
    },
    /// A `scope` that is no AIF-MQTT grant. The fault of whoever asked for the token.
    #[error(
        "the scope is no AIF-MQTT grant: {found}; wanted base64url without padding of JSON like \
             [[\"devices/lamp/events/#\",[\"pub\"]]] (RFC 9431 section 3)"
    )]
    Scope {
        /// What was found, where.
        found: String,
    },
    /// A requested pair that the policy does not cover. The fault of whoever asked for the token.
    #[error(
        "the scope asks for [\"{filter}\",[\"{permission}\"]], which is outside: {reason}; \
             ask for less, or have the operator extend the policy"
    )]
    OutsidePolicy {
        /// Filter of the pair.
        filter: String,
        /// `pub` or `sub`.
        permission: &'static str,
        /// The decision, as text.
        reason: String,
    },
}

impl PolicyError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Document { .. } => "DB-3001",
            Self::Variable { .. } => "DB-3002",
            Self::Scope { .. } => "DB-3003",
            Self::OutsidePolicy { .. } => "DB-3004",
            Self::Tests { .. } => "DB-3020",
            Self::Import { .. } => "DB-3021",
        }
    }

    /// The stable word: the last part of `urn:drawbridge:error:<word>`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Document { .. } => "policy-invalid",
            Self::Variable { .. } => "policy-variable",
            Self::Scope { .. } => "scope-malformed",
            Self::OutsidePolicy { .. } => "invalid-scope",
            Self::Tests { .. } => "policy-tests-failed",
            Self::Import { .. } => "policy-import",
        }
    }
}

/// One fault of a policy document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Line in the document, from 1; 0 when the fault is of the document as a whole.
    pub line: usize,
    /// Where, like `allow[0].publish[1]`; empty for a fault of syntax.
    pub place: String,
    /// What was found and what was wanted.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.text)
    }
}

struct Joined<'a>(&'a [Fault]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

/// Why a variable cannot be put into a pattern. The value itself is never repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableFault {
    /// The principal has no such attribute, its connection no such certificate or token.
    #[error("`${{{name}}}` has no value for this principal; set it, or take the variable out")]
    Missing {
        /// The variable, like `attr.site`.
        name: String,
    },
    /// An empty value would make an empty level that other principals share.
    #[error("`${{{name}}}` is empty; wanted at least one character")]
    Empty {
        /// The variable.
        name: String,
    },
    /// A value that begins with `$` would reach into the server's own topics.
    #[error("`${{{name}}}` begins with `$`, which is kept for the server; set another value")]
    Dollar {
        /// The variable.
        name: String,
    },
    /// A wildcard, a level separator or a control character would change the shape of the pattern.
    #[error(
        "`${{{name}}}` has {found:?} at byte {at}; `+`, `#`, `/` and control characters are not \
             allowed in a value"
    )]
    Character {
        /// The variable.
        name: String,
        /// The character.
        found: char,
        /// Its byte offset in the value.
        at: usize,
    },
    /// All values are in order, but the whole is no topic filter (too long).
    #[error("with its values put in, {0}")]
    Filter(drawbridge_names::TopicFilterError),
}
