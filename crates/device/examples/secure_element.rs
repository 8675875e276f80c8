//! A key that cannot be taken out: `Element` stands for a chip (or a PKCS#11 token, or a TPM) that signs and gives
//! its public key. The client never sees the private half; JWTs, TLS client certificates and proofs all go through it.
//!
//!     drawbridge device add meter --out ./meter      # or: register the public key that the chip gives
//!     cargo run -p drawbridge-device --example secure_element -- ./meter
#![expect(clippy::print_stdout, reason = "an example talks to its terminal")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drawbridge_device::{
    Algorithm, ClientOptions, DeviceClient, DeviceError, DeviceIdentity, DeviceKey, PublicKey, Sign,
    SignError, SigningKey,
};

/// What talks to the chip; here a key in memory plays it.
struct Element {
    /// A bus carries one request at a time.
    chip: Mutex<SigningKey>,
    /// Read once from the chip.
    public: PublicKey,
}

impl Sign for Element {
    fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// JOSE wants ECDSA as r || s, 64 bytes; a chip that answers in DER is read by `drawbridge_jose::ecdsa_der_to_raw`.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        // A chip wants the digest of the message instead: `drawbridge_jose::sha256(message)`.
        self.chip.lock().map_err(|_| SignError::Primitive)?.sign(message)
    }
}

impl DeviceKey for Element {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

fn main() -> Result<(), DeviceError> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "./meter".to_owned()));
    let identity = DeviceIdentity::load(&folder)?;
    let public = identity.key.public_key().clone();
    let mut options = ClientOptions::of(DeviceIdentity::load(&folder)?)?;
    let login = options.login.as_mut().expect("`of` gives one");
    login.key = Arc::new(Element { chip: Mutex::new(identity.key), public });

    let device = DeviceClient::start(options)?;
    device.telemetry("energy", br#"{"kwh":17}"#)?.wait(Duration::from_secs(30))?;
    println!("reported by a key that nobody has seen");
    println!("{} left", device.stop(Duration::from_secs(10)));
    Ok(())
}
