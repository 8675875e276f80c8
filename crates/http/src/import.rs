//! `POST /v1/devices:import`: devices line by line, as long as the body lasts; the answer is lines as well,
//! and comes while the body is read.
//!
//! What is not read is not kept: one batch of lines is in memory, and if the client does not read the
//! answers, the body is not read on either. A body that breaks off ends after the last whole batch.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::{Actor, ImportDevice, ImportSource, Imported};
use drawbridge_names::{PrincipalName, RegistryName};
use drawbridge_registry::ClockTrust;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::HttpState;
use crate::body::{Object, Query, Texts, json as json_of};
use crate::caller::{Operator, presented_token};
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::keys::KeyBody;
use crate::principals::policy_name;

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// How many devices go to the store in one step.
const BATCH_LINES: usize = 500;
/// And how many bytes of lines, at most.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many answer lines wait to be sent.
const ANSWERS_MAX: usize = 64;
/// How long neither the body may stand still nor the answers go unread, in seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// The media type of both.
const NDJSON: &str = "application/x-ndjson";

/// A line of the body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    #[serde(default)]
    keys: Vec<Object<KeyBody>>,
    policy: Option<String>,
    #[serde(default)]
    attributes: Texts,
    #[serde(default)]
    legacy_assertions: bool,
    clock: Option<String>,
    #[serde(default)]
    gateway: bool,
}

/// Where an import stands.
#[derive(Default)]
struct Counts {
    added: u64,
    exists: u64,
    errors: u64,
}

impl Counts {
    fn at(&self, line: u64) -> Value {
        json!({ "line": line, "added": self.added, "exists": self.exists, "errors": self.errors })
    }
}

/// `POST /v1/devices:import`.
///
/// `first_line`: the number of the first line of this body, for the answers (a part of a longer file);
/// `from_line`: lines before this number are skipped.
pub(crate) async fn import(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    Query(query): Query,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if ![NDJSON, "application/jsonl", "application/jsonlines"].contains(&kind.as_str()) {
        return Err(Failure::media_type(NDJSON));
    }
    let number = |name: &str| match query.number(name)? {
        Some(0) => Err(Failure::bad_request(format!("`{name}` counts from 1"))),
        found => Ok(found.unwrap_or(1)),
    };
    let first_line = number("first_line")?;
    let asked = number("from_line")?;
    let from_line = match headers.get("import-from-line") {
        None => asked,
        Some(value) => {
            let line = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|line| *line > 0);
            line.ok_or_else(|| Failure::bad_request("`Import-From-Line` is no number from 1 on"))?
        }
    };
    let (answers, answered) = mpsc::channel(ANSWERS_MAX);
    let importer = Importer {
        actor: caller.actor().clone(),
        token: Zeroizing::new(presented_token(&headers)?.to_owned()),
        state,
        registry,
        answers,
        line: first_line - 1,
        from_line,
        counts: Counts::default(),
        batch: Batch::default(),
    };
    tokio::spawn(importer.run(request.into_body()));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(NDJSON)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::new(Answers(answered))).into_response())
}

/// The lines of an answer, as they come.
struct Answers(mpsc::Receiver<Bytes>);

impl HttpBody for Answers {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Lines that wait for the next step of the store.
#[derive(Default)]
struct Batch {
    /// Each with its number.
    devices: Vec<(u64, ImportDevice)>,
    /// The bytes of their lines, each with a line end: what the audit has the hash of.
    text: Vec<u8>,
}

/// One import. It ends when the body does, when nobody reads the answers, or when the store fails.
struct Importer {
    state: HttpState,
    registry: RegistryName,
    actor: Actor,
    /// Asked again with every batch: an import may last longer than its caller's rights.
    token: Zeroizing<String>,
    answers: mpsc::Sender<Bytes>,
    /// The number of the last line that was read.
    line: u64,
    from_line: u64,
    counts: Counts,
    batch: Batch,
}

/// Why an import does not go on.
enum Stop {
    /// There is somebody to tell.
    Told(Failure),
    /// There is nobody.
    Gone,
}

impl Importer {
    async fn run(mut self, mut body: Body) {
        let outcome = self.read(&mut body).await;
        let mut last = self.counts.at(self.line);
        match outcome {
            Ok(()) => last["done"] = json!(true),
            Err(Stop::Told(failure)) => {
                tracing::warn!(
                    registry = %self.registry, line = self.line, code = failure.code,
                    reason = failure.log.as_deref().unwrap_or(&failure.detail), "an import stopped"
                );
                last["done"] = json!(false);
                last["error"] = json!(failure.code);
                last["detail"] = json!(failure.detail);
            }
            Err(Stop::Gone) => {
                tracing::info!(registry = %self.registry, line = self.line, "an import was left by its client");
                return;
            }
        }
        // Whoever has gone meanwhile sees the same by asking again.
        let _ = self.tell(&last).await;
    }

