//! Which store the settings name, and what its secrets are sealed with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drawbridge_admission::{AesSeal, Random};
use drawbridge_registry::{Store, StoreError};
use drawbridge_registry_postgres::{PostgresStore, SoleServer};
use drawbridge_registry_sqlite::SqliteStore;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::data::{DataFolder, Mode};

/// The store on one machine, in the data folder.
const SQLITE_FILE: &str = "registry.sqlite";
/// What seals its secrets, unless another source is named.
const SEAL_KEY_FILE: &str = "seal.key";
const SEAL_KEY_ENV: &str = "DRAWBRIDGE_SEAL_KEY";
/// The name of the systemd credential (`LoadCredential=drawbridge-seal:...`).
const SEAL_CREDENTIAL: &str = "drawbridge-seal";
/// Whose chain of the audit grows in a database that others write to as well.
const WRITER_FILE: &str = "writer";

/// How long a start waits for a database that is not there yet, or still has the server before this one.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);

type StartError = Box<dyn std::error::Error + Send + Sync>;

/// The address of a store. It may hold a password, so nothing prints it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoreUrl(String);

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({}:...)", self.scheme())
    }
}

impl From<String> for StoreUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl StoreUrl {
    fn scheme(&self) -> &str {
        match self.0.split_once(':') {
            Some((scheme @ ("sqlite" | "postgres" | "postgresql"), _)) => scheme,
            _ => "unknown",
        }
    }

    /// What is wrong with it, as far as it can be seen without opening the store.
    pub(crate) fn fault(&self) -> Option<String> {
        let sqlite_path = self.0.strip_prefix("sqlite:").map(str::is_empty);
        (self.scheme() == "unknown" || sqlite_path == Some(true)).then(|| {
            "[DB-6021] the address of the store (--store, `store.url`) begins with no kind of store that is known; wanted `sqlite:PATH` or `postgres://USER@HOST/DATABASE`"
                .to_owned()
        })
    }
}

/// `[store]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StoreSettings {
    /// Where registries, principals and the audit are kept: `sqlite:PATH` or `postgres://...`. Default: a
    /// SQLite file in the data folder. One with a password is better named by `DRAWBRIDGE_STORE_URL`.
    pub(crate) url: Option<StoreUrl>,
}

/// `[seal]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SealSettings {
    /// File with the key that seals the secrets of the store, 64 characters of hex. Default: the variable
    /// `DRAWBRIDGE_SEAL_KEY`, else the systemd credential `drawbridge-seal`, else `seal.key` in the data
    /// folder, which is made with the store.
    pub(crate) key_file: Option<PathBuf>,
    /// File with the key before, while the key is being changed: at the start all secrets that it sealed are
    /// sealed anew, after which neither the file nor this setting is needed. Default: none.
    pub(crate) previous_key_file: Option<PathBuf>,
}

/// A store, open.
pub(crate) struct OpenStore {
    pub(crate) store: Arc<dyn Store>,
    sole: Option<SoleServer>,
}

impl OpenStore {
    /// Opens the store that is named, or the one of the data folder.
    pub(crate) async fn open(
        data: &DataFolder,
        url: Option<&StoreUrl>,
        random: &dyn Random,
    ) -> Result<Self, StartError> {
        let file = match url.map(|url| (url, url.0.strip_prefix("sqlite:"))) {
            None => data.path(SQLITE_FILE),
            Some((_, Some(path))) => PathBuf::from(path),
            Some((url, None)) => return Self::open_postgres(&url.0, &writer(data, random)?).await,
        };
        Ok(Self { store: Arc::new(SqliteStore::open(&file)?), sole: None })
    }

    async fn open_postgres(url: &str, writer: &str) -> Result<Self, StartError> {
        let mut waited = Duration::ZERO;
        loop {
            let opened = async {
                let store = PostgresStore::open(url, writer).await?;
                let sole = store.hold_sole_server().await?;
                Ok::<_, StoreError>((store, sole))
            };
            match opened.await {
                Ok((store, sole)) => {
                    tracing::info!(
                        writer,
                        "the store is a PostgreSQL database, and this server is alone on it"
                    );
                    return Ok(Self { store: Arc::new(store), sole: Some(sole) });
                }
                Err(error @ (StoreError::Unavailable(_) | StoreError::InUse(_))) if waited < PATIENCE => {
                    if waited.is_zero() {
                        tracing::warn!("waiting {} s at most for the store: {error}", PATIENCE.as_secs());
                    }
                    tokio::time::sleep(RETRY).await;
                    waited += RETRY;
                }
                Err(error) => return Err(format!("[{}] {error}", error.code()).into()),
            }
        }
    }

    /// Whether this server may lose the store to another one at all.
    pub(crate) fn is_shared(&self) -> bool {
        self.sole.is_some()
    }

    /// Whether this server is known to be alone on the store.
    pub(crate) fn is_held(&self) -> bool {
        self.sole.as_ref().is_none_or(|sole| sole.open_for().is_none())
    }

