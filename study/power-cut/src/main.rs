//! fjall and our own segments under the same work. `study/power-cut/run` drives this; see decision 0022.
//!
//! ```text
//! work ENGINE FOLDER GROUPS                    stores groups of 100 records and says `acked N` after each
//! judge ENGINE TRACE FOLDER GROUPS POINTS SEED what power cuts at random points of that work leave
//! figures FOLDER                               records a second and CPU a record, side by side
//! ```

mod engine;
mod figures;
mod trace;

use std::path::{Path, PathBuf};

use engine::Engine;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["work", engine, folder, groups] => work(engine, Path::new(folder), number(groups)),
        ["judge", engine, trace, folder, groups, points, seed] => {
            let paths = (Path::new(trace), Path::new(folder));
            judge(engine, paths, number(groups), number(points), number(seed));
        }
        ["figures", folder] => figures::run(Path::new(folder)),
        _ => panic!("see the head of src/main.rs"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number"))
}

fn work(engine: &str, folder: &Path, groups: u64) {
    use std::io::Write;
    let mut engine = Engine::open(engine, folder).expect("a new folder opens");
    let mut out = std::io::stdout();
    for group in 1..=groups {
        engine.store(group, engine::RECORDS);
        writeln!(out, "acked {group}").expect("somebody reads");
        out.flush().expect("somebody reads");
    }
}

/// For two models of what a file system keeps:
/// - `ordered`, as ext4 with its journal: names change in order, and every fsync makes all name changes before it
///   durable;
/// - `posix`: a name is durable only after an fsync of its folder, and any of the others may be lost.
///
/// In both, unsynced writes are kept, lost, cut off or kept in some sectors only.
fn judge(engine: &str, (trace, folder): (&Path, &Path), groups: u64, points: u64, seed: u64) {
    let trace = trace::Trace::read(trace);
    println!("{engine}: {} calls traced, {} of them syncs", trace.calls(), trace.syncs());
    for model in [trace::Model::Ordered, trace::Model::Posix] {
        let mut faults = Vec::new();
        let (mut unopened, mut lost, mut torn) = (0, 0, 0);
        let root: PathBuf = folder.join(format!("{engine}-{model:?}"));
        trace.cut(model, points, seed, &root, |left, point, acked| {
            let fault = match Engine::stands(engine, left, groups) {
                Err(error) => {
                    unopened += 1;
                    format!("does not open: {error}")
                }
                Ok(None) => {
                    torn += 1;
                    "is no prefix of what was stored".to_owned()
                }
                Ok(Some(stands)) if stands < acked => {
                    lost += 1;
                    format!("{stands} groups stand, {acked} were acknowledged")
                }
                Ok(Some(_)) => return,
            };
            faults.push(format!("  at call {point}, {acked} acknowledged: {fault}"));
        });
        println!(
            "{engine}, {model:?}: {points} power cuts: {unopened} do not open, {lost} lost acknowledged groups, \
             {torn} hold something else"
        );
        faults.iter().take(5).for_each(|fault| println!("{fault}"));
    }
}
