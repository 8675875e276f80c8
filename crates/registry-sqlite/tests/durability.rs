//! What was answered is on disk: across restart, across a kill, and in the picture a power cut leaves.

mod records;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use drawbridge_names::{PolicyName, Uid};
use drawbridge_registry::audit::{continues, verify_chain};
use drawbridge_registry::{
    AddToken, Ca, Enrol, JtiMark, JtiOutcome, KeptToken, KeyRotation, Link, Principal, PrincipalChange,
    RotateKey, StateReport, Store, TokenUse,
};
use records::*;

#[tokio::test]
async fn a_store_that_is_opened_again_has_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let policy = PolicyName::parse("device").expect("a policy name");
    let picture = async |store: &dyn Store| {
        (
            store.registries().await.expect("registries"),
            store.principals(&registry(), None, None, 99).await.expect("principals"),
            store.policies(&registry()).await.expect("policies"),
            store.secret(&registry(), "issuer").await.expect("secret"),
            store.configs(&registry(), None, 99).await.expect("configs"),
            store.states(&registry(), Uid(1)).await.expect("states"),
            (
                store.enrolments(&registry()).await.expect("enrolments"),
                store.enrolled(&registry(), Some("e"), true, None, 99).await.expect("enrolled"),
                store.linked(&registry(), Uid(1), Uid(2)).await.expect("linked"),
                store.cas(&registry()).await.expect("cas"),
                store.token(&registry(), &token(1).digest, NOW_S).await.expect("token"),
                store.token(&registry(), &token(2).digest, NOW_S).await.expect("token"),
                store.revoked_jtis(&registry(), NOW_S).await.expect("revoked_jtis"),
            ),
            store.audit_heads(&registry()).await.expect("audit_heads"),
            store.audit_tail(&registry(), None, 99).await.expect("audit_tail"),
        )
    };
    let store = open(&path);
    make_lamp(&store).await;
    let attributes = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
    for change in [
        PrincipalChange::Attributes(attributes),
        PrincipalChange::Policy(Some(policy.clone())),
        PrincipalChange::Revoke { not_before_s: NOW_S },
    ] {
        store
            .change_principal(&registry(), Uid(1), change, None, entry("e"))
            .await
            .expect("change_principal");
    }
    store.add_key(&registry(), Uid(1), key(2), 5, entry("key.add")).await.expect("add_key");
    store.set_policy(&registry(), &policy, "[[allow]]", NOW_S, entry("e")).await.expect("set_policy");
    store.secret_or_insert(&registry(), "issuer", vec![1, 2, 3]).await.expect("secret_or_insert");
    store.set_config(&registry(), Uid(1), vec![9], None, 5, entry("e")).await.expect("set_config");
    let state = StateReport { payload: vec![8], received_ms: 6 };
    store.add_state(&registry(), Uid(1), state).await.expect("add_state");
    store.touch_keys(&registry(), vec![(kid(1), NOW_S)]).await.expect("touch_keys");
    store.add_enrolment(&registry(), enrolment("e"), entry("e")).await.expect("add_enrolment");
    let pump = Principal { pending: true, ..device("pump", 2) };
    let enrolled = store.enrol(&registry(), "e", pump, vec![key(3)], NOW_S, entry("e")).await;
    assert_eq!(enrolled.expect("enrol"), Enrol::Enrolled);
    let linked = store.link(&registry(), Uid(1), Uid(2), true, entry("e")).await;
    assert_eq!(linked.expect("link"), Link::Changed);
    let ca = Ca { fingerprint: [1; 32], der: vec![1], label: None, added_s: NOW_S };
    assert!(store.add_ca(&registry(), ca, entry("e")).await.expect("add_ca"));
    let added = store.add_token(&registry(), token(1), 9, NOW_S).await.expect("add_token");
    assert_eq!(added, AddToken::Added);
    let successor = KeptToken { family: token(1).family, generation: 1, ..token(2) };
    let renewed = store.renew_token(&registry(), &token(1).digest, successor, NOW_S + 60, NOW_S).await;
    assert!(matches!(renewed, Ok(TokenUse::Good(_))), "{renewed:?}");
    store.revoke_jti(&registry(), [7; 16], NOW_S + 9).await.expect("revoke_jti");
    let before = picture(&store).await;
    assert_eq!(before.8.len(), 12);
    assert!(before.6.4.as_ref().is_some_and(|old| old.renewed) && before.6.5.is_some());
    store.close();
    assert!(!path.with_extension("db-wal").exists(), "a closed store is one file");

    let store = open(&path);
    assert_eq!(picture(&store).await, before);
    // The chain goes on where it was.
    store.record(&registry(), entry("command.send")).await.expect("record");
    let mut rows = store.audit_tail(&registry(), None, 99).await.expect("audit_tail");
    rows.reverse();
    assert_eq!(rows.len(), 13);
    continues(&rows[11..], &registry(), &before.7[0]).expect("the head noted before is there");
    verify_chain(&rows).expect("the chain holds");
    // A deleted number stays spent.
    assert!(store.delete_principal(&registry(), Uid(1), entry("e")).await.expect("delete_principal"));
    drop(store);
    let store = open(&path);
    let again = store.add_principal(device("lamp", 1), vec![], entry("e")).await.expect("add_principal");
    assert_eq!(again, drawbridge_registry::AddPrincipal::UidTaken);
}

