//! `drawbridge pub`, `drawbridge sub` and `drawbridge device run`: clients that log in by any way.

use std::fs;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use drawbridge_device::{
    AceProof, ClientCertificate, ClientOptions, DeviceClient, DeviceError, DeviceIdentity, Endpoint, Event,
    Host, Incoming, KeyLogin, ProtocolVersion, PublicKey, Qos, Tls, Token, TokenSource, Way, now_s,
    random_id,
};
use serde_json::json;

use crate::args::{ClientArgs, Common, LoginMethod, MqttVersion, PubArgs, RunArgs, SubArgs};
use crate::{Endpoints, Failure, files, output};

/// How long a connection may take, and how long what was published may take to be acknowledged.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn publish(common: &Common, args: &PubArgs) -> Result<(), Failure> {
    let (topic, payloads) = what_to_publish(args)?;
    let qos = qos(args.qos);
    let (client, name) = start(common, &args.client, "pub", 0)?;
    let mut count = 0u64;
    let mut send = |payload: &[u8]| -> Result<(), Failure> {
        let delivery = loop {
            let put = if args.retain { DeviceClient::publish_retained } else { DeviceClient::publish };
            match put(&client, &topic, payload, qos) {
                // Standard input is faster than the server.
                Err(DeviceError::QueueFull { .. }) => std::thread::sleep(Duration::from_millis(5)),
                other => break other?,
            }
        };
        count += 1;
        // One by one would cost a round trip each; what is refused is found at the end.
        if args.stdin_line { Ok(()) } else { Ok(delivery.wait(PATIENCE)?) }
    };
    match payloads {
        Payloads::One(payload) => send(&payload)?,
        Payloads::Lines => {
            for line in std::io::stdin().lock().split(b'\n') {
                send(&line.map_err(|e| Failure::Usage(format!("standard input: {e}")))?)?;
            }
        }
    }
    let left = client.stop(PATIENCE);
    if left > 0 {
        return Err(Failure::Unavailable(format!("{left} of {count} messages were not acknowledged")));
    }
    if common.json {
        let retain = args.retain;
        output::json(&json!({
            "published": true, "topic": topic, "as": name, "retain": retain, "count": count,
        }));
        return Ok(());
    }
    say!("published {topic} as {name}");
    let filter = format!("devices/{name}/commands/#");
    match &args.client.identity {
        Some(folder) => {
            output::next_with_identity(common, &["sub", &filter, "--as", &folder.to_string_lossy()])
        }
        None => output::next_with_identity(common, &["sub", "--help"]),
    }
    Ok(())
}

enum Payloads {
    One(Vec<u8>),
    Lines,
}

fn what_to_publish(args: &PubArgs) -> Result<(String, Payloads), Failure> {
    let PubArgs { topic, payload, topic_flag, message, file, stdin_line, stdin_file, null_message, .. } =
        args;
    // With -t the one word is the payload.
    let (topic, word) = match (topic_flag, topic, payload) {
        (Some(_), Some(_), Some(_)) => {
            return Err(Failure::Usage("the topic is given twice: as a word and with -t".to_owned()));
        }
        (Some(flag), word, None) => (flag.clone(), word.clone()),
        (Some(flag), None, word) => (flag.clone(), word.clone()),
        (None, Some(topic), word) => (topic.clone(), word.clone()),
        (None, None, _) => {
            return Err(Failure::Usage("no topic; give it as the first word, or with -t".to_owned()));
        }
    };
    let given = [word.is_some(), message.is_some(), file.is_some(), *stdin_line, *stdin_file, *null_message];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => {
            return Err(Failure::Usage(
                "no payload; give it as a word or with -m, or say where it is: -f FILE, -l, -s, or -n for none"
                    .to_owned(),
            ));
        }
        _ => {
            return Err(Failure::Usage(
                "more than one payload is given; wanted one of a word, -m, -f, -l, -s, -n".to_owned(),
            ));
        }
    }
    let payloads = if *stdin_line {
        Payloads::Lines
    } else if *stdin_file {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::Usage(format!("standard input: {e}")))?;
        Payloads::One(bytes)
    } else if let Some(path) = file {
        Payloads::One(files::read(path, "wanted the payload")?)
    } else {
        Payloads::One(word.or_else(|| message.clone()).unwrap_or_default().into_bytes())
    };
    Ok((topic, payloads))
}

