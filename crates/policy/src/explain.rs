//! A decision told to people and to machines.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use crate::decide::{Decision, Reason, Rule};
use crate::grant::GrantPair;

/// A decision together with the topic or filter it is about; what `drawbridge can` prints.
///
/// As JSON: `allowed`, `action`, `topic`, `policy`, `rule`, `grant_pair`, `code`, `word`, `reason`;
/// what does not apply is `null`.
#[derive(Debug, Clone, Copy)]
pub struct Explanation<'a> {
    decision: Decision<'a>,
    topic: &'a str,
}

impl<'a> Decision<'a> {
    /// This decision about `topic`: the topic or filter that was asked for.
    #[must_use]
    pub fn explain<'b>(&self, topic: &'b str) -> Explanation<'b>
    where
        'a: 'b,
    {
        Explanation { decision: *self, topic }
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action;
        match self.reason {
            Reason::NoPolicy => write!(f, "no usable policy is attached, so nothing is allowed"),
            Reason::NoRule { policy } => {
                write!(f, "no rule of policy `{}` allows this {action}", policy.name())
            }
            Reason::Ceiling { policy, rule: None, ceiling } => {
                write!(f, "section [limits] of policy `{}` says {ceiling}", policy.name())
            }
            Reason::Ceiling { ceiling, .. } => match self.rule() {
                Some(rule) => write!(f, "{rule} with {ceiling}"),
                None => Ok(()),
            },
            Reason::OtherConnection { policy } => match policy.when() {
                Some(when) => write!(f, "policy `{}` speaks of connections where {when}", policy.name()),
                None => Ok(()),
            },
            Reason::OutsideGrant => write!(f, "the token's scope does not grant this {action}"),
            Reason::Reserved(level) => {
                write!(f, "topics below `{level}` belong to the server, no policy can allow this {action}")
            }
            Reason::SharedSyntax => write!(
                f,
                "not a shared subscription; wanted $share/GROUP/FILTER with a group name without wildcards"
            ),
            Reason::Rule { .. } => match self.rule() {
                Some(rule) => write!(f, "{rule}"),
                None => Ok(()),
            },
        }
    }
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, effect, index, action, pattern_index, written, compiled, when } = self;
        let verb = match effect {
            crate::Effect::Allow => "allows",
            crate::Effect::Deny => "denies",
        };
        write!(f, "policy `{policy}` {verb} it by {effect}[{index}].{action}[{pattern_index}] `{written}`")?;
        if *written != compiled.as_str() {
            write!(f, ", here `{compiled}`")?;
        }
        if let Some(when) = when {
            write!(f, " where {when}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = if self.decision.allowed { "may" } else { "may not" };
        write!(f, "{answer} {} `{}`: {}", self.decision.action, self.topic.escape_debug(), self.decision)
    }
}

impl Serialize for Explanation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let decision = &self.decision;
        let policy = match decision.reason {
            Reason::NoRule { policy }
            | Reason::Rule { policy, .. }
            | Reason::Ceiling { policy, .. }
            | Reason::OtherConnection { policy } => Some(policy.name().as_str()),
            _ => None,
        };
        let mut map = serializer.serialize_struct("Explanation", 9)?;
        map.serialize_field("allowed", &decision.allowed)?;
        map.serialize_field("action", decision.action.as_str())?;
        map.serialize_field("topic", self.topic)?;
        map.serialize_field("policy", &policy)?;
        map.serialize_field("rule", &decision.rule())?;
        map.serialize_field("grant_pair", &decision.pair)?;
        map.serialize_field("code", &decision.code())?;
        map.serialize_field("word", &decision.word())?;
        map.serialize_field("reason", &decision.to_string())?;
        map.end()
    }
}

impl Serialize for Rule<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Rule", 8)?;
        map.serialize_field("policy", self.policy.as_str())?;
        map.serialize_field("effect", self.effect.as_str())?;
        map.serialize_field("index", &self.index)?;
        map.serialize_field("action", self.action.as_str())?;
        map.serialize_field("pattern_index", &self.pattern_index)?;
        map.serialize_field("written", self.written)?;
        map.serialize_field("compiled", self.compiled.as_str())?;
        map.serialize_field("when", &self.when.map(ToString::to_string))?;
        map.end()
    }
}

impl Serialize for GrantPair {
    /// As in AIF: `["devices/lamp/events/#", ["pub"]]`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let permissions: Vec<&str> = self.permissions().collect();
        (self.filter().as_str(), permissions).serialize(serializer)
    }
}
