//! Who may publish and subscribe where, and which rule says so.

use std::fmt;
use std::sync::Arc;

use drawbridge_names::{PolicyName, TopicFilter, TopicName};

use crate::document::Policy;
use crate::error::PolicyError;
use crate::grant::{Grant, GrantPair};
use crate::pattern::{Pattern, Scan};
use crate::token::TokenRules;
use crate::tree::{Met, Tree};

/// What a principal may do: its policy with its values put in, narrowed by the grants of its token.
/// Cheap to clone; immutable, so that a session changes its rights by taking another one.
#[derive(Debug, Clone)]
pub struct Rights {
    /// `None` allows nothing.
    rules: Option<Arc<Rules>>,
    /// All of them must agree. Usually none or one.
    grants: Arc<[Grant]>,
}

#[derive(Debug)]
struct Rules {
    /// It has the patterns without variables, for all principals together.
    policy: Policy,
    /// The patterns of this principal.
    own: Sides,
}

/// Compiled patterns, apart by what they are asked for.
#[derive(Debug)]
pub(crate) struct Sides {
    publish: Side,
    subscribe: Side,
}

#[derive(Debug)]
struct Side {
    /// By their rank: the first that speaks decides.
    rules: Box<[CompiledRule]>,
    tree: Option<Box<Tree>>,
}

/// So many patterns of one principal are asked one by one: that takes no longer, and no more room.
const FEW: usize = 6;

#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// The number of the pattern in the document; [`ALLOWS`] is added to those that allow. So the lowest
    /// rank of all that speak is the deny that comes first, or else the allow that comes first.
    rank: u16,
    pub(crate) pattern: Pattern,
}

/// More than there are patterns.
const ALLOWS: u16 = 1 << 15;
const _: () = assert!(crate::document::PATTERNS_MAX < ALLOWS as usize);

impl CompiledRule {
    pub(crate) fn new(effect: Effect, written: u16, pattern: Pattern) -> Self {
        Self { rank: if effect == Effect::Allow { written | ALLOWS } else { written }, pattern }
    }

    fn allows(&self) -> bool {
        self.rank & ALLOWS != 0
    }

    /// Number of the pattern in the document.
    pub(crate) fn written(&self) -> u16 {
        self.rank & !ALLOWS
    }
}

impl Sides {
    /// For all principals: made once, asked often.
    pub(crate) fn of_all(rules: Vec<(Action, CompiledRule)>) -> Self {
        Self::of(rules, 0)
    }

    fn of(rules: Vec<(Action, CompiledRule)>, few: usize) -> Self {
        let (publish, subscribe): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|(action, _)| *action == Action::Publish);
        let side = |rules: Vec<(Action, CompiledRule)>| {
            let mut rules: Box<[CompiledRule]> = rules.into_iter().map(|(_, rule)| rule).collect();
            rules.sort_unstable_by_key(|rule| rule.rank);
            let tree =
                (rules.len() > few).then(|| Box::new(Tree::of(rules.iter().map(|rule| &rule.pattern))));
            Side { rules, tree }
        };
        Self { publish: side(publish), subscribe: side(subscribe) }
    }

    #[inline]
    fn asked(&self, action: Action) -> &Side {
        if action == Action::Publish { &self.publish } else { &self.subscribe }
    }
}

impl Side {
    /// The rule of the lowest rank that speaks of `topic`.
    #[inline]
    fn about(&self, topic: TopicName<'_>) -> Option<&CompiledRule> {
        match self.tree.as_ref().map(|tree| tree.first(topic)) {
            Some(Met::First(first)) => first.map(|at| &self.rules[usize::from(at)]),
            None | Some(Met::TooMany) => {
                let mut scan = Scan::default();
                self.rules.iter().find(|rule| rule.pattern.matches(topic, &mut scan))
            }
        }
    }

    fn covering(&self, filter: &TopicFilter) -> Option<&CompiledRule> {
        self.rules.iter().find(|rule| rule.pattern.covers(filter))
    }
}

impl Rights {
    /// Nothing: the rights of a principal without a policy, or with a broken one.
    #[must_use]
    pub fn none() -> Self {
        Self { rules: None, grants: Arc::new([]) }
    }

    pub(crate) fn of(policy: Policy, own: Vec<(Action, CompiledRule)>) -> Self {
        Self { rules: Some(Arc::new(Rules { policy, own: Sides::of(own, FEW) })), grants: Arc::new([]) }
    }

