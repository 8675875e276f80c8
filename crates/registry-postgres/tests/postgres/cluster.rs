//! A real PostgreSQL cluster in a temporary folder, on a Unix socket and a port of 127.0.0.1.
//!
//! A small shell beside it waits for the end of this program, however it ends, then stops the server and
//! takes the folder away.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use drawbridge_registry_postgres::PostgresStore;

/// The password of the tests' user; none may ever be seen again.
pub(crate) const PASSWORD: &str = "open-sesame-7f3a";

/// Waits until `done`, at most a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited a minute in vain: {what}");
}

/// A cluster of one server.
pub(crate) struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    pub(crate) port: u16,
    server: Mutex<Option<Child>>,
    /// Held open: when it closes, the shell cleans up.
    _janitor: Child,
    databases: AtomicU32,
}

impl Cluster {
    /// The one that most tests share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        // A power cut is not among its tests; nothing else is lost without fsync.
        SHARED.get_or_init(|| Self::new(&["fsync=off", "max_connections=300"]))
    }

    /// One of its own, with further settings.
    pub(crate) fn new(settings: &[&str]) -> Self {
        let programs = programs();
        let folder = tempfile::tempdir().expect("a folder").keep();
        let janitor = janitor(&folder);
        if let Some((uid, gid)) = *server_user() {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).expect("root gives the folder away");
        }
        let password = folder.join("password");
        std::fs::write(&password, PASSWORD).expect("written");
        run(as_server_user(&programs.join("initdb"))
            .arg("--no-sync")
            .args(["--encoding=UTF8", "--locale=C", "--username=drawbridge", "--auth=scram-sha-256"])
            .arg(format!("--pwfile={}", password.display()))
            .arg("--pgdata")
            .arg(folder.join("data")));
        let mut conf = std::fs::OpenOptions::new()
            .append(true)
            .open(folder.join("data/postgresql.conf"))
            .expect("initdb makes it");
        for setting in settings {
            writeln!(conf, "{setting}").expect("written");
        }
        let mut cluster = Self {
            folder,
            programs,
            port: 0,
            server: Mutex::new(None),
            _janitor: janitor,
            databases: AtomicU32::new(0),
        };
        for _ in 0..5 {
            cluster.port = free_port();
            if cluster.try_start() {
                return cluster;
            }
        }
        panic!("the server does not start:\n{}", cluster.log());
    }

    /// The server's version.
    pub(crate) fn version(&self) -> String {
        self.sql("postgres", "SELECT version()")
    }

    /// A file of the cluster's folder that its server can read.
    pub(crate) fn write_file(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join(name);
        std::fs::write(&path, text).expect("written");
        if let Some((uid, gid)) = *server_user() {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("root gives the file away");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        path
    }

    /// Starts the server and waits until it answers. Its port may be somebody's for a moment.
    pub(crate) fn start(&self) {
        wait_until("the server starts", || self.try_start());
    }

    /// `false`: the server has ended before it answered.
    fn try_start(&self) -> bool {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("a log");
        let mut server = as_server_user(&self.programs.join("postgres"))
            .arg("-D")
            .arg(self.folder.join("data"))
            .arg("-k")
            .arg(&self.folder)
            .args(["-c", "listen_addresses=127.0.0.1", "-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("postgres can be run");
        let mut ended = false;
        wait_until("the server answers", || {
            ended = server.try_wait().expect("it is a child").is_some();
            ended || self.try_sql("postgres", "SELECT 1").is_some()
        });
        if !ended {
            *self.server.lock().expect("not poisoned") = Some(server);
        }
        !ended
    }

    /// Kills the server as the kernel would, with whatever it is doing.
    pub(crate) fn kill(&self) {
        let mut server = self.server.lock().expect("not poisoned");
        let mut server = server.take().expect("it runs");
        server.kill().expect("it can be killed");
        server.wait().expect("it has ended");
        // Its processes see that it is gone; until then their memory keeps a new one from starting.
        let memory = self.folder.join("data/postmaster.pid");
        wait_until("its processes have ended", || !has_processes(&self.folder));
        drop(std::fs::remove_file(memory));
    }

    /// Stops the server as an operator does (`fast`): every connection is told and ended.
    pub(crate) fn stop(&self) {
        let mut server = self.server.lock().expect("not poisoned");
        let mut server = server.take().expect("it runs");
        run(Command::new("kill").args(["-INT", &server.id().to_string()]));
        server.wait().expect("it has ended");
    }

    /// A fresh database; answers its URL over the Unix socket.
    pub(crate) fn database(&self) -> String {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// The URL of a database over the Unix socket.
    pub(crate) fn url(&self, database: &str) -> String {
        let socket = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://drawbridge:{PASSWORD}@{socket}:{}/{database}", self.port)
    }

    /// The URL of the same database over TCP.
    pub(crate) fn tcp_url(&self, url: &str) -> String {
        format!("postgres://drawbridge:{PASSWORD}@127.0.0.1:{}/{}", self.port, database_of(url))
    }

    /// Runs SQL with `psql`; answers its unaligned output.
    #[track_caller]
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|| {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            panic!("{sql}: failed. The server's log:\n{log}");
        })
    }

    fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let output = Command::new(self.programs.join("psql"))
            .env("PGPASSWORD", PASSWORD)
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "drawbridge"])
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql])
            .output()
            .expect("psql can be run");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).expect("it has a log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(server) = self.server.get_mut()
            && let Some(mut server) = server.take()
        {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

/// The name of a URL's database.
pub(crate) fn database_of(url: &str) -> &str {
    let path = url.rsplit('/').next().expect("a URL has a path");
    path.split('?').next().expect("there is a first part")
}

/// Opens a store.
pub(crate) async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url, "one").await.expect("the store opens")
}

