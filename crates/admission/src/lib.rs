//! Login, key update, revoke, block: load, ask identity and policy, save.