    /// Waits until another server has taken the store over: this one must end then.
    pub(crate) async fn lost(&self) {
        match &self.sole {
            Some(sole) => sole.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// The name of this server's chain of the audit: made once, kept in the data folder.
fn writer(data: &DataFolder, random: &dyn Random) -> Result<String, StartError> {
    if let Some(name) = data.read(WRITER_FILE)? {
        return Ok(name.trim().to_owned());
    }
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    let name = format!("server-{}", hex(&bytes).as_str());
    data.replace(WRITER_FILE, format!("{name}\n").as_bytes(), Mode::Private)?;
    Ok(name)
}

/// The key that seals the secrets of the store, from the first source that there is.
pub(crate) fn seal_key(
    data: &DataFolder,
    settings: &SealSettings,
    url: Option<&StoreUrl>,
    random: &dyn Random,
) -> Result<AesSeal, StartError> {
    let key = current_seal_key(data, settings, url, random)?;
    let Some(file) = &settings.previous_key_file else { return Ok(AesSeal::new(*key)) };
    let previous = key_of(&read_key(file)?, &file.display().to_string())?;
    Ok(AesSeal::with_previous(*key, Some(*previous)))
}

/// Whether the key is kept apart from the data folder, so that what lies there is worth sealing.
pub(crate) fn seal_key_is_apart(settings: &SealSettings) -> bool {
    settings.key_file.is_some() || std::env::var_os(SEAL_KEY_ENV).is_some() || credential_file().is_some()
}

/// The credential of systemd, if there is one.
fn credential_file() -> Option<PathBuf> {
    let file = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(SEAL_CREDENTIAL);
    file.exists().then_some(file)
}

fn current_seal_key(
    data: &DataFolder,
    settings: &SealSettings,
    url: Option<&StoreUrl>,
    random: &dyn Random,
) -> Result<Zeroizing<[u8; 32]>, StartError> {
    if let Some(file) = &settings.key_file {
        return key_of(&read_key(file)?, &file.display().to_string());
    }
    if let Ok(text) = std::env::var(SEAL_KEY_ENV) {
        return key_of(&Zeroizing::new(text), SEAL_KEY_ENV);
    }
    if let Some(file) = credential_file() {
        return key_of(&read_key(&file)?, &file.display().to_string());
    }
    let place = data.path(SEAL_KEY_FILE);
    let text = match data.read(SEAL_KEY_FILE)? {
        Some(text) => Zeroizing::new(text),
        None if url.is_none() && data.path(SQLITE_FILE).exists() => {
            return Err(format!(
                "[DB-4025] {} is missing, and the registry beside it was sealed by it; restore it from a backup",
                place.display()
            )
            .into());
        }
        None => {
            let mut bytes = Zeroizing::new([0; 32]);
            random.fill(&mut *bytes);
            let mut line = hex(&*bytes);
            line.push('\n');
            data.replace(SEAL_KEY_FILE, line.as_bytes(), Mode::Private)?;
            line
        }
    };
    key_of(&text, &place.display().to_string())
}

fn read_key(file: &Path) -> Result<Zeroizing<String>, StartError> {
    let fault = |e: std::io::Error| -> StartError {
        format!("[DB-6022] the seal key cannot be read from {}: {e}; name a readable file", file.display())
            .into()
    };
    std::fs::read_to_string(file).map(Zeroizing::new).map_err(fault)
}

/// `place`: where the text comes from, for the fault; the text itself is never repeated.
fn key_of(text: &str, place: &str) -> Result<Zeroizing<[u8; 32]>, StartError> {
    let digits = text.trim();
    let is_hex = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks(2)).filter(|_| is_hex) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0).zip(digit(1)).map_or(0, |(high, low)| high << 4 | low);
    }
    if !is_hex {
        return Err(format!("[DB-4025] {place} is not 64 characters of hex; restore it").into());
    }
    Ok(key)
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len() + 1));
    for byte in bytes {
        text.extend([byte >> 4, byte & 15].map(|half| char::from(b"0123456789abcdef"[usize::from(half)])));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_a_known_kind_and_never_printed() {
        let url = |text: &str| StoreUrl::from(text.to_owned());
        for good in ["sqlite:/var/lib/x.sqlite", "postgres://u:secret@h/d", "postgresql://h/d"] {
            assert_eq!(url(good).fault(), None, "{good}");
        }
        for bad in ["", "mysql://u:secret@h/d", "secret", "sqlite:", "Postgres://h/d"] {
            let fault = url(bad).fault().expect(bad);
            assert!(fault.contains("DB-6021") && !fault.contains("secret"), "{fault}");
        }
        let settings = StoreSettings { url: Some(url("postgres://u:secret@h/d")) };
        assert!(!format!("{settings:?}").contains("secret"));
        assert!(!format!("{:?}", url("secret:x")).contains("secret"));
        // Nor in the settings or the command line that it came by.
        let word = "postgres://core:hunter2@db/x";
        let settings = StoreSettings { url: Some(url(word)) };
        let word = drawbridge_cli::args::Hidden(word.to_owned());
        assert!(!format!("{settings:?} {word:?}").contains("hunter2"));
    }

    #[test]
    fn a_seal_key_is_64_characters_of_hex_and_never_repeated() {
        assert!(key_of(&format!("{}\n", "0a".repeat(32)), "x").is_ok());
        for bad in ["", "secret", &"0g".repeat(32), &"00".repeat(31)] {
            let fault = key_of(bad, "PLACE").expect_err(bad).to_string();
            assert!(fault.contains("PLACE") && !fault.contains("secret"), "{fault}");
        }
    }
}
