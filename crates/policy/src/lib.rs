//! Rules kept by the operator, compiled per principal into what the broker checks.
//!
//! ```text
//! TOML text --parse--> Policy --compile(variables)--> Rights --narrowed(grant)--> Rights
//!                                                       | may_publish / may_subscribe / may_receive
//!                                                       v
//!                                                    Decision (allowed, and by which rule)
//! ```
//!
//! What holds everywhere: no rule means no; deny wins over allow and the order of rules does not
//! matter; a pattern that begins with a wildcard never speaks of `$`-topics; nobody publishes to
//! `$SYS`, `$share` or `$drawbridge`. An error on the way means [`Rights::none`], never less refusal.

mod decide;
mod document;
mod error;
mod explain;
mod grant;
mod pattern;
mod template;
mod token;
mod tree;

pub use decide::{Action, Decision, Effect, Rights, Rule};
pub use document::{PATTERNS_MAX, Policy, SOURCE_BYTES_MAX};
pub use error::{Fault, PolicyError, VariableFault};
pub use explain::Explanation;
pub use grant::{Grant, GrantPair, PAIRS_MAX, SCOPE_BYTES_MAX};
pub use template::Variables;
pub use token::{TOKEN_LIFE_S_MAX, TokenForm, TokenRules};
