//! `serve --demo`: a thermometer and a lamp, simulated in this process, but with keys of their own and
//! through real TLS sockets; they know of the server only what any device knows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Parser;
use drawbridge_cli::{Cli, Failure, Server};
use drawbridge_device::{ConnectJwt, DeviceError, DeviceIdentity, MqttClient, Qos, now_s};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::json;

/// How long a demo device waits before it comes back after a fault.
const COME_BACK: Duration = Duration::from_secs(2);
/// What the dashboard may do; devices have the default policy.
const DASHBOARD_POLICY: &str =
    "[[allow]]\npublish = [\"devices/+/commands/#\"]\nsubscribe = [\"devices/#\"]\n";

/// Runs the demo beside the server until `stop`.
pub(crate) fn start(data: &Path, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let data = data.to_owned();
    thread::spawn(move || {
        if let Err(failure) = (Demo { data, stop }).run() {
            say!("[demo] stopped: {failure}");
        }
    })
}

struct Demo {
    data: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Demo {
    fn run(&self) -> Result<(), Failure> {
        say!("[demo] registering a thermometer, a lamp and a dashboard; each makes its own key");
        self.cli(&["device", "add", "thermometer"])?;
        self.cli(&["device", "add", "lamp"])?;
        let policy = self.data.join("demo-dashboard.toml");
        std::fs::write(&policy, DASHBOARD_POLICY).map_err(|e| Failure::Unavailable(e.to_string()))?;
        self.cli(&["policy", "set", "dashboard", &policy.to_string_lossy()])?;
        self.cli(&["app", "add", "dashboard", "--policy", "dashboard"])?;

        let lamp = self.identity("lamp")?;
        let workers = [
            self.worker("dashboard", dashboard),
            self.worker("lamp", lamp_device),
            self.worker("thermometer", thermometer_device),
        ];
        self.pause(Duration::from_secs(2));
        let mut round = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let word = if round.is_multiple_of(2) { "on" } else { "off" };
            say!("[demo] $ drawbridge command send lamp {word}");
            match self.cli(&["command", "send", "lamp", word]) {
                Ok(()) => say!("[demo] the lamp has acknowledged"),
                Err(failure) => say!("[demo] {failure}"),
            }
            if round == 0 {
                forged(&lamp);
                expired(&lamp);
                say!("[demo] the log above says why: a prober is told little, the owner and the log much");
                say!("[demo] running on; try in another terminal:");
                let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("drawbridge"));
                for words in ["command send lamp off", "device block thermometer"] {
                    say!("[demo]   {} --data {} {words}", program.display(), self.data.display());
                }
            }
            round += 1;
            self.pause(Duration::from_secs(10));
        }
        for worker in workers {
            drop(worker.join()); // its own faults were printed as they came
        }
        Ok(())
    }

    /// Runs a command line as a user would type it.
    fn cli(&self, words: &[&str]) -> Result<(), Failure> {
        let data = self.data.to_string_lossy();
        let folder = self.data.join("demo-devices");
        let out = folder.join(words.get(2).unwrap_or(&"")).to_string_lossy().into_owned();
        let mut line = vec!["drawbridge", "--data", &data];
        line.extend(words);
        if words.get(1) == Some(&"add") {
            if Path::new(&out).exists() {
                return Ok(()); // an earlier demo in the same folder registered it
            }
            line.extend(["--out", &out]);
        }
        let cli = Cli::try_parse_from(line).map_err(|e| Failure::Usage(e.to_string()))?;
        drawbridge_cli::execute(&cli)
    }

    fn identity(&self, name: &str) -> Result<DeviceIdentity, Failure> {
        let mut identity = DeviceIdentity::load(&self.data.join("demo-devices").join(name))?;
        // An earlier demo in the same folder may have used other ports.
        let server = Server::find(
            &Cli::try_parse_from(["drawbridge", "--data", &self.data.to_string_lossy(), "device", "list"])
                .map_err(|e| Failure::Usage(e.to_string()))?
                .common,
        )?;
        identity.mqtts = server.mqtts();
        server.https().clone_into(&mut identity.https);
        Ok(identity)
    }

    fn worker(
        &self,
        name: &'static str,
        work: fn(&DeviceIdentity, &AtomicBool) -> Result<(), DeviceError>,
    ) -> JoinHandle<()> {
        let stop = Arc::clone(&self.stop);
        let identity = self.identity(name);
        thread::spawn(move || {
            let identity = match identity {
                Ok(identity) => identity,
                Err(failure) => return say!("[{name}] {failure}"),
            };
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = work(&identity, &stop) {
                    say!("[{name}] {error}; coming back in {} s", COME_BACK.as_secs());
                    thread::sleep(COME_BACK);
                }
            }
        })
    }

    fn pause(&self, length: Duration) {
        let mut left = length;
        while !left.is_zero() && !self.stop.load(Ordering::Relaxed) {
            let slice = left.min(Duration::from_millis(200));
            thread::sleep(slice);
            left = left.saturating_sub(slice);
        }
    }
}

