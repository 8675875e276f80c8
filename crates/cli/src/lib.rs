//! Operator commands; they use only the API that everyone can use.
