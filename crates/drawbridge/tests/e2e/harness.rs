//! Starts and stops a server, and talks to it as its operator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use drawbridge_cli::Endpoints;
use drawbridge_device::{ApiClient, DeviceError, DeviceIdentity, MqttClient, MqttOptions};
use drawbridge_jose::{Sign, sign_compact};
use serde_json::{Value, json};

/// The binary under test.
pub(crate) const DRAWBRIDGE: &str = env!("CARGO_BIN_EXE_drawbridge");

/// A running server with a data folder of its own; stopped and removed when dropped.
pub(crate) struct Core {
    child: Option<Child>,
    place: tempfile::TempDir,
    args: Vec<String>,
    /// Variables of its environment, beside those of the tests.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
    pub(crate) endpoints: Endpoints,
}

impl Core {
    /// A server on ports of the system's choice.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments of `serve`.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let mut core = Self::prepared(args);
        core.run();
        core
    }

    /// The same, not started yet; `run_again` does that.
    pub(crate) fn prepared(args: &[&str]) -> Self {
        let place = tempfile::tempdir().expect("temporary folder");
        let endpoints =
            Endpoints { mqtts: String::new(), https: String::new(), wss: String::new(), mqtt: None };
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { child: None, place, args, environment: Vec::new(), endpoints }
    }

    fn run(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("log file");
        let ports = ["--mqtts-port", "--https-port"];
        let ports = ports.into_iter().filter(|port| !self.args.iter().any(|arg| arg == port));
        let child = Command::new(DRAWBRIDGE)
            .args(["--data", &self.data().to_string_lossy(), "serve"])
            .args(ports.flat_map(|port| [port, "0"]))
            .args(&self.args)
            // All that can be said is said, and no secret may be in it: see `scan`.
            .env("RUST_LOG", "debug")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.child = Some(child);
        let path = self.data().join("endpoints.json");
        self.endpoints = wait_for("endpoints.json", Duration::from_secs(20), || {
            if let Some(status) = self.child.as_mut().expect("started").try_wait().expect("child") {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            serde_json::from_str(&fs::read_to_string(&path).ok()?).ok()
        });
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// A folder for the files of a test.
    pub(crate) fn place(&self) -> &Path {
        self.place.path()
    }

    fn log_path(&self) -> PathBuf {
        self.place.path().join("server.log")
    }

    /// All that the server has printed and logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Ends it politely (SIGTERM) and waits.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "TERM");
            let deadline = Instant::now() + Duration::from_secs(20);
            while child.try_wait().expect("child").is_none() {
                if Instant::now() > deadline {
                    child.kill().expect("kill");
                    child.wait().expect("wait");
                    panic!("the server did not stop within 20 s:\n{}", self.log());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Ends it without a warning (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
            // The next start removes it too, but whoever waits for the new one could be faster.
            let _ = fs::remove_file(self.data().join("endpoints.json"));
        }
    }

    /// Waits until it ends by itself; its exit code and all that it has said.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> (Option<i32>, String) {
        let mut child = self.child.take().expect("running");
        let status = wait_for("the server's end", limit, || child.try_wait().expect("child"));
        (status.code(), self.log())
    }

    /// Further arguments of `serve`, from the next start on.
    pub(crate) fn also(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
    }

    /// Starts it again on the same folder.
    pub(crate) fn run_again(&mut self) {
        assert!(self.child.is_none(), "stop it first");
        self.run();
    }

    /// Runs the command line against this server.
    pub(crate) fn cli(&self, words: &[&str]) -> Output {
        Command::new(DRAWBRIDGE)
            .arg("--data")
            .arg(self.data())
            .args(words)
            .current_dir(self.place())
            .stdin(Stdio::null())
            .output()
            .expect("the command line runs")
    }

    /// The same; it must succeed. Answers stdout.
    pub(crate) fn cli_ok(&self, words: &[&str]) -> String {
        let output = self.cli(words);
        assert!(output.status.success(), "drawbridge {words:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    /// Registers a device whose key is made by the command line.
    pub(crate) fn device(&self, name: &str) -> DeviceIdentity {
        self.principal("device", name, &[])
    }

    /// Registers an application with the rights of a policy text.
    pub(crate) fn application(&self, name: &str, policy: &str) -> DeviceIdentity {
        let file = self.place().join(format!("{name}.toml"));
        fs::write(&file, policy).expect("write");
        self.cli_ok(&["policy", "set", name, &file.to_string_lossy()]);
        self.principal("app", name, &["--policy", name])
    }

    fn principal(&self, kind: &str, name: &str, more: &[&str]) -> DeviceIdentity {
        let folder = self.identity_folder(name);
        let folder_text = folder.to_string_lossy();
        let mut words = vec![kind, "add", name, "--out", &folder_text];
        words.extend(more);
        self.cli_ok(&words);
        DeviceIdentity::load(&folder).expect("the identity was written")
    }

    /// A client for `/v1` and `/oauth` that trusts this server alone.
    pub(crate) fn api(&self) -> ApiClient {
        let ca = fs::read_to_string(self.data().join("ca.pem")).expect("the root");
        ApiClient::new(&format!("https://{}", self.endpoints.https), &ca).expect("a client")
    }

    /// A request of the holder of the admin credential. Answers its JSON; the status must be of success.
    pub(crate) fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let token = fs::read_to_string(self.data().join("admin-token")).expect("the credential");
        let body = body.map(Value::to_string);
        let body = body.as_ref().map(|text| ("application/json", text.as_bytes()));
        let answer = self.api().send(method, path, Some(token.trim()), body).expect("an answer");
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer.json()
    }

    pub(crate) fn identity_folder(&self, name: &str) -> PathBuf {
        self.place().join("identities").join(name)
    }

    /// Resident memory of the server process, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// I10: no secret, token or key in any log. Every server of these tests is searched when it is dropped:
    /// for what begins as our secrets do, for what looks like a JWT, and for every secret in its folders.
    fn scan(&self) {
        let mut secrets = Vec::new();
        collect_secrets(self.place(), &mut secrets);
        assert!(!secrets.is_empty(), "there is an admin credential at least");
        for line in self.log().lines() {
            let found = secret_like(line).or_else(|| secrets.iter().find(|s| line.contains(*s)).cloned());
            assert!(found.is_none(), "a secret stands in the log: {line}");
        }
    }

    /// Waits until the log has a line with all of `words`.
    pub(crate) fn wait_for_log(&self, words: &[&str]) {
        wait_for(&format!("{words:?} in the log"), Duration::from_secs(10), || {
            self.log().lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- server log ---\n{}", self.log());
        } else {
            self.scan();
        }
    }
}

/// Every line of the files that hold private keys and credentials.
fn collect_secrets(folder: &Path, secrets: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            collect_secrets(&path, secrets);
        } else if name == "admin-token"
            || ["seal.key", "ticket.secret"].contains(&name.as_str())
            || name.ends_with("key.pem")
        {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines = text.lines().map(str::trim);
            // The last line of a PEM may be short, and then anything.
            secrets.extend(lines.filter(|l| l.len() >= 24 && !l.starts_with("-----")).map(str::to_owned));
        }
    }
}

/// What looks like a token or a secret of ours.
fn secret_like(line: &str) -> Option<String> {
    let is_code = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let run = |text: &str| text.chars().take_while(|c| is_code(*c)).count();
    for prefix in ["dba_", "dbe_", "dbo_", "dbs_", "dbr_"] {
        for (at, _) in line.match_indices(prefix) {
            if run(&line[at + 4..]) >= 16 {
                return Some(prefix.to_owned());
            }
        }
    }
    for (at, _) in line.match_indices("eyJ") {
        let header = run(&line[at..]);
        let rest = &line[at + header..];
        if header >= 10 && rest.strip_prefix('.').is_some_and(|rest| run(rest) >= 10) {
            return Some("eyJ".to_owned());
        }
    }
    None
}

#[test]
fn the_search_for_secrets_finds_them() {
    let token = format!("dba_{}", "A".repeat(49));
    for bad in [&token, "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJsYW1wIn0.abc"] {
        assert!(secret_like(bad).is_some(), "{bad}");
    }
    for good in ["tokens begin with dba_ or dbo_", "the key FSq4Gjk1kl_xHk is gone", "eyJ"] {
        assert_eq!(secret_like(good), None, "{good}");
    }
}

/// Sends a signal by name.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().expect("kill");
    assert!(sent.success(), "kill -{name} {pid}");
}

