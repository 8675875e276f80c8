//! Registries, and that none of them sees another.

use drawbridge_names::Uid;

use super::fixtures::*;
use crate::*;

pub(super) async fn a_registry_is_made_once_and_a_second_attempt_changes_nothing(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let before = picture(store).await;
    let other = RegistryRecord { issuer: "https://other.example".into(), ..registry_record("default") };
    let again = store.add_registry(other, entry("registry.add")).await.expect("add_registry");
    assert_eq!(again, AddRegistry::Exists(registry_record("default")));
    assert_eq!(picture(store).await, before);
    let there = store.registry(&registry).await.expect("registry");
    assert_eq!(there, Some(registry_record("default")));
}

pub(super) async fn registries_are_listed_in_byte_order_and_read_back_as_given(store: &dyn Store) {
    assert_eq!(store.registries().await.expect("registries"), []);
    let google = RegistryRecord {
        google: Some(GoogleNames { project: "p-1".into(), location: "europe-west1".into() }),
        clock_skew_s: u32::MAX,
        token_life_s: 0,
        settings: RegistrySettings {
            token_format: TokenFormat::Opaque,
            clock: ClockTrust::None,
            bound_connections: true,
            ..Default::default()
        },
        created_s: u64::MAX,
        ..registry_record("b")
    };
    store.add_registry(google.clone(), entry("registry.add")).await.expect("add_registry");
    for text in ["a-b", "0", "a", "a0"] {
        make_registry(store, text).await;
    }
    let listed = store.registries().await.expect("registries");
    let names: Vec<&str> = listed.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["0", "a", "a-b", "a0", "b"]);
    assert_eq!(listed[4], google);
    assert_eq!(store.registry(&google.name).await.expect("registry"), Some(google));
    assert_eq!(store.registry(&registry_name("c")).await.expect("registry"), None);
}

pub(super) async fn a_registrys_settings_change_and_nothing_else(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    let settings = RegistrySettings {
        token_format: TokenFormat::Opaque,
        clock: ClockTrust::Coarse,
        ways: Some(["certificate".to_owned()].into()),
        certificate_registration: Some(CertificateRegistration {
            cas: ["0123456789abcdef".repeat(4)].into(),
            policy: Some("ä\"".into()),
            hourly_max: u32::MAX,
            ..Default::default()
        }),
        ..Default::default()
    };
    let asked = RegistryRecord {
        issuer: "https://other.example".into(),
        bridge_audience: "x".into(),
        clock_skew_s: 5,
        token_life_s: 7,
        google: Some(GoogleNames { project: "p".into(), location: "l".into() }),
        settings: settings.clone(),
        created_s: 0,
        ..registry_record("default")
    };
    let expected =
        RegistryRecord { clock_skew_s: 5, token_life_s: 7, settings, ..registry_record("default") };
    let answer = store.change_registry(asked, entry("registry.change")).await;
    assert_eq!(answer.expect("change_registry"), Some(expected.clone()));
    assert_eq!(store.registry(&registry).await.expect("registry"), Some(expected));
    assert_eq!(store.registry(&other).await.expect("registry"), Some(registry_record("other")));
    let rows = audit(store, &registry).await;
    assert_eq!((rows.len(), &rows[1].entry), (2, &entry("registry.change")));
    // And back, also if nothing differs.
    for _ in 0..2 {
        let answer = store.change_registry(registry_record("default"), entry("registry.change")).await;
        assert_eq!(answer.expect("change_registry"), Some(registry_record("default")));
    }
    let before = picture(store).await;
    let nobody = store.change_registry(registry_record("gone"), entry("e")).await;
    assert_eq!(nobody.expect("change_registry"), None);
    assert_eq!(picture(store).await, before);
}

