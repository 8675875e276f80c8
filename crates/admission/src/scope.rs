//! What a token's `scope` may say: a grant for the bridge, words for the API, never both.

use std::collections::BTreeSet;

use drawbridge_identity::Refusal;
use drawbridge_policy::{Grant, Rights};
use drawbridge_registry::Role;

use crate::roles::{OPERATOR_ROLES, level};

/// What a token for the API may be used for. Which topics and devices is still a matter of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiWord {
    /// Read the own record: `self:read`.
    SelfRead,
    /// Send commands: `commands:send`.
    CommandsSend,
    /// Read configs: `config:read`.
    ConfigRead,
    /// Set configs: `config:write`.
    ConfigWrite,
    /// Read reported states: `state:read`.
    StateRead,
    /// Use the role viewer: `registry:read`.
    RegistryRead,
    /// Use the roles up to operator: `registry:operate`.
    RegistryOperate,
    /// Use the roles up to admin: `registry:admin`.
    RegistryAdmin,
}

impl ApiWord {
    /// The closed list, in the order of a token's `scope`.
    pub const ALL: [Self; 8] = [
        Self::SelfRead,
        Self::CommandsSend,
        Self::ConfigRead,
        Self::ConfigWrite,
        Self::StateRead,
        Self::RegistryRead,
        Self::RegistryOperate,
        Self::RegistryAdmin,
    ];

    /// The word in a `scope`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SelfRead => "self:read",
            Self::CommandsSend => "commands:send",
            Self::ConfigRead => "config:read",
            Self::ConfigWrite => "config:write",
            Self::StateRead => "state:read",
            Self::RegistryRead => "registry:read",
            Self::RegistryOperate => "registry:operate",
            Self::RegistryAdmin => "registry:admin",
        }
    }
}

/// The words of a token: `None` is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiWords(Option<Vec<ApiWord>>);

impl ApiWords {
    /// Whether the token may be used for this.
    #[must_use]
    pub fn allow(&self, word: ApiWord) -> bool {
        self.0.as_ref().is_none_or(|words| words.contains(&word))
    }

    pub(crate) fn none() -> Self {
        Self(Some(Vec::new()))
    }

    pub(crate) fn self_read() -> Self {
        Self(Some(vec![ApiWord::SelfRead]))
    }

    pub(crate) fn parse(scope: Option<&str>) -> Result<Self, Refusal> {
        let Some(scope) = scope else { return Ok(Self(None)) };
        let mut words = Vec::new();
        for text in scope.split(' ').filter(|text| !text.is_empty()) {
            let word = ApiWord::ALL.into_iter().find(|word| word.as_str() == text);
            words.push(
                word.ok_or_else(|| Refusal::Scope(format!("`{}` is no word of the API", short(text))))?,
            );
        }
        words.sort_unstable();
        words.dedup();
        Ok(Self(Some(words)))
    }

    fn to_scope(&self) -> Option<String> {
        let words = self.0.as_ref()?;
        Some(words.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(" "))
    }
}

/// The `scope` of a token for the bridge that is to be issued: as asked for, if the policy allows it.
pub(crate) fn judge_grant(scope: Option<&str>, rights: &Rights) -> Result<Option<String>, Refusal> {
    let Some(scope) = scope.filter(|scope| !scope.is_empty()) else { return Ok(None) };
    let grant = Grant::parse_scope(scope).map_err(|error| Refusal::Scope(error.to_string()))?;
    rights.allows_grant(&grant).map_err(|error| Refusal::Scope(error.to_string()))?;
    Ok(Some(grant.to_scope()))
}

/// The `scope` of a token for the API that is to be issued. Without a policy nobody gets more than to
/// read the own record, and nobody gets the word of an operator role beyond its own.
pub(crate) fn judge_words(
    scope: Option<&str>,
    rights: &Rights,
    roles: &BTreeSet<Role>,
) -> Result<Option<String>, Refusal> {
    let words = ApiWords::parse(scope.filter(|scope| !scope.is_empty()))?;
    let held = roles.iter().map(|role| level(*role)).max().unwrap_or(0);
    for word in words.0.iter().flatten() {
        let of_role = OPERATOR_ROLES.iter().position(|(_, found)| found == word);
        match of_role {
            Some(at) if at < held => {}
            Some(at) => {
                let role = OPERATOR_ROLES[at].0.as_str();
                return Err(Refusal::Scope(format!("`{}`: this takes the role {role}", word.as_str())));
            }
            None if *word == ApiWord::SelfRead || rights.policy().is_some() => {}
            None => {
                return Err(Refusal::Scope(format!("`{}`: no usable policy is attached", word.as_str())));
            }
        }
    }
    Ok(words.to_scope())
}

fn short(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
