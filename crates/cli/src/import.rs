//! `drawbridge device import`: a file of devices goes to the server part by part, so that a cut costs a part
//! and a run that goes on finds its place.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::Common;
use crate::output;
use crate::{Failure, Server};

/// Lines and bytes of one request, at most.
const PART_LINES: u64 = 5_000;
const PART_BYTES: usize = 8 * 1024 * 1024;
const NDJSON: &str = "application/x-ndjson";

/// Where an import of a file stands: `FILE.progress`, there only while it is not done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    /// The length of the file: of another one it would be another place.
    file_bytes: u64,
    /// Lines that are done.
    lines: u64,
    added: u64,
    exists: u64,
    errors: u64,
}

pub(crate) fn import(
    common: &Common,
    file: &Path,
    errors: Option<&Path>,
    resume: bool,
) -> Result<(), Failure> {
    let server = Server::find(common)?;
    let fault = |path: &Path, e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
    let source = File::open(file).map_err(|e| {
        Failure::Usage(format!("{}: {e}; wanted a file with a JSON object a line", file.display()))
    })?;
    let file_bytes = source.metadata().map_err(|e| fault(file, e))?.len();
    let beside = |ending: &str| PathBuf::from(format!("{}.{ending}", file.display()));
    let (state, errors) = (beside("progress"), errors.map_or_else(|| beside("errors"), Path::to_owned));
    let mut progress = if resume { earlier(&state, file_bytes)? } else { Progress::default() };
    progress.file_bytes = file_bytes;
    let mut refused = Refused { path: &errors, file: None, append: resume };
    let mut reader = BufReader::new(source);
    let mut part = Part::default();
    for _ in 0..progress.lines {
        skip(&mut reader).map_err(|e| fault(file, e))?;
    }
    loop {
        let more = part.fill(&mut reader).map_err(|e| fault(file, e))?;
        if part.lines > 0 {
            let path = format!("/v1/devices:import?first_line={}", progress.lines + 1);
            let answer = server.call_with("POST", &path, Some((NDJSON, &part.text)))?;
            take(&answer.text, &mut progress, &mut refused)?;
            progress.lines += part.lines;
            keep(&state, &progress)?;
            if !common.json {
                eprintln!("{}", said(&progress));
            }
            part = Part::default();
        }
        if !more {
            break;
        }
    }
    if state.exists() {
        fs::remove_file(&state).map_err(|e| fault(&state, e))?;
    }
    let summary = json!({
        "lines": progress.lines, "added": progress.added, "exists": progress.exists,
        "errors": progress.errors,
        "errors_file": if progress.errors > 0 { json!(errors.to_string_lossy()) } else { Value::Null },
    });
    if common.json {
        output::json(&summary);
    } else {
        say!("{}", said(&progress));
        if progress.errors == 0 {
            output::next(common, &["device", "list"]);
        }
    }
    if progress.errors > 0 {
        return Err(Failure::Conflict(format!(
            "{} lines were refused, see {}; mend them and import the file again: what is there already is skipped",
            progress.errors,
            errors.display()
        )));
    }
    Ok(())
}

fn said(progress: &Progress) -> String {
    let Progress { lines, added, exists, errors, .. } = progress;
    format!("{lines} lines: {added} added, {exists} were there, {errors} refused")
}

/// A part of the file that goes to the server in one request.
#[derive(Default)]
struct Part {
    text: Vec<u8>,
    lines: u64,
}

impl Part {
    /// Answers whether there is more in the file.
    fn fill(&mut self, reader: &mut BufReader<File>) -> Result<bool, std::io::Error> {
        while self.lines < PART_LINES && self.text.len() < PART_BYTES {
            if reader.read_until(b'\n', &mut self.text)? == 0 {
                return Ok(false);
            }
            self.lines += 1;
        }
        Ok(true)
    }
}

fn skip(reader: &mut BufReader<File>) -> Result<(), std::io::Error> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).map(|_| ())
}

/// Where the last run stopped.
fn earlier(state: &Path, file_bytes: u64) -> Result<Progress, Failure> {
    let mend = "import without --resume: what is there already is skipped";
    let text =
        fs::read_to_string(state).map_err(|e| Failure::Usage(format!("{}: {e}; {mend}", state.display())))?;
    let progress: Progress = serde_json::from_str(&text)
        .map_err(|e| Failure::Usage(format!("{}: {e}; {mend}", state.display())))?;
    if progress.file_bytes != file_bytes {
        return Err(Failure::Usage(format!("{}: the file has changed since; {mend}", state.display())));
    }
    Ok(progress)
}

/// Written by rename: a cut leaves the old one or the new one.
fn keep(state: &Path, progress: &Progress) -> Result<(), Failure> {
    let new = PathBuf::from(format!("{}.new", state.display()));
    let text = serde_json::to_string(progress).expect("numbers can be written");
    let kept = fs::write(&new, text).and_then(|()| fs::rename(&new, state));
    kept.map_err(|e| Failure::Usage(format!("{}: {e}", state.display())))
}

/// The file of lines that were refused; made when there is one.
struct Refused<'a> {
    path: &'a Path,
    file: Option<File>,
    append: bool,
}

impl Refused<'_> {
    fn write(&mut self, line: &str) -> Result<(), Failure> {
        let fault = |e: std::io::Error| Failure::Usage(format!("{}: {e}", self.path.display()));
        if self.file.is_none() {
            let mut options = fs::OpenOptions::new();
            options.create(true).write(true).append(self.append).truncate(!self.append);
            self.file = Some(options.open(self.path).map_err(fault)?);
        }
        let file = self.file.as_mut().expect("opened above");
        writeln!(file, "{line}").map_err(fault)
    }
}

/// Takes the answer to one part: its faults, and what it came to.
fn take(answer: &str, progress: &mut Progress, refused: &mut Refused<'_>) -> Result<(), Failure> {
    let mut last = Value::Null;
    for line in answer.lines() {
        let told: Value = serde_json::from_str(line).map_err(|e| {
            Failure::Unavailable(format!("the server answered something else than lines: {e}"))
        })?;
        if told["error"].is_string() && told["done"].is_null() {
            refused.write(line)?;
        }
        last = told;
    }
    if last["done"] != true {
        let detail = last["detail"].as_str().unwrap_or("the answer broke off").to_owned();
        return Err(Failure::Unavailable(format!("{detail}; go on with --resume")));
    }
    let count = |name: &str| last[name].as_u64().unwrap_or(0);
    progress.added += count("added");
    progress.exists += count("exists");
    progress.errors += count("errors");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_breaks_off_is_a_failure_and_its_faults_are_kept() {
        let folder = std::env::temp_dir().join(format!("drawbridge-import-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("errors");
        let mut refused = Refused { path: &path, file: None, append: false };
        let mut progress = Progress::default();
        let whole = "{\"line\":2,\"error\":\"DB-4227\"}\n{\"line\":2,\"added\":1,\"exists\":0,\"errors\":1,\"done\":true}\n";
        take(whole, &mut progress, &mut refused).expect("whole");
        assert_eq!((progress.added, progress.errors), (1, 1));
        for broken in [
            "",
            "{\"line\":2,\"added\":1,\"exists\":0,\"errors\":1}\n",
            "{\"done\":false,\"error\":\"DB-5001\",\"detail\":\"x\"}",
            "<html>",
        ] {
            assert!(take(broken, &mut progress, &mut refused).is_err(), "{broken}");
        }
        assert_eq!(fs::read_to_string(&path).expect("written").lines().count(), 1);
        fs::remove_dir_all(&folder).expect("removed");
    }
}