pub(super) async fn a_registry_that_does_not_exist_takes_and_gives_nothing(store: &dyn Store) {
    make_lamp(store).await;
    let before = picture(store).await;
    let (gone, lamp) = (registry_name("gone"), Uid(1));
    fn unknown<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
        let error = answer.expect_err("there is no such registry");
        assert!(matches!(&error, StoreError::UnknownRegistry(name) if name.as_str() == "gone"), "{error:?}");
    }
    unknown(store.add_principal(principal(&gone, "x", 9), vec![], entry("e")).await);
    unknown(store.set_policy(&gone, &policy_name("p"), "", NOW_S, entry("e")).await);
    unknown(store.secret_or_insert(&gone, "s", vec![1]).await);
    unknown(store.replace_secret(&gone, "s", vec![1], entry("e")).await);
    unknown(store.record(&gone, entry("e")).await);
    let change = store.change_principal(&gone, lamp, PrincipalChange::Block, None, entry("e")).await;
    assert_eq!(change.expect("change_principal"), Changed::NotFound);
    assert!(!store.delete_principal(&gone, lamp, entry("e")).await.expect("delete_principal"));
    let added = store.add_key(&gone, lamp, key(2), 5, entry("e")).await;
    assert_eq!(added.expect("add_key"), AddKey::NotFound);
    let removed = store.remove_key(&gone, lamp, &kid(1), true, entry("e")).await;
    assert_eq!(removed.expect("remove_key"), RemoveKey::NotFound);
    let rotated = store.rotate_key(&gone, lamp, rotation(1, 2, 1), NOW_S, entry("e")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::OldNotActive);
    let jti = store.remember_jti(&gone, lamp, timed(1, 1, NOW_S + 9), NOW_S).await;
    assert_eq!(jti.expect("remember_jti"), JtiOutcome::KeyGone);
    let config = store.set_config(&gone, lamp, vec![1], None, 1, entry("e")).await;
    assert_eq!(config.expect("set_config"), SetConfig::NotFound);
    assert!(!store.ack_config(&gone, lamp, 1, 1).await.expect("ack_config"));
    let state = StateReport { payload: vec![1], received_ms: 1 };
    store.add_state(&gone, lamp, state).await.expect("the state of nobody is dropped");

    unknown(store.import_principals(&gone, vec![], entry("e")).await);
    let batch = vec![(principal(&gone, "x", 9), vec![])];
    unknown(store.import_principals(&gone, batch, entry("e")).await);
    let replaced = store.replace_key(&gone, lamp, &kid(1), key(2), NOW_S, 5, entry("e")).await;
    assert_eq!(replaced.expect("replace_key"), RotateKey::OldNotActive);
    let changed = store.change_key(&gone, lamp, &kid(1), KeyChange::default(), entry("e")).await;
    assert_eq!(changed.expect("change_key"), ChangeKey::NotFound);
    unknown(store.add_enrolment(&gone, enrolment("e"), entry("e")).await);
    assert!(!store.end_enrolment(&gone, "e", entry("e")).await.expect("end_enrolment"));
    let enrolled = store.enrol(&gone, "e", principal(&gone, "x", 9), vec![], NOW_S, entry("e")).await;
    assert_eq!(enrolled.expect("enrol"), Enrol::Ended);
    assert!(!store.undo_enrolment(&gone, lamp, entry("e")).await.expect("undo_enrolment"));
    let ca = Ca { fingerprint: [1; 32], der: vec![1], label: None, added_s: NOW_S };
    unknown(store.add_ca(&gone, ca, entry("e")).await);
    assert!(!store.remove_ca(&gone, &[1; 32], entry("e")).await.expect("remove_ca"));
    let linked = store.link(&gone, lamp, lamp, true, entry("e")).await;
    assert_eq!(linked.expect("link"), Link::NotFound);
    unknown(store.revoke_jti(&gone, [1; 16], NOW_S + 9).await);
    let token = store.add_token(&gone, kept_token(1, lamp), 9, NOW_S).await;
    assert_eq!(token.expect("add_token"), AddToken::Gone);
    assert_eq!(store.use_token(&gone, &[1; 32], NOW_S).await.expect("use_token"), TokenUse::Gone);
    let renewal = store.renew_token(&gone, &[1; 32], kept_token(2, lamp), NOW_S + 9, NOW_S).await;
    assert_eq!(renewal.expect("renew_token"), TokenUse::Gone);
    assert_eq!(store.end_token(&gone, &[1; 32], NOW_S).await.expect("end_token"), 0);
    assert_eq!(store.token(&gone, &[1; 32], NOW_S).await.expect("token"), None);
    assert_eq!(store.revoked_jtis(&gone, NOW_S).await.expect("revoked_jtis"), []);
    let enrolment = store.enrolment_by_token(&gone, &enrolment("e").token_digest).await;
    assert_eq!(enrolment.expect("enrolment_by_token"), None);
    assert_eq!(store.enrolments(&gone).await.expect("enrolments"), []);
    assert_eq!(store.enrolled(&gone, None, false, None, 9).await.expect("enrolled"), []);
    assert!(!store.linked(&gone, lamp, lamp).await.expect("linked"));
    assert_eq!(store.linked_devices(&gone, lamp, None, 9).await.expect("linked_devices"), []);
    assert_eq!(store.gateways_of(&gone, lamp).await.expect("gateways_of"), []);
    assert_eq!(store.cas(&gone).await.expect("cas"), []);
    assert_eq!(store.audit_heads(&gone).await.expect("audit_heads"), []);
    assert_eq!(store.audit_rows(&gone, "alone", 1, 9).await.expect("audit_rows"), []);

    assert_eq!(store.known(&gone, &name("lamp")).await.expect("known"), None);
    assert_eq!(store.known_by_uid(&gone, lamp).await.expect("known_by_uid"), None);
    assert_eq!(store.owner_of_key(&gone, &kid(1)).await.expect("owner_of_key"), None);
    assert_eq!(store.principals(&gone, None, None, 9).await.expect("principals"), []);
    assert_eq!(store.policy(&gone, &policy_name("p")).await.expect("policy"), None);
    assert_eq!(store.policies(&gone).await.expect("policies"), []);
    assert_eq!(store.secret(&gone, "s").await.expect("secret"), None);
    assert_eq!(store.config(&gone, lamp).await.expect("config"), None);
    assert_eq!(store.configs(&gone, None, 9).await.expect("configs"), []);
    assert_eq!(store.states(&gone, lamp).await.expect("states"), []);
    assert_eq!(store.audit_tail(&gone, None, 9).await.expect("audit_tail"), []);
    assert_eq!(picture(store).await, before);
}