pub(crate) fn subscribe(common: &Common, args: &SubArgs) -> Result<(), Failure> {
    let filters: Vec<&String> = args.filter.iter().chain(&args.topics).collect();
    if filters.is_empty() {
        return Err(Failure::Usage("no topic filter; give it as a word, or with -t".to_owned()));
    }
    let (client, name) = start(common, &args.client, "sub", args.session_expiry_s)?;
    let (sender, messages) = std::sync::mpsc::channel();
    for filter in filters {
        let subscription = client.subscribe(filter, qos(args.qos))?;
        subscription.granted(PATIENCE)?;
        let sender = sender.clone();
        // The receiver may be gone when enough has come; then nothing is acknowledged that was not printed.
        std::thread::spawn(move || {
            subscription.into_iter().try_for_each(|message| sender.send(message).map_err(drop))
        });
    }
    drop(sender);
    let events = client.events();
    let mut received = 0;
    while args.count == 0 || received < args.count {
        let message = match args.wait_s {
            Some(wait_s) => match messages.recv_timeout(Duration::from_secs(wait_s)) {
                Ok(message) => message,
                Err(_) => break,
            },
            None => match messages.recv_timeout(Duration::from_secs(1)) {
                Ok(message) => message,
                Err(_) => {
                    tell(common, &events, true);
                    continue;
                }
            },
        };
        received += 1;
        if !printed(common, &message) {
            break; // nobody reads on
        }
    }
    drop(messages);
    let _ = client.stop(Duration::from_secs(2)); // nothing was published
    let topic = format!("devices/{name}/events/test");
    match &args.client.identity {
        Some(folder) => {
            let folder = folder.to_string_lossy();
            output::next_beside_product(common, false, &["pub", &topic, "hello", "--as", &folder], "");
        }
        None => output::next_beside_product(common, false, &["pub", "--help"], ""),
    }
    Ok(())
}

fn printed(common: &Common, message: &Incoming) -> bool {
    let text = String::from_utf8_lossy(&message.payload);
    if common.json {
        let line = json!({ "topic": message.topic, "payload": text, "retain": message.retain });
        say!("{line}")
    } else {
        say!("{} {text}", message.topic)
    }
}

/// Says what has happened to the connection since; on stderr where stdout is the product.
fn tell(common: &Common, events: &Receiver<Event>, beside_product: bool) {
    for event in events.try_iter() {
        let (word, text) = match event {
            Event::Connected { client_id, .. } => ("connected", format!("as {client_id}")),
            Event::Disconnected { why, retry_in, .. } => {
                ("disconnected", format!("{why}; again in {:.1} s", retry_in.as_secs_f64()))
            }
            Event::Renewed { life: Some(life), .. } => ("renewed", format!("for {} s", life.as_secs())),
            Event::Renewed { .. } => ("renewed", String::new()),
            Event::RenewalFailed { why } => ("not-renewed", why),
            Event::Dropped { messages } => ("dropped", format!("{messages} messages, for newer ones")),
            Event::SubscriptionRefused { filter, why, .. } => ("refused", format!("{filter}: {why}")),
        };
        if beside_product {
            eprintln!("{word} {text}");
        } else if common.json {
            say!("{}", json!({ "event": word, "text": text }));
        } else {
            say!("{word} {text}");
        }
    }
}