/// Polls until `probe` answers; panics with `what` after `limit`.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Seconds since 1970-01-01 UTC.
pub(crate) fn now_s() -> u64 {
    drawbridge_device::now_s()
}

/// Signs any claims: for tokens that no honest client would make.
pub(crate) fn jwt(typ: Option<&str>, claims: &Value, key: &dyn Sign) -> String {
    let header = drawbridge_jose::Header { typ, kid: None, jwk: None };
    sign_compact(&header, claims.to_string().as_bytes(), key).expect("signs")
}

/// A CONNECT JWT of the identity that lives `life_s` from `iat_s`.
pub(crate) fn connect_jwt(identity: &DeviceIdentity, iat_s: u64, life_s: u64) -> String {
    let claims = json!({
        "sub": identity.device, "aud": identity.bridge_audience, "iat": iat_s, "exp": iat_s + life_s,
    });
    jwt(Some("JWT"), &claims, &identity.key)
}

/// Connects with a given password.
pub(crate) fn connect_with(identity: &DeviceIdentity, password: &str) -> Result<MqttClient, DeviceError> {
    let mut options = identity.mqtt_options().expect("signs");
    options.password = password.as_bytes().to_vec();
    MqttClient::connect(&options)
}

/// Connects as an honest device.
pub(crate) fn connect(identity: &DeviceIdentity) -> MqttClient {
    let options: MqttOptions = identity.mqtt_options().expect("signs");
    MqttClient::connect(&options).expect("admitted")
}

