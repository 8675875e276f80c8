//! `drawbridge serve`: from the settings to a running server, and back down.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drawbridge_admission::{Actor, Admission, Clock, NewRegistry, Ways};
use drawbridge_bridge::{
    Bridge, BridgeConfig, BridgeHandle, Durable, HelloReader, HttpsArrival, HttpsEntrance, Listener,
    ListenerKind, ServerTls, TicketSecrets, TlsSettings, WebSocketPlace, raise_open_files,
};
use drawbridge_cli::args::Common;
use drawbridge_cli::{Endpoints, ServeArgs};
use drawbridge_control::Control;
use drawbridge_http::{
    HandedOver, HelloInParts, HttpCounts, HttpState, HttpsDoor, HttpsFrom, HttpsTls, ReadsHello, Served,
    TlsStart, WebSocketConnection, WebSocketDoor, WebSocketSeat,
};
use drawbridge_names::{PrincipalName, RegistryName};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::certificates::{Certificates, Keeper, Kept, Sources};
use crate::data::{DataFolder, Mode};
use crate::edge::{SystemClock, SystemRandom};
use crate::listeners::{self, Bound, ListenerPlan};
use crate::metrics::Metrics;
use crate::pki::ServerCertificate;
use crate::settings::Settings;
use crate::store::{OpenStore, seal_key, seal_key_is_apart};
use crate::{demo, journal, messages};

/// How often the server looks after what is due without anybody asking.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// How often it is looked whether this server still has the store for itself.
const PLACE_LOOK: Duration = Duration::from_millis(100);

/// Ciphertext of a ClientHello for HTTPS.
const HELLO_BYTES_MAX: usize = 64 * 1024;

/// How long connected clients have to leave when the server stops.
const GOODBYE: Duration = Duration::from_secs(3);

/// Whatever stops a start; its text says what was found, what was wanted, and the mend.
type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the server until SIGINT or SIGTERM.
#[expect(clippy::print_stderr, reason = "a start that fails says so on the terminal")]
pub(crate) fn main(common: &Common, args: &ServeArgs) -> ExitCode {
    let settings = match Settings::gather(args) {
        Ok(settings) => settings,
        Err(faults) => {
            for fault in faults {
                eprintln!("error: {fault}");
            }
            return ExitCode::from(2);
        }
    };
    journal::start(&settings.log);
    match run(common, args.demo, &settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(5)
        }
    }
}

fn run(common: &Common, is_demo: bool, settings: &Settings) -> Result<(), StartError> {
    let files = raise_open_files();
    tracing::info!(
        soft_before = files.soft_before,
        soft = files.soft_after,
        hard = files.hard,
        "limit of open files"
    );
    let demo_place = if is_demo { Some(DemoPlace::new(common)?) } else { None };
    let data = match &demo_place {
        Some(place) => DataFolder::open_demo(&place.path)?,
        None => DataFolder::open(&common.data)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).max(2))
        .thread_name("http")
        .build()?;
    runtime.block_on(serve(&data, settings, is_demo))?;
    runtime.shutdown_timeout(GOODBYE);
    Ok(())
}

/// Where the demo keeps its data: a temporary folder, unless `--data` names one.
struct DemoPlace {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl DemoPlace {
    fn new(common: &Common) -> Result<Self, StartError> {
        if common.data != Path::new(drawbridge_cli::args::DEFAULT_DATA) {
            return Ok(Self { path: common.data.clone(), _temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("drawbridge-demo-").tempdir()?;
        Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) })
    }
}

/// The sockets, bound before anything else is made: a port in use is known at once.
struct Sockets {
    listeners: Vec<Bound>,
    mqtt: Option<TcpListener>,
}

impl Sockets {
    fn bind(settings: &Settings, is_demo: bool) -> Result<Self, StartError> {
        let bind = |address: SocketAddr| {
            TcpListener::bind(address).or_else(|e| {
                // A demo must run beside whatever else does.
                if is_demo && e.kind() == std::io::ErrorKind::AddrInUse {
                    tracing::warn!(%address, "in use; the demo takes another port");
                    return TcpListener::bind((address.ip(), 0));
                }
                Err(e)
            })
        };
        let named = |what: &str, address: SocketAddr| {
            bind(address).map_err(|e| -> StartError {
                format!("[DB-6020] {what} cannot listen on {address}: {e}; stop what uses it or choose another port").into()
            })
        };
        let mqtt = match settings.serve.insecure_mqtt_port {
            Some(port) => Some(named("MQTT without TLS", SocketAddr::from(([127, 0, 0, 1], port)))?),
            None => None,
        };
        let mut listeners = Vec::new();
        for plan in listeners::plan(settings).map_err(|faults| faults.join("\n"))? {
            let what = match plan.name.as_str() {
                listeners::MQTTS => "MQTT over TLS".to_owned(),
                listeners::HTTPS => "HTTPS".to_owned(),
                name => format!("listener `{name}`"),
            };
            let socket = named(&what, plan.address)?;
            listeners.push(Bound { plan, socket });
        }
        Ok(Self { listeners, mqtt })
    }