/// `drawbridge device run`.
pub(crate) fn run(common: &Common, args: &RunArgs) -> Result<(), Failure> {
    let id = &args.id;
    let mut client_args = args.client.clone();
    let folder = client_args.identity.clone().unwrap_or_else(|| Path::new(".").join(id));
    client_args.identity = Some(folder.clone());
    let identity = identity_of(id, &folder)?;
    client_args.client_id.get_or_insert_with(|| id.clone());
    let (client, _) = start(common, &client_args, "", 3600)?;
    if !common.json {
        say!("{id} is connected to {}", identity.mqtts);
    }
    let events = client.events();
    for subscription in [client.commands()?, client.config()?] {
        subscription.granted(PATIENCE)?;
        let (common, client) = (common.clone(), client.clone());
        std::thread::spawn(move || {
            for message in subscription {
                told(&common, "received", &message.topic, &String::from_utf8_lossy(&message.payload));
                // Dropped behind the report, the message is acknowledged: who sent it knows that it was done.
                let _ = client.report_state(&message.payload); // a full queue is told by what is published below
            }
        });
    }
    let topic = format!("devices/{id}/events/report");
    if args.stdin_line {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|e| Failure::Usage(format!("standard input: {e}")))?;
            match line.strip_prefix("/state ") {
                Some(state) => {
                    client.report_state(state.as_bytes())?;
                    told(common, "published", &format!("devices/{id}/state"), state);
                }
                None => {
                    client.publish(&topic, line.as_bytes(), Qos::AtLeastOnce)?;
                    told(common, "published", &topic, &line);
                }
            }
            tell(common, &events, false);
        }
        return finish(common, &client, id, &folder);
    }
    let run = random_id();
    let mut sent = 0;
    loop {
        sent += 1;
        let payload = json!({ "run": run, "report": sent }).to_string();
        let delivery = client.publish(&topic, payload.as_bytes(), Qos::AtLeastOnce)?;
        if args.count != 0 {
            delivery.wait(PATIENCE)?;
        }
        told(common, "published", &topic, &payload);
        if args.count != 0 && sent >= args.count {
            return finish(common, &client, id, &folder);
        }
        for _ in 0..args.every.max(1) {
            std::thread::sleep(Duration::from_secs(1));
            tell(common, &events, false);
        }
    }
}

/// The identity in a folder, if it is this one's.
fn identity_of(id: &str, folder: &Path) -> Result<DeviceIdentity, Failure> {
    let identity = DeviceIdentity::load(folder)?;
    if identity.device == id {
        return Ok(identity);
    }
    Err(Failure::Usage(format!(
        "{} is the identity of `{}`, not of `{id}`; name its folder with --as",
        folder.display(),
        identity.device
    )))
}

/// `drawbridge device refresh`.
pub(crate) fn refresh(
    common: &Common,
    id: &str,
    folder: Option<&Path>,
    client_id: Option<&str>,
) -> Result<(), Failure> {
    let folder = folder.map_or_else(|| Path::new(".").join(id), Path::to_owned);
    let identity = identity_of(id, &folder)?;
    let KeyLogin { device, issuer, key, api, .. } =
        ClientOptions::of(identity)?.login.expect("`of` gives one");
    let api = api.expect("`of` gives one");
    let answer = api.refresh_sessions(&device, &issuer, client_id, key.as_ref())?.json();
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    let sessions = answer["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if sessions.is_empty() {
        say!("no session of {id} is open");
    }
    for session in sessions {
        let text = |member: &str| session[member].as_str().unwrap_or("never").to_owned();
        say!("renewed {} until {}", text("client_id"), text("expires"));
        for filter in session["removed"].as_array().into_iter().flatten().filter_map(|filter| filter.as_str())
        {
            say!("  cut {filter}");
        }
        if session["will_dropped"] == true {
            say!("  will dropped");
        }
    }
    output::next(common, &["device", "show", id]);
    Ok(())
}

fn finish(common: &Common, client: &DeviceClient, id: &str, folder: &Path) -> Result<(), Failure> {
    let left = client.stop(PATIENCE);
    if left > 0 {
        return Err(Failure::Unavailable(format!("{left} messages were not acknowledged")));
    }
    let topic = format!("devices/{id}/commands/#");
    output::next_with_identity(common, &["sub", &topic, "--as", &folder.to_string_lossy()]);
    Ok(())
}

/// One message that a device sent or got, on a line of its own.
fn told(common: &Common, what: &str, topic: &str, payload: &str) {
    if common.json {
        say!("{}", json!({ "event": what, "topic": topic, "payload": payload }));
    } else {
        say!("{what} {topic} {payload}");
    }
}

