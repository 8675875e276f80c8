//! Who may publish and subscribe where, and which rule says so.

use std::fmt;
use std::sync::Arc;

use drawbridge_names::{PolicyName, TopicFilter, TopicName};

use crate::connection::{Origin, When};
use crate::document::{Gates, Policy};
use crate::error::PolicyError;
use crate::grant::{Grant, GrantPair};
use crate::limits::{Bound, Ceiling, Limits, PublishFacts, Rates};
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
    /// Which of the policy's conditional patterns speak over this connection.
    gates: Gates,
    /// Nothing but patterns decides: there are no ceilings, no conditions and no denies of delivery.
    plain: bool,
    /// The whole policy asks for another connection than this.
    shut: bool,
    /// For a policy that asks for connections.
    origin: Option<Box<Origin>>,
}

/// Compiled patterns, apart by what they are asked for.
#[derive(Debug)]
pub(crate) struct Sides {
    publish: Side,
    subscribe: Side,
    /// Few policies have any.
    bounded: Option<Box<BoundedSides>>,
}

/// Patterns that are asked one by one: those that speak of some messages only, and denies of delivery.
#[derive(Debug)]
struct BoundedSides {
    publish: Box<[BoundedRule]>,
    subscribe: Box<[BoundedRule]>,
    /// All of them deny.
    receive: Box<[CompiledRule]>,
}

#[derive(Debug)]
struct BoundedRule {
    rule: CompiledRule,
    bound: Bound,
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

/// A pattern on its way to its side.
pub(crate) struct Placed {
    pub(crate) action: Action,
    pub(crate) bound: Option<Bound>,
    pub(crate) rule: CompiledRule,
}

impl Sides {
    /// For all principals: made once, asked often.
    pub(crate) fn of_all(rules: Vec<Placed>) -> Self {
        Self::of(rules, 0)
    }

    fn of(rules: Vec<Placed>, few: usize) -> Self {
        let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
        let (mut bounded_publish, mut bounded_subscribe, mut receive) = (Vec::new(), Vec::new(), Vec::new());
        for Placed { action, bound, rule } in rules {
            match (action, bound) {
                (Action::Publish, None) => publish.push(rule),
                (Action::Publish, Some(bound)) => bounded_publish.push(BoundedRule { rule, bound }),
                (Action::Subscribe, None) => subscribe.push(rule),
                (Action::Subscribe, Some(bound)) => bounded_subscribe.push(BoundedRule { rule, bound }),
                (Action::Receive, _) => receive.push(rule),
            }
        }
        let side = |mut rules: Vec<CompiledRule>| {
            rules.sort_unstable_by_key(|rule| rule.rank);
            let tree =
                (rules.len() > few).then(|| Box::new(Tree::of(rules.iter().map(|rule| &rule.pattern))));
            Side { rules: rules.into(), tree }
        };
        let sorted = |mut rules: Vec<BoundedRule>| {
            rules.sort_unstable_by_key(|bounded| bounded.rule.rank);
            rules.into_boxed_slice()
        };
        let any = !(bounded_publish.is_empty() && bounded_subscribe.is_empty() && receive.is_empty());
        receive.sort_unstable_by_key(|rule| rule.rank);
        let bounded = any.then(|| {
            Box::new(BoundedSides {
                publish: sorted(bounded_publish),
                subscribe: sorted(bounded_subscribe),
                receive: receive.into(),
            })
        });
        Self { publish: side(publish), subscribe: side(subscribe), bounded }
    }

    fn is_plain(&self) -> bool {
        self.bounded.is_none()
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

    fn first(&self, asked: Asked<'_>) -> Option<&CompiledRule> {
        match asked {
            Asked::Topic(topic) => self.about(topic),
            Asked::Filter(filter) => self.covering(filter),
        }
    }
}

impl Rights {
    /// Nothing: the rights of a principal without a policy, or with a broken one.
    #[must_use]
    pub fn none() -> Self {
        Self { rules: None, grants: Arc::new([]) }
    }