#[tokio::test]
async fn i7_a_jti_is_used_once_also_across_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let timed = JtiMark { until_s: Some(NOW_S + 300), ..mark(1) };
    let update = || KeyRotation {
        old: kid(1),
        new: key(2),
        old_expires_s: Some(NOW_S + 3600),
        mark: mark(3),
        active_max: 5,
    };
    let store = open(&path);
    make_lamp(&store).await;
    for mark in [timed.clone(), mark(2)] {
        let outcome = store.remember_jti(&registry(), Uid(1), mark, NOW_S).await.expect("remember_jti");
        assert_eq!(outcome, JtiOutcome::Fresh);
    }
    let rotated = store.rotate_key(&registry(), Uid(1), update(), NOW_S, entry("key.rotate")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::Rotated);
    for ending in ["closed", "dropped"] {
        let store = open(&path);
        for mark in [timed.clone(), mark(2), mark(3)] {
            let seen = JtiOutcome::Seen { token_digest: mark.token_digest };
            let outcome = store.remember_jti(&registry(), Uid(1), mark, NOW_S + 299).await;
            assert_eq!(outcome.expect("remember_jti"), seen, "{ending}");
        }
        let again = store.rotate_key(&registry(), Uid(1), update(), NOW_S, entry("key.rotate")).await;
        let seen = RotateKey::Seen { token_digest: mark(3).token_digest };
        assert_eq!(again.expect("rotate_key"), seen, "{ending}");
        if ending == "closed" {
            store.close();
        }
    }
    // The limit counts what was remembered before the restart.
    let full = JtiMark { live_max: 2, ..mark(4) };
    let store = open(&path);
    let outcome = store.remember_jti(&registry(), Uid(1), full, NOW_S).await.expect("remember_jti");
    assert_eq!(outcome, JtiOutcome::Full);
}

/// Run by the test below in a process of its own, which never ends by itself.
#[tokio::test]
#[ignore = "the victim of the test that kills it"]
async fn victim() {
    let Some(path) = std::env::var_os("DRAWBRIDGE_TEST_VICTIM") else { return };
    let store = open(Path::new(&path));
    make_lamp(&store).await;
    for number in 0.. {
        let outcome = store.remember_jti(&registry(), Uid(1), mark(number), NOW_S).await;
        assert_eq!(outcome.expect("remember_jti"), JtiOutcome::Fresh);
        let added = store.add_token(&registry(), token(number), usize::MAX, NOW_S).await;
        assert_eq!(added.expect("add_token"), AddToken::Added);
        store.record(&registry(), entry("command.send")).await.expect("record");
        println!("\nremembered {number}");
    }
}

