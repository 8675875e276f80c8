//! ACL files of Mosquitto.
//!
//! There a client may subscribe to anything and gets what it may read; of its own topics a deny comes first,
//! and whatever its own topics allow no pattern can deny. Here a subscription has to lie within one pattern,
//! and a deny wins wherever it stands. Both are narrower.

use super::{ImportedPolicy, Rule, comment, fault, is_pattern};
use crate::error::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

#[derive(Debug, Clone)]
struct Entry {
    line: usize,
    access: Access,
    topic: String,
    /// `%u` and `%c` are put in.
    pattern: bool,
}

pub(super) fn import(acl: &str) -> Result<Vec<ImportedPolicy>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut users: Vec<(String, Vec<Entry>)> = Vec::new();
    let (mut anonymous, mut patterns) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(acl.lines()) {
        let text = text.trim_end();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim_start_matches(' ');
        match word {
            "user" if !rest.is_empty() => {
                if !users.iter().any(|(user, _)| user == rest) {
                    users.push((rest.to_owned(), Vec::new()));
                }
                // The later lines go to this user, wherever it stood before.
                let at = users.iter().position(|(user, _)| user == rest).unwrap_or_default();
                let user = users.remove(at);
                users.push(user);
            }
            "topic" | "pattern" if !rest.is_empty() => match entry(line, rest, word == "pattern") {
                Ok(entry) if entry.pattern => patterns.push(entry),
                Ok(entry) => users.last_mut().map_or(&mut anonymous, |(_, entries)| entries).push(entry),
                Err(text) => faults.push(fault(line, String::new(), text)),
            },
            _ => faults.push(fault(
                line,
                String::new(),
                format!(
                    "found `{}`; wanted `user NAME`, `topic [read|write|readwrite|deny] TOPIC` or `pattern ...`",
                    text.chars().take(80).flat_map(char::escape_debug).collect::<String>()
                ),
            )),
        }
    }
    let of_nobody: Vec<String> = anonymous
        .iter()
        .map(|entry| {
            format!(
                "line {}: `topic {}` speaks of clients without a user name, and there are none here; give an \
                 application this policy and let it serve them",
                entry.line, entry.topic
            )
        })
        .collect();
    let mut made = Vec::new();
    users.sort_by(|a, b| a.0.cmp(&b.0));
    let everybody = [(None, Vec::new())];
    for (user, own) in users.into_iter().map(|(user, own)| (Some(user), own)).chain(everybody) {
        match one(user, &own, &patterns, &of_nobody) {
            Ok(policy) => made.push(policy),
            Err(more) => {
                faults.extend(more.into_iter().filter(|fault| !faults.contains(fault)).collect::<Vec<_>>())
            }
        }
    }
    if faults.is_empty() {
        Ok(made)
    } else {
        faults.sort();
        Err(faults)
    }
}

fn entry(line: usize, rest: &str, pattern: bool) -> Result<Entry, String> {
    let (access, topic) = match rest.split_once(' ') {
        None => (Access::ReadWrite, rest),
        Some((word, topic)) => {
            let access = match word {
                "read" => Access::Read,
                "write" => Access::Write,
                "readwrite" => Access::ReadWrite,
                "deny" => Access::Deny,
                other => {
                    return Err(format!(
                        "found `{}`; wanted `read`, `write`, `readwrite` or `deny` (and one of them before a topic \
                         that has blanks)",
                        other.escape_debug()
                    ));
                }
            };
            (access, topic.trim_matches(' '))
        }
    };
    Ok(Entry { line, access, topic: topic.to_owned(), pattern })
}

fn one(
    user: Option<String>,
    own: &[Entry],
    patterns: &[Entry],
    of_nobody: &[String],
) -> Result<ImportedPolicy, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut dropped = of_nobody.to_vec();
    let mut notes = vec![
        "a subscription has to lie within one `subscribe` pattern; Mosquitto takes any and hands out what may be read"
            .to_owned(),
    ];
    let (mut allow, mut deny) = (Rule::new("allow"), Rule::new("deny"));
    let (mut client_id, mut pattern_denies) = (false, false);
    for entry in own.iter().chain(patterns) {
        let Entry { line, access, topic, pattern } = entry;
        let place = || format!("line {line}: `{topic}`");
        if topic.contains("${") {
            let text = "`${` begins a variable here, so this topic cannot be written; rename it".to_owned();
            match access {
                Access::Deny => faults.push(fault(*line, String::new(), text)),
                _ => dropped.push(format!("{}: {text}", place())),
            }
            continue;
        }
        let written = if *pattern {
            client_id |= topic.contains("%c");
            topic.replace("%u", "${device}").replace("%c", "${device}")
        } else {
            topic.clone()
        };
        let broken = is_pattern(&written).err().or_else(|| {
            written.starts_with("$share").then(|| "write the filter behind `$share/GROUP/`".to_owned())
        });
        if let Some(why) = broken {
            match access {
                Access::Deny => faults.push(fault(*line, String::new(), format!("`{topic}`: {why}"))),
                _ => dropped.push(format!("{}: {why}", place())),
            }
            continue;
        }
        let first = written.split('/').next().unwrap_or_default();
        let publishes = matches!(access, Access::Write | Access::ReadWrite);
        if publishes {
            match crate::decide::reserved(first) {
                Some(level) => dropped.push(format!(
                    "{}: nobody publishes below `{level}`; the right to read it stands",
                    place()
                )),
                None => allow.publish(&written),
            }
        }
        if matches!(access, Access::Read | Access::ReadWrite) {
            allow.subscribe(&written);
        }
        if *access == Access::Deny {
            pattern_denies |= pattern;
            deny.publish(&written);
            deny.subscribe(&written);
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    if client_id {
        notes.push(
            "`%c` became `${device}`, the name of the principal: the client id of a device is its name, or begins \
             with it and `:`"
                .to_owned(),
        );
    }
    if pattern_denies && !own.is_empty() {
        notes.push(
            "`pattern deny` wins over the user's own topics here; in Mosquitto these are asked first"
                .to_owned(),
        );
    }
    let whom = match &user {
        Some(user) => format!("From a Mosquitto ACL file, for user `{user}`."),
        None => "From a Mosquitto ACL file, for everybody whom it does not name.".to_owned(),
    };
    let mut toml = comment(&whom);
    notes.iter().for_each(|note| toml.push_str(&comment(note)));
    dropped.iter().for_each(|left| toml.push_str(&comment(&format!("left out: {left}"))));
    allow.write(&mut toml);
    deny.write(&mut toml);
    Ok(ImportedPolicy { user, toml, dropped, notes })
}
