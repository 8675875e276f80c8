//! What one client may say when: bytes in, effects out.