#[tokio::test]
async fn i7_what_was_answered_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let this_program = std::env::current_exe().expect("the path of this program");
    let mut child = Command::new(this_program)
        .args(["--ignored", "--exact", "victim", "--nocapture"])
        .env("DRAWBRIDGE_TEST_VICTIM", &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program can be run again");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut last: Option<u64> = None;
    let mut read = |lines: &mut dyn Iterator<Item = std::io::Result<String>>, until: u64| {
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("remembered ").and_then(|n| n.parse().ok()) {
                last = Some(number);
                if number == until {
                    break;
                }
            }
        }
        last
    };
    assert_eq!(read(&mut lines, 50), Some(50), "the victim ended by itself");
    child.kill().expect("the child can be killed");
    let answered = read(&mut lines, u64::MAX).expect("at least 50"); // what was still in the pipe
    child.wait().expect("it has ended");
    assert!(path.with_extension("db-wal").exists(), "it was killed with its log open");

    let store = open(&path);
    for number in 0..=answered {
        let outcome = store.remember_jti(&registry(), Uid(1), mark(number), NOW_S).await;
        let seen = JtiOutcome::Seen { token_digest: mark(number).token_digest };
        assert_eq!(
            outcome.expect("remember_jti"),
            seen,
            "{number} of {answered} was answered, then forgotten"
        );
        let kept = store.token(&registry(), &token(number).digest, NOW_S).await.expect("token");
        assert_eq!(kept, Some(token(number)), "{number} of {answered} was answered, then forgotten");
    }
    let mut rows = store.audit_tail(&registry(), None, usize::MAX).await.expect("audit_tail");
    rows.reverse();
    assert!(rows.len() as u64 > answered + 2, "{} rows", rows.len());
    verify_chain(&rows).expect("the chain holds");
}

/// Copies the file and its log as they are on disk at this moment, the log without its last bytes.
fn crash_image(from: &Path, to: &Path, cut_bytes: usize) {
    std::fs::copy(from, to).expect("the file is copied");
    let mut log = std::fs::read(from.with_extension("db-wal")).expect("there is a log");
    log.truncate(log.len() - cut_bytes);
    std::fs::write(to.with_extension("db-wal"), log).expect("the log is copied");
}

#[tokio::test]
async fn a_store_that_was_not_closed_is_whole_when_opened_again_also_with_a_torn_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    for number in 0..20 {
        store.remember_jti(&registry(), Uid(1), mark(number), NOW_S).await.expect("remember_jti");
        store.record(&registry(), entry("command.send")).await.expect("record");
    }
    let (mut whole, mut shorter) = (0, 0);
    for (at, cut_bytes) in [0, 1, 100, 4120, 5000, 30_000].into_iter().enumerate() {
        let image = folder.path().join(format!("image{at}.db"));
        crash_image(&path, &image, cut_bytes);
        let store = open(&image);
        let mut rows = store.audit_tail(&registry(), None, 99).await.expect("audit_tail");
        rows.reverse();
        verify_chain(&rows).expect("the chain holds");
        // Row 3 + n was written after jti n was remembered: none may be known without the other.
        let commands = rows.len() as u64 - 2;
        for number in 0..commands {
            let outcome = store.remember_jti(&registry(), Uid(1), mark(number), NOW_S).await;
            assert!(matches!(outcome.expect("remember_jti"), JtiOutcome::Seen { .. }), "cut {cut_bytes}");
        }
        if commands == 20 {
            whole += 1
        } else {
            shorter += 1
        }
        // It goes on working.
        store.record(&registry(), entry("command.send")).await.expect("record");
    }
    // Nothing cut, nothing lost; a torn end loses the last commits, never the store.
    assert!(whole >= 1 && shorter >= 2, "{whole} whole, {shorter} shorter");
}
