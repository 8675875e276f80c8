//! What a process has used, as the system counts it.

use std::fs;

use super::clock::Clock;
use super::report::Report;
use crate::Failure;

/// CPU time and resident memory of a process on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    folder: Pid,
}

#[derive(Debug, Clone, Copy)]
enum Pid {
    Own,
    Other(u32),
}

impl Process {
    /// The generator itself.
    pub(super) fn own() -> Self {
        Self { folder: Pid::Own }
    }

    /// The broker, when its process id was given.
    pub(super) fn server(pid: Option<u32>) -> Result<Option<Self>, Failure> {
        let Some(pid) = pid else { return Ok(None) };
        let server = Self { folder: Pid::Other(pid) };
        server.cpu_s()?;
        Ok(Some(server))
    }

    fn read(self, file: &str) -> Result<String, Failure> {
        let path = match self.folder {
            Pid::Own => format!("/proc/self/{file}"),
            Pid::Other(pid) => format!("/proc/{pid}/{file}"),
        };
        fs::read_to_string(&path).map_err(|e| {
            Failure::Usage(format!(
                "{path}: {e}; --server-pid takes the id of a running process of this machine (Linux)"
            ))
        })
    }

    /// User and system time, in seconds; the system counts in steps of 10 ms.
    pub(super) fn cpu_s(self) -> Result<f64, Failure> {
        let stat = self.read("stat")?;
        cpu_s_of(&stat).ok_or_else(|| Failure::Unavailable(format!("/proc: `{stat}` is not understood")))
    }

    /// Resident memory, in bytes.
    pub(super) fn resident_bytes(self) -> Result<u64, Failure> {
        let status = self.read("status")?;
        resident_of(&status).ok_or_else(|| Failure::Unavailable("/proc: no VmRSS in `status`".to_owned()))
    }
}

fn cpu_s_of(stat: &str) -> Option<f64> {
    // The name of the program stands in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0) // Linux shows 100 ticks a second to programs
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// What both sides use while a load runs.
#[derive(Debug)]
pub(super) struct Meter {
    server: Option<Process>,
    clock: Clock,
    begun_ns: u64,
    server_cpu_s: f64,
    own_cpu_s: f64,
}

/// What both sides have used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) seconds: f64,
    server_cpu_s: Option<f64>,
    own_cpu_s: f64,
}

impl Meter {
    /// Begins now.
    pub(super) fn start(server: Option<Process>, clock: Clock) -> Result<Self, Failure> {
        let server_cpu_s = server.map_or(Ok(0.0), Process::cpu_s)?;
        Ok(Self { server, clock, begun_ns: clock.ns(), server_cpu_s, own_cpu_s: Process::own().cpu_s()? })
    }

    /// What was used since the start.
    pub(super) fn used(&self) -> Result<Used, Failure> {
        let server_cpu_s = self.server.map(Process::cpu_s).transpose()?;
        Ok(Used {
            seconds: (self.clock.ns() - self.begun_ns) as f64 / 1e9,
            server_cpu_s: server_cpu_s.map(|now| now - self.server_cpu_s),
            own_cpu_s: Process::own().cpu_s()? - self.own_cpu_s,
        })
    }
}

impl Used {
    /// Puts the rate of `count` things and what each million of them cost the server into a report.
    pub(super) fn tell(&self, report: &mut Report, what: &str, count: u64) {
        report.found("measured_s", self.seconds);
        report.found(what, count as f64);
        report.found(format!("{what}_per_s"), count as f64 / self.seconds);
        if let Some(cpu) = self.server_cpu_s {
            report.found("server_cpu_s", cpu);
            report.found("server_cpu_percent", 100.0 * cpu / self.seconds);
            report.found("server_cpu_us_each", 1e6 * cpu / count as f64);
        }
        report.found("generator_cpu_percent", 100.0 * self.own_cpu_s / self.seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        let stat = "12 (a (b) c) S 1 12 12 0 -1 4194560 900 0 0 0 150 25 0 0 20 0 3 0 100 1 2";
        assert_eq!(cpu_s_of(stat), Some(1.75));
        assert_eq!(cpu_s_of("nonsense"), None);
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(resident_of("Name:\tx\n"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_the_users_fault() {
        assert!(matches!(Process::server(Some(u32::MAX)), Err(Failure::Usage(_))));
        assert!(Process::server(None).expect("none asked").is_none());
        assert!(Process::own().resident_bytes().expect("we run") > 0);
    }
}
