//! Rates and CPU, side by side in one run.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::engine::Engine;

const ROUNDS: usize = 3;
const EACH: Duration = Duration::from_millis(1500);

pub fn run(folder: &Path) {
    println!("| records a group | store | records/s | CPU us a record |\n|---|---|---|---|");
    for records in [1, 10, 100, 1000] {
        // Interleaved, for the disk drifts.
        let mut results: [Vec<(f64, f64)>; 3] = Default::default();
        for round in 0..ROUNDS {
            for (at, name) in ["append + fdatasync", "fjall", "segments"].into_iter().enumerate() {
                let folder = folder.join(format!("{name}-{records}-{round}"));
                results[at].push(if at == 0 {
                    bare(&folder, records)
                } else {
                    store(name, &folder, records)
                });
                let _ = std::fs::remove_dir_all(&folder);
            }
        }
        for (name, mut result) in ["append + fdatasync", "fjall", "segments"].into_iter().zip(results) {
            result.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (rate, cpu) = result[ROUNDS / 2];
            println!("| {records} | {name} | {rate:.0} | {cpu:.1} |");
        }
    }
}

fn bare(folder: &Path, records: u64) -> (f64, f64) {
    std::fs::create_dir_all(folder).expect("there is room");
    let mut options = OpenOptions::new();
    let mut file: File = options.append(true).create(true).open(folder.join("file")).expect("there is room");
    let bytes = vec![7; 300 * records as usize];
    measure(records, |_| {
        file.write_all(&bytes).and_then(|()| file.sync_data()).expect("there is room");
    })
}

fn store(name: &str, folder: &Path, records: u64) -> (f64, f64) {
    let mut engine = Engine::open_as_shipped(name, folder).expect("a new folder opens");
    measure(records, |group| engine.store(group, records))
}

fn measure(records: u64, mut store: impl FnMut(u64)) -> (f64, f64) {
    let (began, cpu) = (Instant::now(), cpu_s());
    let mut groups = 0;
    while began.elapsed() < EACH {
        groups += 1;
        store(groups);
    }
    let stored = (groups * records) as f64;
    (stored / began.elapsed().as_secs_f64(), (cpu_s() - cpu) * 1e6 / stored)
}

/// CPU of this process so far, all threads, in seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit_once(')').expect("Linux").1;
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("Linux")).sum();
    ticks as f64 / 100.0
}