/// A connected client, and as whom. `what` ends its client id: a device may use `<its id>:<anything>`, so that these
/// tools do not look like the device itself; it still has one live session, and the newer wins.
fn start(
    common: &Common,
    args: &ClientArgs,
    what: &str,
    session_expiry_s: u32,
) -> Result<(DeviceClient, String), Failure> {
    let mut options = options(common, args)?;
    let name = options.client_id.clone();
    options.client_id = match &args.client_id {
        Some(id) => id.clone(),
        None => format!("{name}:{what}"),
    };
    options.session_expiry_s = session_expiry_s;
    options.resume = session_expiry_s > 0 && what == "sub";
    let client = DeviceClient::start(options)?;
    client.connected(PATIENCE)?;
    Ok((client, name))
}

fn options(common: &Common, args: &ClientArgs) -> Result<ClientOptions, Failure> {
    if args.symmetric && !matches!(args.method, Some(LoginMethod::Ace | LoginMethod::AceChallenge)) {
        return Err(Failure::Usage(
            "--symmetric is a key of RFC 9431; give it with --method ace or ace-challenge".to_owned(),
        ));
    }
    let identity = args.identity.as_deref().map(DeviceIdentity::load).transpose()?;
    let ca_pem = match (&common.ca, &identity) {
        (Some(path), _) => Some(text(path, "wanted the server's root certificate in PEM")?),
        (None, Some(identity)) => Some(identity.ca_pem.clone()),
        (None, None) => fs::read_to_string(common.data.join("ca.pem")).ok(),
    };
    let server_key = match &args.raw_key {
        Some(path) => {
            let pem = text(path, "wanted the server's public key in PEM, its `raw-key.pub.pem`")?;
            let key = PublicKey::from_pem(&pem).map_err(|e| {
                Failure::Usage(format!("{}: {e}; wanted the server's `raw-key.pub.pem`", path.display()))
            })?;
            Some(key)
        }
        None => None,
    };
    // A raw key needs no root.
    let ca_pem = ca_pem.or_else(|| server_key.as_ref().map(|_| String::new()));
    let ca_pem = ca_pem.ok_or_else(|| {
        Failure::Usage(
            "no root certificate to know the server by; give --as DIR, --ca FILE, or the server's folder with --data"
                .to_owned(),
        )
    })?;
    let server = server(common, args, identity.as_ref())?;
    let websocket = args.ws.then(|| match common.registry.as_str() {
        crate::args::DEFAULT_REGISTRY => "/mqtt".to_owned(),
        registry => format!("/r/{registry}/mqtt"),
    });
    let mut tls = match &server_key {
        Some(key) => Tls::with_raw_key(key),
        None => Tls::with_roots(ca_pem),
    };
    tls.only_1_2 = args.tls_1_2;
    let certificate_given = args.cert.is_some() || args.self_signed || args.raw_key.is_some();
    let mut options = match identity {
        Some(identity) => {
            let mut options = ClientOptions::of(identity)?;
            let login = options.login.as_mut().expect("`of` gives one");
            login.folder.clone_from(&args.identity);
            let login = login.clone();
            if args.raw_key.is_some() {
                tls.certificate = Some(ClientCertificate::raw_key(Arc::clone(&login.key))?);
            }
            if args.self_signed {
                tls.certificate = Some(ClientCertificate::self_signed(&login.device, login.key, &Host)?);
            }
            options
        }
        None if args.self_signed || args.raw_key.is_some() => {
            return Err(Failure::Usage(
                "--self-signed and --raw-key need the key of an identity; give --as DIR".to_owned(),
            ));
        }
        None => {
            let endpoint = Endpoint { server: String::new(), tls: None, websocket: None };
            let name = args.username.clone().or_else(|| args.client_id.clone());
            ClientOptions::new(endpoint, name.unwrap_or_else(|| format!("drawbridge-{}", random_id())))
        }
    };
    if let (Some(chain), Some(key)) = (&args.cert, &args.key) {
        tls.certificate = Some(ClientCertificate::load(chain, key)?);
    }
    options.endpoint = Endpoint { server, tls: Some(tls), websocket };
    options.version = match args.mqtt_version {
        MqttVersion::V311 => ProtocolVersion::V311,
        MqttVersion::V5 => ProtocolVersion::V5,
    };
    options.keep_alive_s = args.keep_alive_s;
    let ace = |proof| match args.symmetric {
        true => (Way::Ace(proof), TokenSource::AceSymmetric { scope: None }),
        false => (Way::Ace(proof), TokenSource::AceToken { scope: None }),
    };
    let own_jwt = || TokenSource::DeviceJwt { life_s: args.life_s, bound: args.bound };
    let password = match &args.password_file {
        Some(path) => {
            let text = text(path, "wanted the password, one line")?;
            Some(text.trim_end_matches(['\r', '\n']).as_bytes().to_vec())
        }
        None => None,
    };
    (options.way, options.tokens) = match (&args.method, password) {
        (Some(_), Some(_)) => {
            return Err(Failure::Usage(
                "--method presents a token, --password-file a password; wanted one".to_owned(),
            ));
        }
        (None, Some(password)) => {
            let user_name = args.username.clone().unwrap_or_else(|| options.client_id.clone());
            (Way::Password { user_name, password }, own_jwt())
        }
        (Some(LoginMethod::Ace), None) => ace(AceProof::Exporter),
        (Some(LoginMethod::AceChallenge), None) => ace(AceProof::Challenge),
        (Some(LoginMethod::Oauth2Jwt), None) => (Way::Method("OAUTH2-JWT".to_owned()), own_jwt()),
        (Some(LoginMethod::CustomJwt), None) => (Way::Method("CUSTOM-JWT".to_owned()), own_jwt()),
        (Some(LoginMethod::Certificate), None) => (Way::Certificate, own_jwt()),
        (Some(LoginMethod::AccessToken), None) => {
            (Way::Token, TokenSource::AccessToken { scope: None, bound: false })
        }
        (None, None) if certificate_given && common.token_file.is_none() => (Way::Certificate, own_jwt()),
        (Some(LoginMethod::Token) | None, None) => (Way::Token, own_jwt()),
    };
    if let Some(path) = &common.token_file {
        options.tokens = from_file(path);
    }
    let signs = !matches!(options.tokens, TokenSource::From(_));
    if options.login.is_none() && signs && !matches!(options.way, Way::Password { .. } | Way::Certificate) {
        return Err(Failure::Usage(
            "nothing to log in with; give an identity folder (--as DIR), a token (--token-file FILE), a password \
             (--username NAME --password-file FILE) or a certificate (--cert FILE --key FILE)"
                .to_owned(),
        ));
    }
    Ok(options)
}

