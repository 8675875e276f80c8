//! The client against a scripted broker over real sockets: what it sends, when, and what it makes of the answers.

mod broker;
mod https;
mod messages;
mod padding;
mod renewal;
mod ways;
