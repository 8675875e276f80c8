//! Rules kept by the operator, compiled per principal into what the broker checks.