/// Where MQTT is: as said, or as the identity or the data folder knows it.
fn server(common: &Common, args: &ClientArgs, identity: Option<&DeviceIdentity>) -> Result<String, Failure> {
    if let Some(server) = &args.mqtts {
        return Ok(server.clone());
    }
    if let Some(identity) = identity {
        return Ok(if args.ws { identity.https.clone() } else { identity.mqtts.clone() });
    }
    let path = common.data.join("endpoints.json");
    let text = fs::read_to_string(&path).map_err(|e| {
        Failure::Usage(format!("{}: {e}; say where the server is with --mqtts HOST:PORT", path.display()))
    })?;
    let endpoints: Endpoints = serde_json::from_str(&text).map_err(|e| {
        Failure::Usage(format!("{}: {e}; restart the server to write it anew", path.display()))
    })?;
    Ok(if args.ws { endpoints.https } else { endpoints.mqtts })
}

/// A token that another program keeps fresh in a file: it is read for each connection and for each renewal.
fn from_file(path: &Path) -> TokenSource {
    let path = path.to_owned();
    TokenSource::From(Arc::new(move || {
        let text = fs::read_to_string(&path).map_err(|e| DeviceError::File {
            path: path.clone(),
            why: format!("{e}; wanted a token, one line"),
        })?;
        Ok(Token::of_text(text.trim(), now_s()))
    }))
}

fn text(path: &Path, wanted: &str) -> Result<String, Failure> {
    String::from_utf8(files::read(path, wanted)?)
        .map_err(|_| Failure::Usage(format!("{}: not text; {wanted}", path.display())))
}