    /// The address of the first listener that is so.
    fn first(&self, is_so: impl Fn(&ListenerPlan) -> bool) -> Result<String, StartError> {
        let found = self.listeners.iter().find(|bound| is_so(&bound.plan));
        Ok(found
            .map(|bound| bound.socket.local_addr())
            .transpose()?
            .map_or_else(String::new, |a| a.to_string()))
    }

    fn endpoints(&self) -> Result<Endpoints, StartError> {
        Ok(Endpoints {
            mqtts: self.first(|plan| plan.mqtt && !plan.raw_keys)?,
            https: self.first(|plan| plan.https)?,
            wss: self.first(|plan| plan.websocket)?,
            mqtt: self.mqtt.as_ref().map(|socket| socket.local_addr()).transpose()?.map(|a| a.to_string()),
        })
    }
}

/// The listeners, as the two sides take them that serve there.
struct Doors {
    mqtt: Vec<Listener>,
    https: Vec<HttpsDoor>,
    kept: Vec<Kept>,
    /// What is open to MQTT over WebSocket, by the number of the listener.
    web_sockets: Vec<Ways>,
}

impl Doors {
    fn open(
        settings: &Settings,
        listeners: Vec<Bound>,
        certificates: &Certificates,
        tickets: Option<&Arc<TicketSecrets>>,
    ) -> Result<Self, StartError> {
        let web_sockets = listeners.iter().map(|bound| bound.plan.web_socket_ways).collect();
        let mut doors = Self { mqtt: Vec::new(), https: Vec::new(), kept: Vec::new(), web_sockets };
        for (index, Bound { plan, socket }) in listeners.into_iter().enumerate() {
            let tls = TlsSettings {
                listener: plan.name.clone(),
                mqtt: plan.mqtt,
                https: plan.http(),
                tls13: plan.tls13,
                tls12: plan.tls12,
                mqtt_certificates: plan.asks_certificates(),
                https_certificates: settings.http.client_certificates,
                tls12_certificates: plan.tls12_certificates,
                raw_keys: plan.raw_keys,
                record_bytes_max: plan.record_bytes_max,
                tickets: tickets.cloned(),
            };
            let shown = certificates.shown(&plan.certificates, &plan.registries, plan.raw_keys);
            let tls = ServerTls::new(tls, &shown)?;
            doors.kept.push(Kept {
                tls: Arc::clone(&tls),
                labels: plan.certificates.clone(),
                registries: plan.registries.clone(),
                raw_keys: plan.raw_keys,
                mqtt: plan.mqtt || plan.websocket,
            });
            let served = Served { listener: index, api: plan.https, web_socket: plan.websocket };
            if !plan.mqtt {
                socket.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(socket)?;
                let from = HttpsFrom::Listener(listener, HttpsTls::ByHello(Arc::new(HelloOf(tls))));
                doors.https.push(HttpsDoor { from, served });
                continue;
            }
            let https = plan.http().then(|| {
                let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
                doors.https.push(HttpsDoor { from: HttpsFrom::Shared(receiver), served });
                Arc::new(ToHttps(sender)) as Arc<dyn HttpsEntrance>
            });
            doors.mqtt.push(Listener {
                socket,
                kind: ListenerKind::ByHello { tls, https },
                registry: plan.registry.clone(),
                ways: plan.ways,
            });
        }
        Ok(doors)
    }
}

/// Leads from a shared listener to HTTPS. What waits in it is bounded by the places of those who have not logged in.
#[derive(Debug)]
struct ToHttps(tokio::sync::mpsc::UnboundedSender<HandedOver>);

impl HttpsEntrance for ToHttps {
    fn enter(&self, arrival: HttpsArrival) {
        let HttpsArrival { socket, peer, hello, tls, place } = arrival;
        // HTTPS has ended: the connection is closed, and its place is free.
        let _ = self.0.send(HandedOver { socket, peer, start: (hello, tls), place });
    }
}

/// Reads the ClientHello for HTTPS.
struct HelloOf(Arc<ServerTls>);

impl ReadsHello for HelloOf {
    fn begin(&self) -> Box<dyn HelloInParts> {
        Box::new(HelloBegun { tls: Arc::clone(&self.0), reader: HelloReader::new(HELLO_BYTES_MAX) })
    }
}

struct HelloBegun {
    tls: Arc<ServerTls>,
    reader: HelloReader,
}

impl HelloInParts for HelloBegun {
    fn feed(&mut self, ciphertext: &[u8]) -> Result<Option<TlsStart>, (rustls::Error, Vec<u8>)> {
        let hello = self.reader.feed(ciphertext).map_err(|fault| (fault.source, fault.alert))?;
        Ok(hello.map(|hello| {
            let choice = self.tls.choose(&hello);
            (hello.accepted, choice.config)
        }))
    }
}

async fn serve(data: &DataFolder, settings: &Settings, is_demo: bool) -> Result<(), StartError> {
    // Before the endpoints exist, so that a signal is never missed.
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hung_up = signal(SignalKind::hangup())?;
    let sockets = Sockets::bind(settings, is_demo)?;
    let endpoints = sockets.endpoints()?;
    let clock = Arc::new(SystemClock);
    let random = Arc::new(SystemRandom);
    let url = settings.store.url.as_ref();
    let sealer = Arc::new(seal_key(data, &settings.seal, url, &*random)?);
    let sources = Sources {
        names: settings.serve.names.clone(),
        files: settings.certificate.clone(),
        tickets: settings.tickets.clone(),
        seal: seal_key_is_apart(&settings.seal).then(|| Arc::clone(&sealer)),
    };
    let (certificates, certificate) = sources.load(data, clock.now_ms() / 1000)?;
    let opened = OpenStore::open(data, url, &*random).await?;
    let admission = Admission::open(
        opened.store.clone(),
        clock.clone(),
        random.clone(),
        sealer,
        settings.admission.clone(),
    )
    .await?;
    let life_s = settings.tickets.life_s;
    let secrets = if life_s > 0 { sources.ticket_secrets(data, &*random)? } else { Vec::new() };
    let tickets = (life_s > 0).then(|| TicketSecrets::new(&secrets, life_s, clock.clone()));
    if settings.seal.previous_key_file.is_some() {
        let secrets = admission.reseal(&Actor::Server).await?;
        tracing::info!(secrets, "sealed anew; `seal.previous_key_file` is needed no more");
    }
    let issuer = open_default_registry(&admission, settings, &endpoints.https).await?;
    keep_admin_token(&admission, data).await?;

    let Sockets { listeners, mqtt } = sockets;
    let plans: Vec<ListenerPlan> = listeners.iter().map(|bound| bound.plan.clone()).collect();
    let addresses: Vec<_> = listeners.iter().filter_map(|bound| bound.socket.local_addr().ok()).collect();
    let doors = Doors::open(settings, listeners, &certificates, tickets.as_ref())?;
    // What tokens by RFC 9431 tell of the broker.
    admission.set_broker_key(certificates.broker_key(&doors.kept));
    let a_clock: Arc<dyn Clock> = clock.clone();
    let broken = Arc::new(tokio::sync::Notify::new());
    let (log, durable) =
        messages::open(data, &settings.messages, &a_clock, &admission, Arc::clone(&broken)).await?;
    let bridge = Bridge::start(
        bridge_config(settings, doors.mqtt, doors.web_sockets, mqtt, durable)?,
        admission.clone(),
        clock.clone(),
        tokio::runtime::Handle::current(),
    )?;
    let handle = bridge.handle();
    admission.watch(Arc::new(handle.clone()));
    let web_socket = Arc::new(MqttOverWebSocket(handle.clone()));
    let control = Arc::new(Control::new(opened.store.clone(), Arc::new(handle), clock));
    bridge.serve_control(control.clone());
    let counts = Arc::new(HttpCounts::default());
    let metrics = Arc::new(Metrics {
        bridge: bridge.handle(),
        log: Arc::clone(&log),
        http: Arc::clone(&counts),
        started_ms: a_clock.now_ms(),
    });
    let configs = control.publish_stored_configs().await?;
    tracing::info!(configs, "stored configs are ready for their devices");

    let maintenance = tokio::spawn(maintain(admission.clone()));
    let stop = Arc::new(tokio::sync::Notify::new());
    let last = admission.clone();
    let http = tokio::spawn({
        let config = Arc::new(settings.http.clone());
        let state = HttpState {
            admission,
            control,
            random,
            config,
            web_socket: Some(web_socket),
            metrics: Some(metrics),
            counts,
        };
        let (config, stop) = (settings.http.clone(), Arc::clone(&stop));
        let (doors, router) = (doors.https, drawbridge_http::router(state));
        async move { drawbridge_http::serve_all(doors, router, config, stop.notified()).await }
    });
    let mut keeper = Keeper {
        data,
        sources: &sources,
        clock: &*a_clock,
        random: &SystemRandom,
        admission: last.clone(),
        listeners: doors.kept,
        tickets,
        certificates,
        secrets,
        fault: None,
    };
    data.write_endpoints(&endpoints)?;
    greet(data, &endpoints, &issuer, &certificate, settings, || {
        greet_further(&plans, &addresses, &keeper.certificates);
    });
    let demo_stop = Arc::new(AtomicBool::new(false));
    let demo = is_demo.then(|| demo::start(data.root(), Arc::clone(&demo_stop)));

    let mut is_ours = true;
    let fault = tokio::select! {
        never = doubt(&opened, &last) => match never {},
        never = keep(&mut keeper, &mut hung_up, settings.serve.certificate_check_s) => match never {},
        _ = interrupted.recv() => {
            tracing::info!("interrupted; stopping");
            None
        }
        _ = terminated.recv() => {
            tracing::info!("told to stop; stopping");
            None
        }
        () = opened.lost() => {
            tracing::error!("another server has taken the store over; stopping");
            is_ours = false;
            Some("[DB-5005] another server has taken the store over; give each server a store of its own")
        }
        () = broken.notified() => {
            tracing::error!("the message log is broken; stopping");
            Some("[DB-5016] a thread of the message log has panicked (see above); start again, and report this")
        }
    };
    data.remove_endpoints();
    demo_stop.store(true, Ordering::Relaxed);
    stop.notify_one();
    tokio::task::spawn_blocking(move || {
        bridge.shutdown(GOODBYE);
        // Last of all: what the ends of the sessions left is still to be stored.
        log.close();
        if let Some(demo) = demo {
            drop(demo.join()); // it has printed its own faults
        }
    })
    .await?;
    http.await?;
    maintenance.abort();
    drop(maintenance.await); // it never ends by itself
    if is_ours {
        last.settle().await;
    }
    fault.map_or(Ok(()), |fault| Err(fault.into()))
}

/// Leads from HTTPS to the bridge.
struct MqttOverWebSocket(BridgeHandle);

impl WebSocketDoor for MqttOverWebSocket {
    fn reserve(
        &self,
        peer: SocketAddr,
        listener: usize,
    ) -> Result<Box<dyn WebSocketSeat>, (&'static str, &'static str)> {
        Ok(Box::new(Seat(self.0.reserve_web_socket_at(peer, listener)?)))
    }
}

struct Seat(WebSocketPlace);

impl WebSocketSeat for Seat {
    fn enter(self: Box<Self>, connection: WebSocketConnection) {
        let WebSocketConnection { socket, session, received, registry } = connection;
        self.0.enter(socket, session, received, registry);
    }
}

/// While nobody knows whether another server works on the store, what this one remembers may be out of date:
/// every decision asks the store then.
async fn doubt(opened: &OpenStore, admission: &Admission) -> Infallible {
    loop {
        admission.believe_memory(opened.is_held());
        if !opened.is_shared() {
            // Each look is a switch of threads, which a message may have to wait for.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(PLACE_LOOK).await;
    }
}

/// Looks after certificates and ticket secrets: now and then, and when it is asked to (SIGHUP).
async fn keep(keeper: &mut Keeper<'_>, hung_up: &mut Signal, interval_s: u64) -> Infallible {
    loop {
        let asked = tokio::select! {
            asked = hung_up.recv() => asked.is_some(),
            () = tokio::time::sleep(Duration::from_secs(interval_s)) => false,
        };
        keeper.look(asked);
    }
}

/// Does what is due, every second, as long as the server runs.
async fn maintain(admission: Admission) {
    let mut ticks = tokio::time::interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        admission.maintain().await;
    }
}

fn bridge_config(
    settings: &Settings,
    mut listeners: Vec<Listener>,
    web_socket_ways: Vec<Ways>,
    plain: Option<TcpListener>,
    durable: Durable,
) -> Result<BridgeConfig, StartError> {
    if let Some(socket) = plain {
        let anonymous_as = match &settings.serve.insecure_anonymous {
            Some(name) => Some(PrincipalName::parse(name)?),
            None => None,
        };
        tracing::warn!(
            anonymous_as = anonymous_as.as_ref().map(tracing::field::display),
            "MQTT without TLS is on, for development only: no token is accepted there"
        );
        listeners.push(Listener {
            socket,
            kind: ListenerKind::Plain { anonymous_as },
            registry: None,
            ways: Ways::ALL,
        });
    }
    let bridge = &settings.bridge;
    let mut config = BridgeConfig {
        listeners,
        web_socket_ways,
        unauthenticated_max: bridge.unauthenticated_max,
        unauthenticated_per_address_max: bridge.unauthenticated_per_address_max,
        address_queue_max: bridge.address_queue_max,
        connect_timeout: Duration::from_secs(bridge.connect_timeout_s),
        handshake_time_per_turn: Duration::from_micros(bridge.handshake_us_per_turn),
        handshakes_waiting_max: bridge.handshakes_waiting_max,
        logins_max: bridge.logins_max,
        renewed_session_max: (bridge.renewed_session_s_max > 0)
            .then(|| Duration::from_secs(bridge.renewed_session_s_max)),
        statistics_interval: Duration::from_secs(bridge.statistics_s),
        storage: Some(durable),
        ..BridgeConfig::default()
    };
    if bridge.shards > 0 {
        config.shards = bridge.shards;
    }
    config.shard.packet_bytes_max = bridge.packet_bytes_max;
    config.shard.waiting_bytes_max = bridge.waiting_bytes_max;
    let messages = &settings.messages;
    config.shard.session_expiry_s_max = messages.session_expiry_s_max;
    config.shard.queue_messages_max = messages.queue_messages_max;
    config.shard.queue_bytes_max = messages.queue_bytes_max;
    Ok(config)
}

/// The issuer is fixed when the registry is first made; a later start on another port keeps it.
async fn open_default_registry(
    admission: &Admission,
    settings: &Settings,
    https: &str,
) -> Result<String, StartError> {
    let host = settings.serve.names.first().map_or("localhost", String::as_str);
    let wanted = match &settings.serve.issuer {
        Some(issuer) => issuer.clone(),
        None => format!("https://{host}:{}", https.parse::<SocketAddr>()?.port()),
    };
    let mut new = NewRegistry::named(RegistryName::default_registry(), Some(wanted.clone()));
    new.clock_skew_s = Some(settings.identity.clock_skew_s);
    new.token_life_s = Some(settings.identity.token_life_s);
    let (record, is_new) = admission.create_registry(new, &Actor::Server).await?;
    if !is_new && record.issuer != wanted {
        tracing::warn!(issuer = record.issuer, wanted, "the issuer was fixed at the first start and stays");
    }
    Ok(record.issuer.clone())
}

/// The admin credential is made once; the folder keeps it for the command line, the store its hash.
async fn keep_admin_token(admission: &Admission, data: &DataFolder) -> Result<(), StartError> {
    if admission.has_admin_token().await? && data.read("admin-token")?.is_some() {
        return Ok(());
    }
    let token = admission.create_admin_token(&Actor::Server).await?;
    let mut line = zeroize::Zeroizing::new(token.to_string());
    line.push('\n');
    data.replace("admin-token", line.as_bytes(), Mode::Private)?;
    Ok(())
}

fn greet(
    data: &DataFolder,
    endpoints: &Endpoints,
    issuer: &str,
    certificate: &ServerCertificate,
    settings: &Settings,
    further: impl FnOnce(),
) {
    let folder = data.root().display();
    say!("drawbridge {} serves from {folder}", env!("CARGO_PKG_VERSION"));
    say!("  mqtt over tls     {}", endpoints.mqtts);
    say!("  https             {}", endpoints.https);
    say!("  mqtt over wss     wss://{}/mqtt", endpoints.wss);
    if let Some(mqtt) = &endpoints.mqtt {
        say!("  mqtt WITHOUT tls  {mqtt} (development only)");
    }
    further();
    let names = ["localhost", "127.0.0.1", "::1"].into_iter();
    let names: Vec<&str> = names.chain(settings.serve.names.iter().map(String::as_str)).collect();
    say!("  names             {}", names.join(", "));
    say!("  issuer            {issuer}");
    say!("  root fingerprint  {}", certificate.root_fingerprint);
    say!("  root certificate  {}", data.path("ca.pem").display());
    say!("next: drawbridge --data {folder} device add lamp");
}

/// The listeners beside the two that are there always.
fn greet_further(plans: &[ListenerPlan], addresses: &[SocketAddr], certificates: &Certificates) {
    for (plan, address) in plans.iter().zip(addresses) {
        if ![listeners::MQTTS, listeners::HTTPS].contains(&plan.name.as_str()) {
            say!("  listener {:<8} {address} ({})", plan.name, plan.speaks());
        }
        if plan.raw_keys
            && let Some(fingerprint) = certificates.raw_key_fingerprint()
        {
            say!("  raw public key    sha256:{fingerprint} (raw-key.pub.pem)");
        }
    }
}
