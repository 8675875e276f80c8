//! The HTTPS side over real TLS sockets: a memory store, a fake clock, devices of the testkit, and a
//! client that writes bytes and so can be as wrong as it likes.

mod ace;
mod binding;
mod enrolment;
mod errors;
mod fleet;
mod keys;
mod openapi;
mod operate;
mod roles;
mod sessions;
mod surface;
mod tokens;
mod world;