    /// Reads lines, and imports them batch by batch.
    async fn read(&mut self, body: &mut Body) -> Result<(), Stop> {
        let broken = || Stop::Told(Failure::body_incomplete("the body broke off; what is reported was done"));
        let mut line: Vec<u8> = Vec::new();
        let mut too_long = false;
        loop {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let frame = frame.map_err(|_| {
                Stop::Told(Failure::body_incomplete(
                    "the body stood still too long; what is reported was done",
                ))
            })?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(|_| broken())?.into_data() else { continue };
            for piece in data.split_inclusive(|byte| *byte == b'\n') {
                let (text, ends) = match piece.strip_suffix(b"\n") {
                    Some(text) => (text, true),
                    None => (piece, false),
                };
                if line.len() + text.len() > LINE_BYTES_MAX {
                    too_long = true;
                    line.clear();
                }
                if !too_long {
                    line.extend_from_slice(text);
                }
                if ends {
                    self.line(&line, too_long).await?;
                    line.clear();
                    too_long = false;
                }
            }
        }
        if !line.is_empty() || too_long {
            self.line(&line, too_long).await?;
        }
        self.flush().await
    }

    async fn line(&mut self, line: &[u8], too_long: bool) -> Result<(), Stop> {
        self.line += 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.line < self.from_line || (line.iter().all(u8::is_ascii_whitespace) && !too_long) {
            return Ok(());
        }
        let device = if too_long {
            Err((None, Failure::import_line(format!("the line is longer than {LINE_BYTES_MAX} bytes"))))
        } else {
            device_of(line)
        };
        match device {
            Ok(device) => {
                self.batch.devices.push((self.line, device));
                self.batch.text.extend_from_slice(line);
                self.batch.text.push(b'\n');
            }
            Err((id, failure)) => self.fault(self.line, id.as_deref(), &failure).await?,
        }
        if self.batch.devices.len() >= BATCH_LINES || self.batch.text.len() >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Imports what has come so far, and says how it went.
    async fn flush(&mut self) -> Result<(), Stop> {
        let Batch { devices, text } = std::mem::take(&mut self.batch);
        let Some((first_line, _)) = devices.first() else { return Ok(()) };
        let source = ImportSource { first_line: *first_line, lines_digest: drawbridge_jose::sha256(&text) };
        let places: Vec<(u64, PrincipalName)> =
            devices.iter().map(|(line, device)| (*line, device.name.clone())).collect();
        let devices = devices.into_iter().map(|(_, device)| device).collect();
        let stands = self.state.admission.still_operates(&self.registry, &self.token).await;
        stands.map_err(|refusal| Stop::Told(refusal.into()))?;
        let imported = self.state.admission.import(&self.registry, devices, source, &self.actor).await;
        let imported = imported.map_err(|error| Stop::Told(error.into()))?;
        for ((line, name), outcome) in places.iter().zip(imported) {
            match outcome {
                Imported::Added => self.counts.added += 1,
                Imported::Exists => self.counts.exists += 1,
                Imported::Refused(error) => self.fault(*line, Some(name.as_str()), &error.into()).await?,
            }
        }
        let progress = self.counts.at(self.line);
        self.tell(&progress).await
    }

    async fn fault(&mut self, line: u64, id: Option<&str>, failure: &Failure) -> Result<(), Stop> {
        self.counts.errors += 1;
        let fault = json!({ "line": line, "id": id, "error": failure.code, "detail": failure.detail });
        self.tell(&fault).await
    }

    async fn tell(&self, value: &Value) -> Result<(), Stop> {
        let line = Bytes::from(format!("{value}\n"));
        match tokio::time::timeout(PATIENCE, self.answers.send(line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stop::Gone),
        }
    }
}

/// The device of a line; else what is wrong, and its id if that was read. Nothing else of the line is
/// repeated: it may hold a private key.
fn device_of(line: &[u8]) -> Result<ImportDevice, (Option<String>, Failure)> {
    let line: Line = json_of(line).map_err(|failure| (None, Failure::import_line(failure.detail.clone())))?;
    let id: String = line.id.chars().take(PrincipalName::BYTES_MAX).collect();
    let judge = || -> Result<ImportDevice, Failure> {
        let clock = |word: &String| {
            ClockTrust::from_word(word)
                .ok_or_else(|| Failure::import_line("`clock` is none of `none`, `coarse`, `good`"))
        };
        let keys = line.keys.iter().map(|Object(key)| key.parse()).collect::<Result<Vec<_>, _>>()?;
        Ok(ImportDevice {
            name: PrincipalName::parse(&line.id).map_err(Failure::bad_name)?,
            keys,
            policy: line.policy.as_deref().map(policy_name).transpose()?,
            attributes: line.attributes.0,
            legacy_assertions: line.legacy_assertions,
            clock: line.clock.as_ref().map(clock).transpose()?,
            gateway: line.gateway,
        })
    };
    judge().map_err(|failure| (Some(id), failure))
}
