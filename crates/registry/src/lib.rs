//! Storage traits, the memory store, and one conformance suite for every store.