pub(super) async fn two_registries_share_neither_devices_nor_keys_jti_tokens_policies_secrets_configs_or_audit(
    store: &dyn Store,
) {
    let both = [make_registry(store, "a").await, make_registry(store, "b").await];
    let lamp = Uid(1);
    // The same device id, number, key, jti, policy name, secret name and config topic in both.
    for (at, registry) in both.iter().enumerate() {
        let payload = vec![u8::try_from(at).expect("two registries")];
        make_device(store, registry, "lamp", 1, &[1]).await;
        let jti = store.remember_jti(registry, lamp, timed(7, 1, NOW_S + 9), NOW_S).await;
        assert_eq!(jti.expect("remember_jti"), JtiOutcome::Fresh, "{registry}");
        let lasts = store.remember_jti(registry, lamp, lasting(8, 1), NOW_S).await;
        assert_eq!(lasts.expect("remember_jti"), JtiOutcome::Fresh, "{registry}");
        let source = format!("# {registry}");
        let revision =
            store.set_policy(registry, &policy_name("p"), &source, NOW_S, entry("policy.set")).await;
        assert_eq!(revision.expect("set_policy"), 1, "{registry}");
        let secret = store.secret_or_insert(registry, "issuer", payload.clone()).await;
        assert_eq!(secret.expect("secret_or_insert"), payload, "{registry}");
        let config = store.set_config(registry, lamp, payload.clone(), Some(0), 1, entry("config.set")).await;
        assert_eq!(config.expect("set_config"), SetConfig::Set { version: 1 }, "{registry}");
        let state = StateReport { payload, received_ms: 1 };
        store.add_state(registry, lamp, state).await.expect("add_state");
        let token = KeptToken { claims: format!("{{\"r\":{at}}}"), ..kept_token(1, lamp) };
        let added = store.add_token(registry, token, 1, NOW_S).await;
        assert_eq!(added.expect("add_token"), AddToken::Added, "{registry}");
    }
    let [a, b] = &both;
    for (at, registry) in both.iter().enumerate() {
        let payload = vec![u8::try_from(at).expect("two registries")];
        let config = store.config(registry, lamp).await.expect("config").expect("was set");
        assert_eq!(config.payload, payload, "{registry}");
        assert_eq!(store.secret(registry, "issuer").await.expect("secret"), Some(payload), "{registry}");
        let policy = store.policy(registry, &policy_name("p")).await.expect("policy").expect("was set");
        assert_eq!(policy.source, format!("# {registry}"));
        assert_eq!(known(store, registry, lamp).await.principal.registry, *registry);
        let token = store.token(registry, &[1; 32], NOW_S).await.expect("token").expect("was added");
        assert_eq!(token.claims, format!("{{\"r\":{at}}}"));
        assert_eq!(audit(store, registry).await.len(), 4, "{registry}");
    }

    // Blocking, retiring and deleting in one leaves the other as it was.
    let b_before = known(store, b, lamp).await;
    store
        .change_principal(a, lamp, PrincipalChange::Block, None, entry("e"))
        .await
        .expect("change_principal");
    store.remove_key(a, lamp, &kid(1), true, entry("e")).await.expect("remove_key");
    assert_eq!(store.end_token(a, &[1; 32], NOW_S).await.expect("end_token"), 1);
    assert!(store.delete_principal(a, lamp, entry("e")).await.expect("delete_principal"));
    assert!(store.token(b, &[1; 32], NOW_S).await.expect("token").is_some());
    assert_eq!(known(store, b, lamp).await, b_before);
    assert_eq!(store.known(a, &name("lamp")).await.expect("known"), None);
    assert_eq!(
        store.owner_of_key(b, &kid(1)).await.expect("owner_of_key"),
        Some((lamp, name("lamp"))),
        "the key of the other registry"
    );
    let seen = store.remember_jti(b, lamp, timed(7, 1, NOW_S + 9), NOW_S).await.expect("remember_jti");
    assert!(matches!(seen, JtiOutcome::Seen { .. }), "{seen:?}");
    let seen = store.remember_jti(b, lamp, lasting(8, 1), NOW_S).await.expect("remember_jti");
    assert!(matches!(seen, JtiOutcome::Seen { .. }), "{seen:?}");
    assert_eq!(store.states(b, lamp).await.expect("states").len(), 1);
    assert!(store.config(b, lamp).await.expect("config").is_some());
    assert_eq!((audit(store, a).await.len(), audit(store, b).await.len()), (7, 4));
}