/// The Python of the tests' own environment; `scripts/test` makes it.
pub(crate) fn python() -> PathBuf {
    let python = std::env::var_os("DRAWBRIDGE_TEST_PYTHON").map_or_else(
        || repository().join("target/test-venv/bin/python"),
        |path| repository().join(PathBuf::from(path)),
    );
    assert!(python.exists(), "{} is missing; run ./scripts/test, which makes it", python.display());
    python
}

/// Runs a Python script of the tests; it must succeed. Answers stdout.
pub(crate) fn run_python(script: &str, args: &[&str]) -> String {
    let path = repository().join("crates/drawbridge/tests/clients").join(script);
    let output = Command::new(python()).arg(&path).args(args).output().expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    assert!(
        output.status.success(),
        "{script} {args:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The folder with the Node scripts beside their packages; `scripts/test` makes it.
pub(crate) fn node_folder() -> PathBuf {
    let folder = std::env::var_os("DRAWBRIDGE_TEST_NODE")
        .map_or_else(|| repository().join("target/test-node"), |path| repository().join(PathBuf::from(path)));
    let packages = folder.join("node_modules");
    assert!(packages.exists(), "{} is missing; run ./scripts/test, which makes it", packages.display());
    folder
}

/// Node with a script of the tests. It trusts the root in `ca` beside those of the system.
pub(crate) fn node(script: &str, ca: &Path) -> Command {
    let version = version_of("node", "--version");
    let mut node = Command::new("node");
    if version.starts_with("v18.") {
        // Debian 12 has it; what every later Node does by itself.
        node.arg("--experimental-global-webcrypto");
    }
    // The link stands beside the packages, so that the script finds them.
    node.args(["--no-warnings", "--preserve-symlinks", "--preserve-symlinks-main"])
        .arg(node_folder().join("clients").join(script))
        .env("NODE_EXTRA_CA_CERTS", ca)
        .env_remove("NODE_TLS_REJECT_UNAUTHORIZED");
    node
}

/// Runs such a script; it must succeed. Answers stdout.
pub(crate) fn run_node(script: &str, ca: &Path, args: &[&str]) -> String {
    let output = node(script, ca).args(args).output().expect("node runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{text}{said}", output.status);
    text
}

/// For clients that insist on a port: runs the test of this name in a network of its own, where every port is free and may
/// be bound to, and answers `false` once it has passed; `true` within.
///
/// `DRAWBRIDGE_TEST_UNSHARE` is the command that makes a network; `scripts/test` finds out which one works here.
pub(crate) fn in_a_network_of_its_own(test: &str) -> bool {
    const WITHIN: &str = "DRAWBRIDGE_TEST_WITHIN";
    if std::env::var_os(WITHIN).is_some() {
        return true;
    }
    let unshare = std::env::var("DRAWBRIDGE_TEST_UNSHARE");
    let unshare = unshare.unwrap_or_else(|_| "unshare --map-root-user --net".to_owned());
    let mut words = unshare.split(' ');
    let said = tempfile::NamedTempFile::new().expect("a file");
    let output = said.reopen().expect("open");
    let mut child = Command::new(words.next().expect("a command"))
        .args(words)
        .args(["env", &format!("{WITHIN}=yes"), "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().expect("a path"))
        .args([test, "--exact", "--nocapture", "--test-threads", "1"])
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("open"))
        .stderr(output)
        .spawn()
        .unwrap_or_else(|error| panic!("`{unshare}` ({error}); run ./scripts/test, which installs it"));
    let deadline = Instant::now() + Duration::from_secs(300);
    let status = loop {
        match child.try_wait().expect("child") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let said = fs::read_to_string(said.path()).unwrap_or_default();
    // A name that no test has would pass as well.
    let is_passed = status.is_some_and(|status| status.success()) && said.contains("1 passed");
    assert!(is_passed, "`{unshare}` ended with {status:?} (none: not within 300 s)\n{said}");
    false
}

/// The top of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// The version line of an outside client; a missing client fails the test.
pub(crate) fn version_of(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let output = output
        .unwrap_or_else(|e| panic!("{program} is missing ({e}); run ./scripts/test, which installs it"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no version").to_owned();
    println!("{program}: {line}");
    line
}

/// Every process that a test started in the background ends with it.
pub(crate) struct Background(pub(crate) Child);

impl Background {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("starts"),
        )
    }

    /// Waits for its end and answers (success, stdout, stderr).
    pub(crate) fn finish(mut self, limit: Duration) -> (bool, String, String) {
        let status = wait_for("end of a background client", limit, || self.0.try_wait().expect("child"));
        let mut text = [String::new(), String::new()];
        if let Some(mut out) = self.0.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut text[0]).expect("text");
        }
        if let Some(mut err) = self.0.stderr.take() {
            std::io::Read::read_to_string(&mut err, &mut text[1]).expect("text");
        }
        let [out, err] = text;
        (status.success(), out, err)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
