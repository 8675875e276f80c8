//! `drawbridge audit`: shows, exports and checks the audit.
//!
//! The check runs here, not on the server: an auditor need not trust the server about its own past.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Duration;

use drawbridge_jose::{Jws, ParseOptions, PublicKey, base64url_decode, base64url_encode};
use drawbridge_names::RegistryName;
use drawbridge_registry::audit::{CHAIN_START, chain_hash};
use drawbridge_registry::{AuditEntry, AuditRow};
use serde_json::Value;

use crate::args::{AuditCommand, Common};
use crate::output;
use crate::policy::listing;
use crate::server::escape;
use crate::{Failure, Server};

/// Rows asked for at a time.
const PAGE: usize = 500;
const CHECKPOINT_TYP: &str = "audit-checkpoint+jwt";
const CHECKPOINT_ACTION: &str = "audit.checkpoint";
/// Longest checkpoint, in bytes: thousands of writers.
const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024;

pub(crate) fn audit(common: &Common, command: &AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Tail { count, follow } => tail(common, *count, *follow),
        AuditCommand::Export { file } => export(common, file),
        AuditCommand::Verify { file, since } => verify(common, file.as_deref(), since.as_deref()),
    }
}

const COLUMNS: [&str; 5] = ["seq", "at", "actor", "action", "subject"];

fn tail(common: &Common, count: usize, follow: bool) -> Result<(), Failure> {
    let server = Server::find(common)?;
    let answer = server.call("GET", &format!("/v1/audit?limit={count}"), None)?.json();
    if !follow {
        listing(common, &answer["items"], &COLUMNS, &["audit", "verify"]);
        return Ok(());
    }
    let mut rows: Vec<Value> = answer["items"].as_array().cloned().unwrap_or_default();
    rows.reverse();
    loop {
        let mut last = None;
        for row in &rows {
            let text = |name: &str| output::cell(&row[name]);
            let line = match common.json {
                true => row.to_string(),
                false => COLUMNS.map(text).join("  "),
            };
            if !say!("{line}") {
                return Ok(()); // nobody reads any more
            }
            last = Some((text("writer"), row["seq"].as_u64().unwrap_or(0)));
        }
        let Some((writer, seq)) = last else { return Ok(()) };
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let path = format!("/v1/audit?writer={}&from={}&limit={PAGE}", escape(&writer), seq + 1);
            rows = server.call("GET", &path, None)?.json()["items"].as_array().cloned().unwrap_or_default();
            if !rows.is_empty() {
                break;
            }
        }
    }
}

/// Writes the lines that `GET /v1/audit:export` has, page by page.
fn export(common: &Common, file: &Path) -> Result<(), Failure> {
    let unusable = |e: std::io::Error| Failure::Usage(format!("{}: {e}", file.display()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut out = options.open(file).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::Conflict(format!("{} exists and is not overwritten; name another file", file.display()))
        }
        _ => unusable(e),
    })?;
    let mut rows = 0_u64;
    let end = read_server(&Server::find(common)?, &mut |line| {
        rows += u64::from(line.get("seq").is_some());
        writeln!(out, "{line}").map_err(unusable)
    });
    if end.is_err() {
        drop(fs::remove_file(file)); // what is not whole is worth nothing
    }
    end?;
    out.sync_all().map_err(unusable)?;
    if common.json {
        output::json(&serde_json::json!({ "rows": rows, "file": file.to_string_lossy() }));
    } else {
        say!("{rows} rows in {}", file.display());
        output::next(common, &["audit", "verify", "--file", &file.to_string_lossy()]);
    }
    Ok(())
}