fn qos(number: u8) -> Qos {
    Qos::from_bits(number).expect("the command line takes 0 to 2")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{Cli, Command};

    /// What a line of `pub` would publish: topic and payload, or the complaint.
    fn publishes(line: &[&str]) -> Result<(String, Option<String>), String> {
        let words = ["drawbridge", "pub"].iter().chain(line);
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        let Command::Pub(args) = cli.command else { unreachable!("it is `pub`") };
        match what_to_publish(&args).map_err(|e| e.to_string())? {
            (topic, Payloads::Lines) => Ok((topic, None)),
            (topic, Payloads::One(payload)) => {
                Ok((topic, Some(String::from_utf8(payload).expect("the table has text"))))
            }
        }
    }

    #[test]
    fn pub_takes_words_and_the_flags_of_mosquitto_and_one_payload() {
        let one = |topic: &str, payload: &str| Ok((topic.to_owned(), Some(payload.to_owned())));
        let good = [
            (&["a/b", "hi"][..], one("a/b", "hi")),
            (&["-t", "a/b", "-m", "-1"], one("a/b", "-1")),
            (&["-t", "a/b", "hi"], one("a/b", "hi")),
            (&["a/b", "-m", "hi"], one("a/b", "hi")),
            (&["-t", "a/b", "-n", "-r"], one("a/b", "")),
            (&["-t", "a/b", "-l", "-q", "2"], Ok(("a/b".to_owned(), None))),
        ];
        for (line, wanted) in good {
            assert_eq!(publishes(line), wanted, "{line:?}");
        }
        let bad = [
            (&[][..], "no topic"),
            (&["-m", "hi"], "no topic"),
            (&["a/b"], "no payload"),
            (&["a/b", "hi", "-t", "c"], "twice"),
            (&["a/b", "hi", "-m", "ho"], "more than one payload"),
            (&["a/b", "-l", "-n"], "more than one payload"),
            (&["a/b", "hi", "-q", "3"], "3"),
            (&["a/b", "hi", "--cert", "c.pem"], "--key"),
            (&["a/b", "hi", "-u", "lamp"], "--password-file"),
        ];
        for (line, why) in bad {
            let complaint = publishes(line).expect_err("refused");
            assert!(complaint.contains(why), "{line:?}: {complaint}");
        }
    }

    #[test]
    fn a_client_without_anything_to_log_in_with_is_told_what_there_is() {
        let place = std::env::temp_dir().join(format!("drawbridge-session-{}", std::process::id()));
        fs::create_dir_all(&place).expect("a folder");
        fs::write(place.join("ca.pem"), "no certificate").expect("written");
        let data = place.to_string_lossy().into_owned();
        let told = |line: &[&str]| {
            let words = ["drawbridge", "--data", &data, "pub", "a", "b", "--mqtts", "localhost:1"];
            let cli = Cli::try_parse_from(words.iter().chain(line)).expect("parses");
            let Command::Pub(args) = &cli.command else { unreachable!("it is `pub`") };
            options(&cli.common, &args.client)
                .map(|options| format!("{:?}", options.way))
                .map_err(|e| e.to_string())
        };
        let nothing = told(&[]).expect_err("nothing");
        for way in ["--as", "--token-file", "--password-file", "--cert"] {
            assert!(nothing.contains(way), "{nothing}");
        }
        assert!(told(&["--self-signed"]).expect_err("no key").contains("--as"));
        assert!(told(&["--raw-key", "no.pem"]).expect_err("no file").contains("raw-key.pub.pem"));
        assert!(told(&["--symmetric", "--method", "token"]).expect_err("no ace").contains("--method ace"));
        assert!(told(&["--cert", "no.pem", "--key", "no.key"]).expect_err("no file").contains("no.pem"));
        assert_eq!(told(&["--token-file", "later.jwt"]), Ok("Token".to_owned()));
        assert_eq!(
            told(&["--token-file", "x", "--method", "custom-jwt"]),
            Ok("Method(CUSTOM-JWT)".to_owned())
        );
        fs::remove_dir_all(&place).expect("removed");
    }
}
