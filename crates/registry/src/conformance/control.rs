//! Configs and states of devices.

use drawbridge_names::{PrincipalName, Uid};

use super::fixtures::*;
use crate::*;

pub(super) async fn config_versions_count_up_and_expect_the_one_before(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    assert_eq!(store.config(&registry, lamp).await.expect("config"), None);
    for (expected, answer) in [
        (Some(1), SetConfig::Stale { version: 0 }),
        (Some(0), SetConfig::Set { version: 1 }),
        (Some(0), SetConfig::Stale { version: 1 }),
        (None, SetConfig::Set { version: 2 }),
        (Some(1), SetConfig::Stale { version: 2 }),
        (Some(u64::MAX), SetConfig::Stale { version: 2 }),
        (Some(2), SetConfig::Set { version: 3 }),
    ] {
        let before = picture(store).await;
        let payload = format!("{answer:?}").into_bytes();
        let got = store.set_config(&registry, lamp, payload.clone(), expected, 5, entry("config.set")).await;
        assert_eq!(got.expect("set_config"), answer, "{expected:?}");
        if let SetConfig::Set { version } = answer {
            let there = store.config(&registry, lamp).await.expect("config");
            assert_eq!(there, Some(ConfigVersion { version, payload, set_ms: 5, acked_ms: None }));
        } else {
            assert_eq!(picture(store).await, before, "{answer:?}");
        }
    }
    let before = picture(store).await;
    let nobody = store.set_config(&registry, Uid(2), vec![], None, 5, entry("e")).await;
    assert_eq!(nobody.expect("set_config"), SetConfig::NotFound);
    assert_eq!(picture(store).await, before);
    assert_eq!(known(store, &registry, lamp).await.principal.revision, 1, "no change of the record");
    // An empty payload is a config, too.
    store.set_config(&registry, lamp, vec![], None, u64::MAX, entry("e")).await.expect("set_config");
    let there = store.config(&registry, lamp).await.expect("config");
    assert_eq!(there, Some(ConfigVersion { version: 4, payload: vec![], set_ms: u64::MAX, acked_ms: None }));
}

pub(super) async fn the_last_ten_configs_are_kept_and_only_those_can_be_acknowledged(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[]).await;
    assert!(!store.ack_config(&registry, lamp, 1, 5).await.expect("ack_config"), "there is none yet");
    for version in 1..=13 {
        let set = store.set_config(&registry, lamp, vec![version], None, 5, entry("e")).await;
        assert_eq!(set.expect("set_config"), SetConfig::Set { version: u64::from(version) });
    }
    let audits = audit(store, &registry).await;
    for version in [0, 3, 14] {
        assert!(!store.ack_config(&registry, lamp, version, 9).await.expect("ack_config"), "{version}");
    }
    for version in [4, 12] {
        assert!(store.ack_config(&registry, lamp, version, 9).await.expect("ack_config"), "{version}");
    }
    let newest = store.config(&registry, lamp).await.expect("config").expect("was set");
    assert_eq!((newest.version, newest.acked_ms), (13, None), "an older one was acknowledged");
    for now_ms in [10, 11] {
        assert!(store.ack_config(&registry, lamp, 13, now_ms).await.expect("ack_config"));
    }
    let newest = store.config(&registry, lamp).await.expect("config").expect("was set");
    assert_eq!((newest.payload, newest.acked_ms), (vec![13], Some(10)), "the first acknowledgement");
    assert!(!store.ack_config(&registry, pump, 13, 9).await.expect("ack_config"), "of another device");
    assert_eq!(audit(store, &registry).await, audits, "an acknowledgement is not audited");
}

pub(super) async fn configs_are_paged_by_name_newest_only_and_without_devices_that_have_none(
    store: &dyn Store,
) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    for (at, text) in ["b", "a", "B", "none", "a.b", "0"].iter().enumerate() {
        let uid = make_device(store, &registry, text, 50 - at as u64, &[]).await;
        let twin = make_device(store, &other, text, 50 - at as u64, &[]).await;
        if *text != "none" {
            for version in 1..=3 {
                let payload = format!("{text} {version}").into_bytes();
                store.set_config(&registry, uid, payload, None, 5, entry("e")).await.expect("set_config");
            }
            store.set_config(&other, twin, b"other".to_vec(), None, 5, entry("e")).await.expect("set_config");
        }
    }
    for limit in [1, 2, 5, usize::MAX] {
        let mut found: Vec<(PrincipalName, String)> = Vec::new();
        loop {
            let after = found.last().map(|(name, _)| name.clone());
            let page = store.configs(&registry, after.as_ref(), limit).await.expect("configs");
            assert!(page.len() <= limit);
            let Some((first, ..)) = page.first() else { break };
            assert!(after.is_none_or(|after| *first > after), "a page begins after the last one");
            for (name, uid, config) in page {
                assert_eq!(known(store, &registry, uid).await.principal.name, name);
                assert_eq!(config.version, 3);
                found.push((name, String::from_utf8(config.payload).expect("is text")));
            }
        }
        let found: Vec<&str> = found.iter().map(|(_, payload)| payload.as_str()).collect();
        assert_eq!(found, ["0 3", "B 3", "a 3", "a.b 3", "b 3"], "pages of {limit}");
    }
}

pub(super) async fn states_are_newest_first_and_the_last_ten_are_kept(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[]).await;
    let audits = audit(store, &registry).await;
    assert_eq!(store.states(&registry, lamp).await.expect("states"), []);
    for number in 1..=13 {
        // The clock goes back: the order of arrival counts.
        let state = StateReport { payload: vec![number], received_ms: 100 - u64::from(number) };
        store.add_state(&registry, lamp, state).await.expect("add_state");
    }
    let one = StateReport { payload: vec![], received_ms: u64::MAX };
    store.add_state(&registry, pump, one.clone()).await.expect("add_state");
    let states = store.states(&registry, lamp).await.expect("states");
    let payloads: Vec<u8> = states.iter().map(|state| state.payload[0]).collect();
    assert_eq!(payloads, [13, 12, 11, 10, 9, 8, 7, 6, 5, 4]);
    assert_eq!(states[0].received_ms, 87);
    assert_eq!(store.states(&registry, pump).await.expect("states"), std::slice::from_ref(&one));
    store.add_state(&registry, Uid(9), one).await.expect("the state of nobody is dropped");
    assert_eq!(store.states(&registry, Uid(9)).await.expect("states"), []);
    assert_eq!(audit(store, &registry).await, audits, "a report is not audited");
}