/// Where Debian and others keep the server's programs: the newest version.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for folder in ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().replace("postgresql@", "");
            if let (Ok(version), true) = (name.parse(), entry.path().join("bin/initdb").exists()) {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        if folder.join("initdb").exists() && folder.join("postgres").exists() {
            found.push((0, folder));
        }
    }
    found.sort();
    found.pop().expect("no PostgreSQL server here: run ./scripts/test, which installs one").1
}

/// The server refuses to run as root: then it is run by `postgres`, or by `nobody`.
fn server_user() -> &'static Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    USER.get_or_init(|| {
        let id = |arguments: &[&str]| -> Option<u32> {
            let output = Command::new("id").args(arguments).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        if id(&["-u"]) != Some(0) {
            return None;
        }
        let ids = |user| Some((id(&["-u", user])?, id(&["-g", user])?));
        Some(ids("postgres").or_else(|| ids("nobody")).expect("there is a user to run the server"))
    })
}

fn as_server_user(program: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = match *server_user() {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.args(["--clear-groups", "--"]).arg(program);
            command
        }
    };
    // An interrupt from the terminal ends the tests; the janitor ends the server.
    command.process_group(0).current_dir("/");
    command
}

fn janitor(folder: &Path) -> Child {
    use std::os::unix::process::CommandExt;
    let script = r#"
        read -r _
        pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
        if [ -n "$pid" ]; then
            kill -INT "$pid" 2>/dev/null
            for _ in 1 2 3 4 5 6 7 8 9 10; do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.3
            done
            kill -KILL "$pid" 2>/dev/null
        fi
        rm -rf "$1"
    "#;
    Command::new("sh")
        .args(["-c", script, "janitor"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh can be run")
}

/// Whether a process has its files in a folder open.
fn has_processes(folder: &Path) -> bool {
    let data = folder.join("data");
    let in_data =
        |entry: std::fs::DirEntry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data);
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(in_data)
}

/// Nobody else is told of it, so nobody takes it before the server does, save by chance.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it can be run");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