fn verify(common: &Common, file: Option<&Path>, since: Option<&str>) -> Result<(), Failure> {
    let since = since.map(heads_of_text).transpose()?.unwrap_or_default();
    let mut check = Check::default();
    match file {
        Some(path) => {
            let unusable = |e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
            for line in BufReader::new(fs::File::open(path).map_err(unusable)?).lines() {
                let line: Value = serde_json::from_str(&line.map_err(unusable)?).map_err(|e| {
                    Failure::Usage(format!("{}: {e}; wanted a file of `audit export`", path.display()))
                })?;
                check.line(&line).map_err(broken)?;
            }
        }
        None => read_server(&Server::find(common)?, &mut |line| check.line(&line).map_err(broken))?,
    }
    let sound = check.end(&since).map_err(broken)?;
    let head = text_of_heads(&sound.heads);
    if common.json {
        let keys: Vec<&str> = sound.keys.iter().map(String::as_str).collect();
        output::json(&serde_json::json!({
            "sound": true, "rows": sound.rows, "checkpoints": sound.checkpoints,
            "rows_after_the_last_checkpoint": sound.unsigned, "keys": keys, "head": head,
        }));
        return Ok(());
    }
    say!("{} rows in {} chains are whole", sound.rows, sound.heads.len());
    say!(
        "{} checkpoints are signed by {} keys of the issuer; {} rows are newer than the last",
        sound.checkpoints,
        sound.keys.len(),
        sound.unsigned
    );
    if !sound.keys.is_empty() {
        // Who can write the audit can announce a key of his own in it: the keys are its word, not ours.
        say!("compare those keys with a JWK set that you have kept: {}", sound.keys.join(", "));
    }
    if !since.is_empty() {
        say!("nothing was changed or cut off since the head that was given");
    }
    say!("keep this head elsewhere: {head}");
    output::next(common, &["audit", "verify", "--since", &head]);
    Ok(())
}

fn broken(fault: String) -> Failure {
    Failure::Conflict(format!("the audit is not what it was: {fault}"))
}

/// Reads everything from a server, in the lines of an export.
fn read_server(server: &Server, take: &mut dyn FnMut(Value) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut about = server.call("GET", "/v1/audit:heads", None)?.json();
    let heads = about["heads"].take();
    if let Some(members) = about.as_object_mut() {
        members.remove("heads");
    }
    take(about)?;
    for head in heads.as_array().into_iter().flatten() {
        let writer = head["writer"].as_str().unwrap_or_default();
        let (mut from, last) = (1, head["seq"].as_u64().unwrap_or(0));
        while from <= last {
            let path = format!("/v1/audit?writer={}&from={from}&limit={PAGE}", escape(writer));
            let answer = server.call("GET", &path, None)?.json();
            let rows: Vec<Value> = answer["items"].as_array().cloned().unwrap_or_default();
            let Some(newest) = rows.last().and_then(|row| row["seq"].as_u64()).filter(|seq| *seq >= from)
            else {
                break; // the check misses the rows
            };
            from = newest + 1;
            for row in rows.into_iter().filter(|row| row["seq"].as_u64() <= Some(last)) {
                take(row)?;
            }
        }
    }
    take(serde_json::json!({ "heads": heads }))
}

type Hash = [u8; 32];
/// Writer, place, hash.
type Head = (String, u64, Hash);

/// `writer:seq:hash,...` as it was printed.
fn heads_of_text(text: &str) -> Result<Vec<Head>, Failure> {
    let head = |part: &str| -> Option<Head> {
        let mut parts = part.rsplitn(3, ':');
        let (hash, seq, writer) = (parts.next()?, parts.next()?, parts.next()?);
        Some((writer.to_owned(), seq.parse().ok()?, hash_of_text(hash)?))
    };
    let heads: Option<Vec<Head>> = text.split(',').map(head).collect();
    heads.ok_or_else(|| {
        Failure::Usage("--since is no head; wanted what `audit verify` printed, `WRITER:SEQ:HASH`".to_owned())
    })
}

fn text_of_heads(heads: &[Head]) -> String {
    let heads: Vec<String> = heads
        .iter()
        .map(|(writer, seq, hash)| format!("{writer}:{seq}:{}", base64url_encode(hash)))
        .collect();
    heads.join(",")
}

fn hash_of_text(text: &str) -> Option<Hash> {
    base64url_decode(text).ok()?.try_into().ok()
}

fn heads_of_json(heads: &Value) -> Option<Vec<Head>> {
    let head = |head: &Value| {
        let (writer, seq) = (head["writer"].as_str()?, head["seq"].as_u64()?);
        Some((writer.to_owned(), seq, hash_of_text(head["hash"].as_str()?)?))
    };
    heads.as_array()?.iter().map(head).collect()
}