    pub(crate) fn of(
        policy: Policy,
        own: Vec<Placed>,
        gates: Gates,
        shut: bool,
        origin: Option<Box<Origin>>,
    ) -> Self {
        let own = Sides::of(own, FEW);
        let plain = !shut
            && gates.is_empty()
            && own.is_plain()
            && policy.fixed().is_plain()
            && policy.limits().bound == Bound::FREE;
        let rules = Rules { policy, own, gates, plain, shut, origin };
        Self { rules: Some(Arc::new(rules)), grants: Arc::new([]) }
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

    /// What the policy alone allows, whatever a token narrowed it to, and over any connection: what its
    /// principal left behind is judged by this.
    #[must_use]
    pub fn without_grants(&self) -> Self {
        let none = Arc::new([]);
        match self.rules.as_deref().and_then(|rules| Some((&rules.policy, rules.origin.as_deref()?))) {
            Some((policy, origin)) => {
                let anywhere = policy.compile_anywhere(&origin.variables()).unwrap_or(Self::none());
                Self { rules: anywhere.rules, grants: none }
            }
            None => Self { rules: self.rules.clone(), grants: none },
        }
    }

    /// These rights for a session that has had `old` ones: over its connection, and narrowed by the grants of its
    /// token, as those are. Of a session whose earlier policy asked nothing of connections, nothing is known.
    #[must_use]
    pub fn succeeding(&self, old: &Self) -> Self {
        let grants = Arc::clone(&old.grants);
        match self.rules.as_deref().and_then(|rules| Some((&rules.policy, rules.origin.as_deref()?))) {
            Some((policy, origin)) => {
                let known = old.rules.as_deref().and_then(|rules| rules.origin.as_deref());
                let connection = known.map(Origin::connection).unwrap_or_default();
                let here = policy.compile_for(&origin.variables(), &connection).unwrap_or(Self::none());
                Self { rules: here.rules, grants }
            }
            None => Self { rules: self.rules.clone(), grants },
        }
    }

    /// These rights over the connection of a session that has had `old` ones; the grants of its token are these.
    #[must_use]
    pub fn over_connection_of(&self, old: &Self) -> Self {
        Self { grants: Arc::clone(&self.grants), ..self.succeeding(old) }
    }

    /// Whether any message may be published to `topic`: for what was judged before, such as a stored message,
    /// and to learn of a topic. A message on its way in is judged by [`Self::may_publish_with`], or by
    /// [`Self::publish_limits`] as well.
    pub fn may_publish(&self, topic: TopicName<'_>) -> Decision<'_> {
        self.publish(topic, None)
    }

    /// Whether such a message may be published to `topic`. Asked for live, retained and will messages.
    pub fn may_publish_with(&self, topic: TopicName<'_>, facts: &PublishFacts) -> Decision<'_> {
        self.publish(topic, Some(facts))
    }

    fn publish(&self, topic: TopicName<'_>, facts: Option<&PublishFacts>) -> Decision<'_> {
        const ACTION: Action = Action::Publish;
        if topic.is_dollar()
            && let Some(level) = topic.levels().next().and_then(reserved)
        {
            return Decision::refused(ACTION, Reason::Reserved(level));
        }
        let decision = match &self.rules {
            Some(rules) if !rules.plain => rules.publish(facts, Asked::Topic(topic)),
            _ => self.by_rules(ACTION, |side| side.about(topic)),
        };
        self.by_grants(decision, |grant| grant.publish_pair(topic))
    }

    /// What these rights say of every message on `topic`: the same as [`Self::may_publish_with`], asked once.
    #[must_use]
    pub fn publish_limits(&self, topic: TopicName<'_>) -> Limits {
        match &self.rules {
            _ if !self.may_publish(topic).allowed => Limits::NOTHING,
            Some(rules) if !rules.plain => rules.limits(Asked::Topic(topic)),
            _ => Limits::FREE,
        }
    }

    /// Whether messages are judged by more than their topics. If not, [`Self::publish_limits`] is always
    /// [`Limits::FREE`] or [`Limits::NOTHING`], and a subscription gets the QoS that it asks for.
    #[must_use]
    #[inline]
    pub fn has_ceilings(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| !rules.plain)
    }

    /// How fast the principal may publish.
    #[must_use]
    pub fn rates(&self) -> Rates {
        self.rules.as_ref().map_or_else(Rates::default, |rules| rules.policy.limits().rates)
    }

    /// What the whole policy asks of a connection, if this one is another: then nothing is allowed over it.
    #[must_use]
    pub fn unmet(&self) -> Option<&When> {
        self.rules.as_ref().filter(|rules| rules.shut).and_then(|rules| rules.policy.when())
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

    /// As [`Self::may_subscribe`], and the QoS that is granted: what was asked for, or less. 0 when refused.
    pub fn may_subscribe_with(&self, filter: &TopicFilter, qos: u8) -> (Decision<'_>, u8) {
        let decision = self.may_subscribe(filter);
        if !decision.allowed {
            return (decision, 0);
        }
        let Some(rules) = self.rules.as_ref().filter(|rules| !rules.plain) else { return (decision, qos) };
        let inner = filter.as_str().strip_prefix("$share").and_then(inner_filter);
        let asked = inner.as_ref().unwrap_or(filter);
        (decision, qos.min(rules.subscribe_qos_max(asked)))
    }

    fn may_cover(&self, filter: &TopicFilter) -> Decision<'_> {
        let decision = match &self.rules {
            Some(rules) if !rules.plain => rules.subscribe(filter),
            _ => self.by_rules(Action::Subscribe, |side| side.covering(filter)),
        };
        self.by_grants(decision, |grant| grant.covering_pair(filter, false))
    }

    /// Whether a message on `topic` may be handed to this principal, whatever it subscribed to.
    pub fn may_receive(&self, topic: TopicName<'_>) -> Decision<'_> {
        let decision = match &self.rules {
            Some(rules) if !rules.plain => rules.receive(topic),
            _ => self.by_rules(Action::Receive, |side| side.about(topic)),
        };
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
                        let decision = match &self.rules {
                            Some(rules) if !rules.plain => rules.publish(None, Asked::Filter(filter)),
                            _ => self.by_rules(Action::Publish, |side| side.covering(filter)),
                        };
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

/// A topic, or all topics of a filter.
#[derive(Clone, Copy)]
enum Asked<'t> {
    Topic(TopicName<'t>),
    Filter(&'t TopicFilter),
}

/// The one that decides: a deny before an allow, and of each kind the one that is written first.
fn first_of<'a>(a: Option<&'a CompiledRule>, b: Option<&'a CompiledRule>) -> Option<&'a CompiledRule> {
    a.into_iter().chain(b).min_by_key(|rule| rule.rank)
}

/// With conditions and ceilings. Nothing here is asked for a policy that has none.
impl Rules {
    /// All that speak over this connection.
    fn sides(&self) -> impl Iterator<Item = &Sides> {
        let opened = self.policy.gated().filter(|(gate, _)| self.gates.has(*gate)).map(|(_, sides)| sides);
        [&self.own, self.policy.fixed()].into_iter().chain(opened)
    }

    /// The first of those that speak of every message.
    fn first_free(&self, action: Action, asked: Asked<'_>) -> Option<&CompiledRule> {
        self.sides().fold(None, |first, sides| first_of(first, sides.asked(action).first(asked)))
    }

    /// Those that speak of some messages only.
    fn bounded<'a>(&'a self, action: Action, asked: Asked<'_>) -> impl Iterator<Item = &'a BoundedRule> {
        let mut scan = Scan::default();
        self.sides()
            .filter_map(|sides| sides.bounded.as_deref())
            .flat_map(move |bounded| match action {
                Action::Publish => &*bounded.publish,
                Action::Subscribe | Action::Receive => &*bounded.subscribe,
            })
            .filter(move |bounded| bounded.rule.pattern.speaks_of(asked, &mut scan))
    }

    fn decision<'a>(&'a self, action: Action, first: Option<&'a CompiledRule>) -> Decision<'a> {
        let policy = &self.policy;
        if self.shut {
            return Decision::refused(action, Reason::OtherConnection { policy });
        }
        match first {
            Some(rule) => {
                Decision { allowed: rule.allows(), action, reason: Reason::Rule { policy, rule }, pair: None }
            }
            None => Decision::refused(action, Reason::NoRule { policy }),
        }
    }

    fn publish(&self, facts: Option<&PublishFacts>, asked: Asked<'_>) -> Decision<'_> {
        const ACTION: Action = Action::Publish;
        let mut first = self.first_free(ACTION, asked);
        let mut held: Option<(&CompiledRule, Ceiling)> = None;
        for bounded in self.bounded(ACTION, asked) {
            let rule = &bounded.rule;
            match facts.and_then(|facts| bounded.bound.hinders(facts)) {
                Some(ceiling) if rule.allows() => {
                    held = held.into_iter().chain([(rule, ceiling)]).min_by_key(|(rule, _)| rule.rank);
                }
                Some(_) => {}
                // Of no message in particular: a deny of some messages leaves the others.
                None if facts.is_none() && !rule.allows() => {}
                None => first = first_of(first, Some(rule)),
            }
        }
        let decision = self.decision(ACTION, first);
        if !decision.allowed {
            return match held {
                Some((rule, ceiling)) if first.is_none() && !self.shut => {
                    let reason = Reason::Ceiling { policy: &self.policy, rule: Some(rule), ceiling };
                    Decision::refused(ACTION, reason)
                }
                _ => decision,
            };
        }
        let policy = &self.policy;
        let beyond = match facts {
            Some(facts) => policy.limits().bound.hinders(facts),
            None if self.limits(asked).is_nothing() => {
                // Together they leave nothing: the denies of some messages, or what is allowed of all.
                let deny =
                    self.bounded(ACTION, asked).map(|bounded| &bounded.rule).find(|rule| !rule.allows());
                if deny.is_some() {
                    return self.decision(ACTION, deny);
                }
                let limits = &policy.limits().bound;
                limits.retain.map(Ceiling::Retain).or(limits.will.map(Ceiling::Will))
            }
            None => None,
        };
        match beyond {
            Some(ceiling) => Decision::refused(ACTION, Reason::Ceiling { policy, rule: None, ceiling }),
            None => decision,
        }
    }

    fn limits(&self, asked: Asked<'_>) -> Limits {
        const ACTION: Action = Action::Publish;
        let mut limits = match self.first_free(ACTION, asked) {
            Some(rule) if rule.allows() => Limits::FREE,
            Some(_) => return Limits::NOTHING,
            None => Limits::NOTHING,
        };
        self.bounded(ACTION, asked)
            .filter(|bounded| bounded.rule.allows())
            .for_each(|bounded| limits.widen(&bounded.bound));
        self.bounded(ACTION, asked)
            .filter(|bounded| !bounded.rule.allows())
            .for_each(|bounded| limits.take_away(&bounded.bound));
        limits.narrow(&self.policy.limits().bound);
        limits
    }

    fn subscribe(&self, filter: &TopicFilter) -> Decision<'_> {
        const ACTION: Action = Action::Subscribe;
        let asked = Asked::Filter(filter);
        let bounded = self.bounded(ACTION, asked).map(|bounded| &bounded.rule);
        let first = bounded.fold(self.first_free(ACTION, asked), |first, rule| first_of(first, Some(rule)));
        self.decision(ACTION, first)
    }

    /// The highest QoS of a subscription that is allowed.
    fn subscribe_qos_max(&self, filter: &TopicFilter) -> u8 {
        let asked = Asked::Filter(filter);
        let free = self.first_free(Action::Subscribe, asked).map(|_| Bound::FREE.qos_max);
        let bounded = self.bounded(Action::Subscribe, asked).map(|bounded| bounded.bound.qos_max);
        bounded.chain(free).max().unwrap_or_default().min(self.policy.limits().bound.qos_max)
    }

    fn receive(&self, topic: TopicName<'_>) -> Decision<'_> {
        let asked = Asked::Topic(topic);
        let mut scan = Scan::default();
        let denied = self
            .sides()
            .filter_map(|sides| sides.bounded.as_deref())
            .flat_map(|bounded| &*bounded.receive)
            .find(|rule| rule.pattern.matches(topic, &mut scan));
        let bounded = self.bounded(Action::Receive, asked).map(|bounded| &bounded.rule);
        let first = bounded
            .chain(denied)
            .fold(self.first_free(Action::Receive, asked), |first, rule| first_of(first, Some(rule)));
        self.decision(Action::Receive, first)
    }
}

impl Pattern {
    fn speaks_of(&self, asked: Asked<'_>, scan: &mut Scan) -> bool {
        match asked {
            Asked::Topic(topic) => self.matches(topic, scan),
            Asked::Filter(filter) => self.covers(filter),
        }
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
    /// To be handed a message; judged by the `subscribe` patterns, and by what is denied as `receive`.
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
    NoRule {
        policy: &'a Policy,
    },
    Rule {
        policy: &'a Policy,
        rule: &'a CompiledRule,
    },
    /// A rule, or the policy as a whole, allows other messages on the topic.
    Ceiling {
        policy: &'a Policy,
        rule: Option<&'a CompiledRule>,
        ceiling: Ceiling,
    },
    /// The whole policy asks for another connection.
    OtherConnection {
        policy: &'a Policy,
    },
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
        let (policy, rule) = match self.reason {
            Reason::Rule { policy, rule } | Reason::Ceiling { policy, rule: Some(rule), .. } => {
                (policy, rule)
            }
            _ => return None,
        };
        let Place { effect, action, index, pattern_index, written, when } = policy.place(rule.written());
        Some(Rule {
            policy: policy.name(),
            effect,
            index,
            action,
            pattern_index,
            written,
            compiled: rule.pattern.filter(),
            when,
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
            (Reason::Ceiling { ceiling, .. }, _) => ceiling.code_and_word(),
            (Reason::OtherConnection { .. }, _) => ("DB-3019", "connection-not-allowed"),
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
    /// In its `publish`, its `subscribe` or its `receive` list.
    pub action: Action,
    /// Which pattern of the list, from 0.
    pub pattern_index: u16,
    /// The pattern with its variables.
    pub written: &'a str,
    /// The pattern with their values.
    pub compiled: &'a TopicFilter,
    /// What the rule asks of a connection.
    pub when: Option<&'a When>,
}

/// Where a pattern stands in its document.
pub(crate) struct Place<'a> {
    pub(crate) effect: Effect,
    pub(crate) action: Action,
    pub(crate) index: u16,
    pub(crate) pattern_index: u16,
    pub(crate) written: &'a str,
    pub(crate) when: Option<&'a When>,
}
