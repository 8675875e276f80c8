//! A sensor: reports a reading every few seconds, whatever happens to its network.
//!
//!     drawbridge device add lamp --out ./lamp
//!     cargo run -p drawbridge-device --example sensor -- ./lamp [READINGS]
//!
//! Readings wait in `./lamp/queue` while there is no connection, also over a restart.
#![expect(clippy::print_stdout, reason = "an example talks to its terminal")]

use std::path::PathBuf;
use std::time::Duration;

use drawbridge_device::{ClientOptions, DeviceClient, DeviceError, Overflow, Queue};

fn main() -> Result<(), DeviceError> {
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().unwrap_or_else(|| "./lamp".to_owned()));
    let readings: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);

    let mut options = ClientOptions::load(&folder)?;
    options.queue = Queue {
        messages_max: 10_000,
        overflow: Overflow::DropOldest, // the newest readings are worth most
        folder: Some(folder.join("queue")),
        ..Queue::default()
    };
    let device = DeviceClient::start(options)?;

    for reading in 0..readings {
        if reading > 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
        let celsius = 20.0 + (reading % 10) as f64 / 10.0;
        device.telemetry("temperature", format!("{{\"celsius\":{celsius}}}").as_bytes())?;
        println!("{celsius} °C, {} waiting", device.pending());
    }
    println!("{} left", device.stop(Duration::from_secs(10)));
    Ok(())
}
