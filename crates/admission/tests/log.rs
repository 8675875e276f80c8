//! What the log says: every decision while there are few, never a secret, and no flood.

mod world;

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use drawbridge_testkit::TestDevice;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use world::{ISSUER, World};

/// Keeps the lines that would be written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").expect("a String takes all text");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("drawbridge") && *metadata.level() <= tracing::Level::INFO
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().expect("no panic").push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

#[tokio::test]
async fn i10_a_login_is_logged_with_its_name_and_key_and_without_its_token() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let world = World::new().await;
    let device = world.device("sensor").await;
    lines.take();
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let token = world.login(&assertion).await.expect("in").access_token;
    let said = lines.take();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in ["what=\"login\"", "registry=default", "name=sensor", device.kid().as_str()] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }
    world.login(&assertion).await.expect_err("used");
    let again = lines.take();
    assert!(again.len() == 1 && again[0].contains("jti-reused"), "{again:?}");
    let all = format!("{said:?}{again:?}");
    assert!(!all.contains(&token) && !all.contains(&assertion) && !all.contains("eyJ"), "{all}");
}

#[tokio::test]
async fn a_flood_of_refusals_and_logins_fills_counters_and_not_the_disk() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let world = World::new().await;
    let device = world.device("sensor").await;
    lines.take();
    let forged = TestDevice::new("sensor").assertion(ISSUER, world.now_s()).sign();
    for _ in 0..60 {
        world.login(&forged).await.expect_err("forged");
    }
    for _ in 0..10 {
        world.login(&device.assertion(ISSUER, world.now_s()).sign()).await.expect("in");
    }
    assert_eq!(lines.take().len(), 50, "in one second");
    assert_eq!(world.admission.stats().refused["not-proven"], 60, "all are counted");
    world.clock.advance_s(1);
    world.login(&forged).await.expect_err("forged");
    let said = lines.take();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("login 10, not-proven 10"), "{said:?}");
}
