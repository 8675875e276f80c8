//! Rules kept by the operator, compiled per principal into what the broker checks.
//!
//! ```text
//! TOML text --parse--> Policy --compile_for(variables, connection)--> Rights --narrowed(grant)--> Rights
//!                        | run_tests                                    | may_publish_with / may_subscribe_with
//!                        v                                              v   / may_receive
//!                      applied, or not                                Decision (allowed, and by which rule)
//! ```
//!
//! What holds everywhere: no rule means no; deny wins over allow and the order of rules does not
//! matter; a pattern that begins with a wildcard never speaks of `$`-topics; nobody publishes to
//! `$SYS`, `$share` or `$drawbridge`. An error on the way means [`Rights::none`], never less refusal.

mod connection;
mod decide;
mod document;
mod error;
mod explain;
mod grant;
mod import;
mod limits;
mod pattern;
mod reader;
mod template;
mod token;
mod tree;
mod trial;

pub use connection::{
    Connection, ConnectionFacts, IssuerClaims, Method, Protocol, SubjectField, Tls, VerifiedCertificate, When,
};
pub use decide::{Action, Decision, Effect, Rights, Rule};
pub use document::{CONDITIONS_MAX, PATTERNS_MAX, Policy, SOURCE_BYTES_MAX};
pub use error::{Fault, PolicyError, VariableFault};
pub use explain::Explanation;
pub use grant::{Grant, GrantPair, PAIRS_MAX, SCOPE_BYTES_MAX};
pub use import::ImportedPolicy;
pub use limits::{Limits, PAYLOAD_BYTES_MAX, PublishFacts, RATE_MAX, Rates};
pub use template::Variables;
pub use token::{TOKEN_LIFE_S_MAX, TokenForm, TokenRules};
pub use trial::TESTS_MAX;