    /// Whether both are one and the same: clones of each other. Then each decision is the same too, and
    /// has to be asked for once. Two that were compiled apart are not, whatever they say.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let rules = match (&self.rules, &other.rules) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (mine, theirs) => mine.is_none() && theirs.is_none(),
        };
        rules
            && ((self.grants.is_empty() && other.grants.is_empty())
                || Arc::ptr_eq(&self.grants, &other.grants))
    }

    /// These rights, and no more than `grant` names. Narrowing twice needs both grants to agree.
    #[must_use]
    pub fn narrowed(&self, grant: &Grant) -> Self {
        let grants = self.grants.iter().chain([grant]).cloned().collect();
        Self { rules: self.rules.clone(), grants }
    }

    /// What the policy alone allows, whatever a token narrowed it to.
    #[must_use]
    pub fn without_grants(&self) -> Self {
        Self { rules: self.rules.clone(), grants: Arc::new([]) }
    }

    /// These rights for a session that has had `old` ones: narrowed by the grants of its token, as those are.
    #[must_use]
    pub fn succeeding(&self, old: &Self) -> Self {
        Self { rules: self.rules.clone(), grants: Arc::clone(&old.grants) }
    }

    /// Whether a message may be published to `topic`. Asked for live, retained and will messages,
    /// and again when a stored one is delivered.
    pub fn may_publish(&self, topic: TopicName<'_>) -> Decision<'_> {
        const ACTION: Action = Action::Publish;
        if topic.is_dollar()
            && let Some(level) = topic.levels().next().and_then(reserved)
        {
            return Decision::refused(ACTION, Reason::Reserved(level));
        }
        let decision = self.by_rules(ACTION, |side| side.about(topic));
        self.by_grants(decision, |grant| grant.publish_pair(topic))
    }

    /// Whether `filter` may be subscribed to. Of `$share/GROUP/FILTER` the inner filter is judged.
    /// One allow pattern must cover the whole of it; a deny refuses what it covers, from a wider
    /// subscription the denied topics are withheld at delivery ([`Self::may_receive`]).
    ///
    /// Source: RFC 9431 section 3.3 (one pair must cover), MQTT 5.0 section 4.8.2 (`$share`).
    pub fn may_subscribe(&self, filter: &TopicFilter) -> Decision<'_> {
        match filter.as_str().strip_prefix("$share") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => match inner_filter(rest) {
                Some(inner) => self.may_cover(&inner),
                None => Decision::refused(Action::Subscribe, Reason::SharedSyntax),
            },
            _ => self.may_cover(filter),
        }
    }

    fn may_cover(&self, filter: &TopicFilter) -> Decision<'_> {
        let decision = self.by_rules(Action::Subscribe, |side| side.covering(filter));
        self.by_grants(decision, |grant| grant.covering_pair(filter, false))
    }

    /// Whether a message on `topic` may be handed to this principal, whatever it subscribed to.
    pub fn may_receive(&self, topic: TopicName<'_>) -> Decision<'_> {
        let decision = self.by_rules(Action::Receive, |side| side.about(topic));
        self.by_grants(decision, |grant| grant.receive_pair(topic))
    }

    /// Whether a token may carry `grant`: each of its pairs must lie within these rights, each
    /// permission under one single pattern.
    ///
    /// # Errors
    /// [`PolicyError::OutsidePolicy`] (OAuth `invalid_scope`) names the first pair that does not.
    ///
    /// Source: RFC 9200 section 5.8.2 and RFC 6749 section 5.2 (`invalid_scope`).
    pub fn allows_grant(&self, grant: &Grant) -> Result<(), PolicyError> {
        for pair in grant.pairs() {
            let filter = pair.filter();
            for permission in pair.permissions() {
                let decision = match (permission, filter.levels().next().and_then(reserved)) {
                    ("pub", Some(level)) => Decision::refused(Action::Publish, Reason::Reserved(level)),
                    ("pub", None) => {
                        let decision = self.by_rules(Action::Publish, |side| side.covering(filter));
                        self.by_grants(decision, |grant| grant.covering_pair(filter, true))
                    }
                    _ => self.may_cover(filter),
                };
                if !decision.allowed {
                    return Err(PolicyError::OutsidePolicy {
                        filter: filter.to_string(),
                        permission,
                        reason: decision.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The name of the policy behind these rights.
    #[must_use]
    pub fn policy(&self) -> Option<&PolicyName> {
        self.rules.as_ref().map(|rules| rules.policy.name())
    }

    /// What the policy behind these rights says of access tokens.
    #[must_use]
    pub fn token_rules(&self) -> TokenRules {
        self.rules.as_ref().map_or_else(TokenRules::default, |rules| rules.policy.token().clone())
    }

    #[inline]
    fn by_rules<'a>(
        &'a self,
        action: Action,
        speaks: impl Fn(&'a Side) -> Option<&'a CompiledRule>,
    ) -> Decision<'a> {
        let Some(rules) = &self.rules else { return Decision::refused(action, Reason::NoPolicy) };
        let policy = &rules.policy;
        let (own, fixed) = (speaks(rules.own.asked(action)), speaks(policy.fixed().asked(action)));
        let first = match (own, fixed) {
            (Some(own), Some(fixed)) if fixed.rank < own.rank => Some(fixed),
            (own, fixed) => own.or(fixed),
        };
        match first {
            Some(rule) => {
                Decision { allowed: rule.allows(), action, reason: Reason::Rule { policy, rule }, pair: None }
            }
            None => Decision::refused(action, Reason::NoRule { policy }),
        }
    }

    #[inline]
    fn by_grants<'a>(
        &'a self,
        mut decision: Decision<'a>,
        covering: impl Fn(&'a Grant) -> Option<&'a GrantPair>,
    ) -> Decision<'a> {
        if decision.allowed {
            for grant in self.grants.iter() {
                match covering(grant) {
                    Some(pair) => decision.pair = Some(pair),
                    None => return Decision::refused(decision.action, Reason::OutsideGrant),
                }
            }
        }
        decision
    }
}

/// The first levels that no policy can open for publishing.
pub(crate) fn reserved(first_level: &str) -> Option<&'static str> {
    if !first_level.starts_with('$') {
        return None;
    }
    ["$SYS", "$share", "$drawbridge"].into_iter().find(|level| *level == first_level)
}

/// The filter in `/GROUP/FILTER`. A group has a name without wildcards, and `$share` does not nest.
fn inner_filter(rest: &str) -> Option<TopicFilter> {
    let (group, inner) = rest.strip_prefix('/')?.split_once('/')?;
    if group.is_empty() || group.contains(['+', '#']) {
        return None;
    }
    TopicFilter::parse(inner).ok().filter(|filter| filter.levels().next() != Some("$share"))
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// To publish to a topic.
    Publish,
    /// To subscribe to a filter.
    Subscribe,
    /// To be handed a message; judged by the `subscribe` patterns.
    Receive,
}

impl Action {
    /// `publish`, `subscribe` or `receive`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `[[allow]]`
    Allow,
    /// `[[deny]]`
    Deny,
}

impl Effect {
    /// `allow` or `deny`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An answer and its reason. Display tells the reason; [`Self::explain`] tells it with the topic
/// and for machines.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Decision<'a> {
    /// The answer.
    pub allowed: bool,
    pub(crate) action: Action,
    pub(crate) reason: Reason<'a>,
    pub(crate) pair: Option<&'a GrantPair>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Reason<'a> {
    NoPolicy,
    NoRule { policy: &'a Policy },
    Rule { policy: &'a Policy, rule: &'a CompiledRule },
    OutsideGrant,
    Reserved(&'static str),
    SharedSyntax,
}

impl<'a> Decision<'a> {
    fn refused(action: Action, reason: Reason<'a>) -> Self {
        Self { allowed: false, action, reason, pair: None }
    }

    /// What was asked for.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// The rule that decided, if one did.
    #[must_use]
    pub fn rule(&self) -> Option<Rule<'a>> {
        let Reason::Rule { policy, rule } = self.reason else { return None };
        let (effect, action, index, pattern_index, written) = policy.place(rule.written());
        Some(Rule {
            policy: policy.name(),
            effect,
            index,
            action,
            pattern_index,
            written,
            compiled: rule.pattern.filter(),
        })
    }

    /// The pair of the token's grant that also allows it; `None` when refused or without a grant.
    #[must_use]
    pub fn grant_pair(&self) -> Option<&'a GrantPair> {
        self.pair
    }

    /// The stable code of a refusal, as in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        self.code_and_word().map(|(code, _)| code)
    }

    /// The stable word of a refusal: the last part of `urn:drawbridge:error:<word>`.
    #[must_use]
    pub fn word(&self) -> Option<&'static str> {
        self.code_and_word().map(|(_, word)| word)
    }

    fn code_and_word(&self) -> Option<(&'static str, &'static str)> {
        if self.allowed {
            return None;
        }
        Some(match (self.reason, self.action) {
            (Reason::Reserved(_), _) => ("DB-3013", "topic-reserved"),
            (Reason::SharedSyntax, _) => ("DB-3014", "shared-subscription-malformed"),
            (_, Action::Publish) => ("DB-3010", "publish-not-allowed"),
            (_, Action::Subscribe) => ("DB-3011", "subscribe-not-allowed"),
            (_, Action::Receive) => ("DB-3012", "delivery-withheld"),
        })
    }
}

/// One pattern of one rule, as written and as compiled for a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule<'a> {
    /// The policy it stands in.
    pub policy: &'a PolicyName,
    /// Allow or deny.
    pub effect: Effect,
    /// Which `[[allow]]` or `[[deny]]`, from 0 in the order of the document.
    pub index: u16,
    /// In its `publish` or its `subscribe` list.
    pub action: Action,
    /// Which pattern of the list, from 0.
    pub pattern_index: u16,
    /// The pattern with its variables.
    pub written: &'a str,
    /// The pattern with their values.
    pub compiled: &'a TopicFilter,
}
