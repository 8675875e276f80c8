//! The way to the database: encrypted, to the right server, and never a password shown.

use drawbridge_registry::{Store, StoreError};
use drawbridge_registry_postgres::PostgresStore;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::cluster::{Cluster, PASSWORD, database_of, open};
use crate::records::*;

async fn refused(url: &str) -> StoreError {
    PostgresStore::open(url, "one").await.map(|_| ()).expect_err("must not open")
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_goes_to_the_server_that_the_authority_vouches_for_and_to_no_other() {
    let (ours, foreign) = (authority(), authority());
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &ours).expect("a certificate");
    let cluster = Cluster::new(&["fsync=off"]);
    cluster.write_file("server.pem", &certificate.pem());
    cluster.write_file("server.key", &key.serialize_pem());
    let url = cluster.database();
    let at = |host: &str, rest: &str| {
        format!("postgres://drawbridge:{PASSWORD}@{host}:{}/{}?{rest}", cluster.port, database_of(&url))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (ca, foreign_ca) = (file("ca.pem", &ours.pem()), file("foreign.pem", &foreign.pem()));
    let empty = file("empty.pem", "");

    // The server does not speak TLS yet: no password goes to it.
    let required = at("localhost", &format!("sslmode=require&sslrootcert={ca}"));
    let error = refused(&required).await;
    assert!(error.to_string().contains("TLS"), "{error}");

    cluster.sql("postgres", "ALTER SYSTEM SET ssl_cert_file = '../server.pem'");
    cluster.sql("postgres", "ALTER SYSTEM SET ssl_key_file = '../server.key'");
    cluster.sql("postgres", "ALTER SYSTEM SET ssl = on");
    cluster.stop();
    cluster.start();
    let store = open(&required).await;
    make_lamp(&store).await;
    assert!(store.known(&registry(), &name("lamp")).await.expect("known").is_some());
    let encrypted =
        "SELECT bool_and(s.ssl), min(s.version) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                     WHERE a.application_name = 'drawbridge one'";
    assert_eq!(cluster.sql(database_of(&url), encrypted), "t|TLSv1.3");
    for url in [
        at("localhost", &format!("sslmode=require&sslrootcert={foreign_ca}")),
        at("localhost", &format!("sslmode=verify-full&sslrootcert={foreign_ca}")),
        // The certificate is for another name.
        at("127.0.0.1", &format!("sslmode=require&sslrootcert={ca}")),
    ] {
        let error = refused(&url).await;
        assert!(matches!(error, StoreError::Unavailable(_)), "{url}: {error:?}");
        assert!(error.to_string().contains("certificate"), "{url}: {error}");
    }
    for rest in
        [format!("sslmode=require&sslrootcert={empty}"), "sslmode=require&sslrootcert=/no/file".into()]
    {
        let error = refused(&at("localhost", &rest)).await;
        assert!(matches!(error, StoreError::Address(_)), "{rest}: {error:?}");
    }
}

#[tokio::test]
async fn a_password_is_in_no_error_and_in_no_debug_text() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let store = open(&url).await;
    let place = store.hold_sole_server().await.expect("the place is free");
    let mut shown = vec![format!("{store:?} {place:?}")];
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = nowhere.local_addr().expect("it is bound").port();
    drop(nowhere);
    for url in [
        url.replace(PASSWORD, "wrong-sesame"),
        url.replace("drawbridge:", "nobody:"),
        url.replace(database_of(&url), "no_such_database"),
        cluster.tcp_url(&url).replace(&cluster.port.to_string(), &port.to_string()),
        cluster.tcp_url(&url).replace("127.0.0.1", "no-such-host.invalid"),
        format!("{}?sslmode=disable", cluster.tcp_url(&url).replace("127.0.0.1", "no-such-host.invalid")),
        format!("{url}?sslmode=require"),
        format!("{url}?search_path=x"),
        url.replace("postgres://", "postgres:"),
    ] {
        let error = refused(&url).await;
        shown.push(format!("{error} {error:?}"));
    }
    for text in shown {
        assert!(!text.contains(PASSWORD) && !text.contains("sesame"), "{text}");
    }
    // Nor does the server get to see it: the exchange is SCRAM.
    assert!(!cluster.log().contains(PASSWORD));
}

#[tokio::test]
async fn a_standby_is_refused() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let database = database_of(&url);
    cluster.sql("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    let error = refused(&url).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_commit_is_on_disk_before_it_is_answered_whatever_the_database_is_set_to() {
    let cluster = Cluster::shared();
    for (set, expected) in [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")] {
        let url = cluster.database();
        let database = database_of(&url);
        cluster.sql("postgres", &format!("ALTER DATABASE {database} SET synchronous_commit = {set}"));
        cluster.sql(
            database,
            "CREATE TABLE public.seen (how TEXT);
             CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$",
        );
        let store = open(&url).await;
        cluster.sql(
            database,
            "CREATE TRIGGER look BEFORE INSERT ON drawbridge.audit FOR EACH ROW EXECUTE FUNCTION public.look()",
        );
        make_registry(&store).await;
        assert_eq!(cluster.sql(database, "SELECT DISTINCT how FROM public.seen"), expected);
    }
}

#[tokio::test]
async fn a_url_over_tcp_and_one_over_a_unix_socket_lead_to_the_same_registry() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    make_lamp(&open(&url).await).await;
    let over_tcp = open(&cluster.tcp_url(&url)).await;
    assert!(over_tcp.known(&registry(), &name("lamp")).await.expect("known").is_some());
}