/// An audit under examination, line by line.
#[derive(Default)]
struct Check {
    about: Option<About>,
    /// The hash of every row so far, by writer; the one of row n at n - 1.
    chains: BTreeMap<String, Vec<Hash>>,
    /// What checkpoints name, and where each stands. Their signatures are good.
    claims: Vec<(Head, String)>,
    /// Issuer keys, by kid.
    keys: BTreeMap<String, PublicKey>,
    /// Checkpoints, judged at the end: their key may be announced in another writer's chain.
    checkpoints: Vec<(String, u64, String)>,
    whole: Option<Vec<Head>>,
}

struct About {
    registry: RegistryName,
    issuer: String,
}

/// What was found of an audit that is sound.
#[derive(Debug)]
struct Sound {
    rows: u64,
    checkpoints: usize,
    /// Rows that no checkpoint names.
    unsigned: u64,
    keys: Vec<String>,
    heads: Vec<Head>,
}

impl Check {
    /// # Errors
    /// The first line that is not as it should be, told.
    fn line(&mut self, line: &Value) -> Result<(), String> {
        if self.about.is_none() {
            return self.begin(line);
        }
        if self.whole.is_some() {
            return Err("there are lines after its end".to_owned());
        }
        if line.get("seq").is_none() {
            self.whole = Some(heads_of_json(&line["heads"]).ok_or("its last line names no heads")?);
            return Ok(());
        }
        self.row(line)
    }

    fn begin(&mut self, line: &Value) -> Result<(), String> {
        let text = |name: &str| line[name].as_str();
        let (Some(1), Some(registry), Some(issuer)) =
            (line["drawbridge_audit"].as_u64(), text("registry"), text("issuer"))
        else {
            return Err("it does not begin with `drawbridge_audit` 1, `registry` and `issuer`".to_owned());
        };
        let registry = RegistryName::parse(registry).map_err(|e| format!("its first line: {e}"))?;
        for jwk in line["jwks"]["keys"].as_array().into_iter().flatten() {
            self.announce(jwk);
        }
        self.about = Some(About { registry, issuer: issuer.to_owned() });
        Ok(())
    }

    /// Only the thumbprint counts as a key's name, so none can be announced in another's place.
    fn announce(&mut self, jwk: &Value) {
        if let Ok(key) = PublicKey::from_jwk(jwk.to_string().as_bytes()) {
            self.keys.insert(key.thumbprint().to_owned(), key);
        }
    }

    fn row(&mut self, line: &Value) -> Result<(), String> {
        let about = self.about.as_ref().expect("the first line was taken");
        let row =
            row_of(line, &about.registry).ok_or_else(|| format!("a line is no row: {}", short(line)))?;
        let at = format!("row {} of {} ({})", row.seq, row.writer, row.entry.action);
        let chain = self.chains.entry(row.writer.clone()).or_default();
        let due = chain.len() as u64 + 1;
        if row.seq != due {
            return Err(format!(
                "row {due} of {} is missing: after row {} comes row {}",
                row.writer,
                due - 1,
                row.seq
            ));
        }
        if row.prev != *chain.last().unwrap_or(&CHAIN_START) {
            return Err(format!(
                "{at} does not follow from the row before: one of the two was changed, taken out or put in"
            ));
        }
        let hash = chain_hash(&row.prev, row.registry.as_str(), &row.writer, row.seq, &row.entry);
        if hash != row.hash {
            return Err(format!("{at} was changed: its hash is of other contents"));
        }
        chain.push(hash);
        let detail: Value = serde_json::from_str(&row.entry.detail).unwrap_or_default();
        if row.entry.action.starts_with("issuer-key.") {
            self.announce(&detail["jwk"]);
        }
        if row.entry.action == CHECKPOINT_ACTION {
            let jws = detail["jws"].as_str().ok_or_else(|| format!("{at} holds no checkpoint"))?;
            self.checkpoints.push((row.writer, row.seq, jws.to_owned()));
        }
        Ok(())
    }

