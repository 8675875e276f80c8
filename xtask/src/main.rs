//! Checks that need a program.
fn main() {}