/// Logs in at the token endpoint, then connects with the access token.
fn thermometer_device(identity: &DeviceIdentity, stop: &AtomicBool) -> Result<(), DeviceError> {
    let api = drawbridge_device::ApiClient::new(&format!("https://{}", identity.https), &identity.ca_pem)?;
    let token = api.token(&identity.device, &identity.issuer, None, &identity.key)?;
    say!("[thermometer] proved itself with a signed JWT, got an access token for {} s", token.expires_in_s);
    let mut options = identity.mqtt_options()?;
    options.password = token.access_token.into_bytes();
    let mut client = MqttClient::connect(&options)?;
    say!("[thermometer] connected with it");
    let mut reading = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        reading += 1;
        let celsius = 20.0 + f64::from(reading % 20) / 10.0;
        let payload = json!({ "celsius": celsius }).to_string();
        client.publish(
            "devices/thermometer/events/temperature",
            payload.as_bytes(),
            Qos::AtLeastOnce,
            false,
        )?;
        let _ = client.receive(Duration::from_secs(2))?; // keeps the connection alive; nothing is expected
    }
    client.disconnect()
}

/// Connects with a JWT of its own, obeys commands, reports its state.
fn lamp_device(identity: &DeviceIdentity, stop: &AtomicBool) -> Result<(), DeviceError> {
    let mut client = MqttClient::connect(&identity.mqtt_options()?)?;
    say!("[lamp] connected with a JWT signed by its own key");
    client.subscribe("devices/lamp/commands/#")?;
    while !stop.load(Ordering::Relaxed) {
        if let Some(message) = client.receive(Duration::from_millis(500))? {
            say!("[lamp] obeys the command {:?}", String::from_utf8_lossy(&message.payload));
            client.publish("devices/lamp/state", &message.payload, Qos::AtLeastOnce, false)?;
        }
    }
    client.disconnect()
}

/// An application that sees what all devices say.
fn dashboard(identity: &DeviceIdentity, stop: &AtomicBool) -> Result<(), DeviceError> {
    let mut client = MqttClient::connect(&identity.mqtt_options()?)?;
    client.subscribe("devices/#")?;
    say!("[dashboard] watches devices/#");
    while !stop.load(Ordering::Relaxed) {
        if let Some(message) = client.receive(Duration::from_millis(500))? {
            say!("[dashboard] {} {}", message.topic, String::from_utf8_lossy(&message.payload));
        }
    }
    client.disconnect()
}

/// Someone who knows the lamp's name but not its key.
fn forged(lamp: &DeviceIdentity) {
    let outcome = SigningKey::generate(Algorithm::Es256)
        .map_err(|e| DeviceError::Key(e.to_string()))
        .and_then(|key| connect_with(lamp, &key, now_s()));
    report("a forged JWT (right name, wrong key)", outcome);
}

/// The lamp's own JWT of yesterday.
fn expired(lamp: &DeviceIdentity) {
    report("an expired JWT (right key, from yesterday)", connect_with(lamp, &lamp.key, now_s() - 86_400));
}

fn connect_with(lamp: &DeviceIdentity, key: &SigningKey, now_s: u64) -> Result<MqttClient, DeviceError> {
    let jwt =
        ConnectJwt { device: &lamp.device, bridge_audience: &lamp.bridge_audience, now_s, life_s: 3600 };
    let mut options = lamp.mqtt_options()?;
    options.password = jwt.sign(key)?.into_bytes();
    MqttClient::connect(&options)
}

fn report(what: &str, outcome: Result<MqttClient, DeviceError>) {
    match outcome {
        Ok(_) => say!("[demo] {what} was let in: this must never happen"),
        Err(error) => say!("[demo] {what}: {error}"),
    }
}