    fn end(mut self, since: &[Head]) -> Result<Sound, String> {
        let Some(whole) = self.whole.take() else {
            return Err("it breaks off: the line with the heads at its end is missing".to_owned());
        };
        for (writer, seq, hash) in &whole {
            self.holds(writer, *seq, hash).map_err(|fault| format!("{fault}, and its end names it"))?;
        }
        for (writer, seq, hash) in since {
            self.holds(writer, *seq, hash)
                .map_err(|fault| format!("{fault}, and the head given names it"))?;
        }
        let mut used = Vec::new();
        let checkpoints = std::mem::take(&mut self.checkpoints);
        for (writer, seq, jws) in &checkpoints {
            let at = format!("the checkpoint in row {seq} of {writer}");
            let kid = self.checkpoint(jws).map_err(|fault| format!("{at} {fault}"))?;
            used.push(kid);
            for (head, _) in self.claims.drain(..).collect::<Vec<_>>() {
                self.holds(&head.0, head.1, &head.2)
                    .map_err(|fault| format!("{fault}, and {at} names it"))?;
                if head.0 == *writer && head.1 >= *seq {
                    return Err(format!("{at} names a row that is not before it"));
                }
            }
        }
        used.sort();
        used.dedup();
        let last =
            checkpoints.iter().map(|(writer, seq, _)| (writer.as_str(), *seq)).collect::<BTreeMap<_, _>>();
        let rows: u64 = self.chains.values().map(|chain| chain.len() as u64).sum();
        let unsigned = self
            .chains
            .iter()
            .map(|(writer, chain)| chain.len() as u64 - last.get(writer.as_str()).copied().unwrap_or(0));
        let unsigned = unsigned.sum();
        let heads = self
            .chains
            .iter()
            .filter_map(|(writer, chain)| Some((writer.clone(), chain.len() as u64, *chain.last()?)));
        Ok(Sound { rows, checkpoints: checkpoints.len(), unsigned, keys: used, heads: heads.collect() })
    }

    /// Whether a row is the one that something else has named.
    fn holds(&self, writer: &str, seq: u64, hash: &Hash) -> Result<(), String> {
        let row = |seq: u64| {
            let at = usize::try_from(seq).ok()?.checked_sub(1)?;
            self.chains.get(writer)?.get(at)
        };
        match row(seq) {
            None => Err(format!("row {seq} of {writer} is missing")),
            Some(found) if found != hash => Err(format!(
                "row {seq} of {writer} is another than it was: it, or one before it, was written anew"
            )),
            Some(_) => Ok(()),
        }
    }

    /// Judges a checkpoint and notes what it names; answers the kid of its key.
    fn checkpoint(&mut self, jws: &str) -> Result<String, String> {
        let options = ParseOptions { token_bytes_max: CHECKPOINT_BYTES_MAX, ..ParseOptions::default() };
        let token = Jws::parse(jws.as_bytes(), &options).map_err(|e| format!("is no JWS: {e}"))?;
        let kid = token.kid().unwrap_or_default().to_owned();
        if token.typ() != Some(CHECKPOINT_TYP) {
            return Err("is another kind of JWT".to_owned());
        }
        let Some(key) = self.keys.get(&kid) else {
            return Err(format!("is signed with the key {kid}, which the issuer never announced"));
        };
        let verified = token.verify(key).map_err(|_| "has a signature that is not by its key".to_owned())?;
        let body: Value = serde_json::from_slice(verified.payload()).map_err(|e| e.to_string())?;
        let about = self.about.as_ref().expect("the first line was taken");
        if body["iss"] != about.issuer.as_str() || body["registry"] != about.registry.as_str() {
            return Err("is of another registry".to_owned());
        }
        let heads = heads_of_json(&body["heads"]).ok_or("names no heads")?;
        self.claims.extend(heads.into_iter().map(|head| (head, kid.clone())));
        Ok(kid)
    }
}

fn row_of(line: &Value, registry: &RegistryName) -> Option<AuditRow> {
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    let hash = |name: &str| hash_of_text(line[name].as_str()?);
    Some(AuditRow {
        registry: registry.clone(),
        writer: text("writer")?,
        seq: line["seq"].as_u64()?,
        prev: hash("prev")?,
        hash: hash("hash")?,
        entry: AuditEntry {
            at_ms: line["at_ms"].as_u64()?,
            actor: text("actor")?,
            action: text("action")?,
            subject: text("subject")?,
            detail: text("detail_text")?,
        },
    })
}

fn short(line: &Value) -> String {
    line.to_string().chars().take(80).collect()
}
