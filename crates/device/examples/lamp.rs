//! A lamp: does as it is told, takes its config, and reports its state.
//!
//!     drawbridge device add lamp --out ./lamp
//!     cargo run -p drawbridge-device --example lamp -- ./lamp [COMMANDS] &
//!     drawbridge command send lamp on
//!
//! `command send` answers when the lamp is done with the command, or says that it rejected it.
#![expect(clippy::print_stdout, reason = "an example talks to its terminal")]

use std::path::PathBuf;
use std::time::Duration;

use drawbridge_device::{ClientOptions, DeviceClient, DeviceError, Qos};

fn main() -> Result<(), DeviceError> {
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().unwrap_or_else(|| "./lamp".to_owned()));
    let commands: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or(usize::MAX);

    let device = DeviceClient::start(ClientOptions::load(&folder)?)?;
    let name = device.name().to_owned();
    device.on(&format!("devices/{name}/config"), Qos::AtLeastOnce, |config| {
        println!("config {}", String::from_utf8_lossy(&config.payload));
        // It counts as taken when this returns.
    })?;
    for command in device.commands()?.take(commands) {
        match command.payload.as_slice() {
            word @ (b"on" | b"off") => {
                println!("command {}", String::from_utf8_lossy(word));
                device.report_state(word)?;
                // `command` is dropped here: that acknowledges it.
            }
            _ => {
                println!("rejected");
                command.refuse();
            }
        }
    }
    println!("{} left", device.stop(Duration::from_secs(10)));
    Ok(())
}
