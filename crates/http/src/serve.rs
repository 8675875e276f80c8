//! The listener: TLS handshakes side by side, each bounded in time and number, then HTTP/1.1.

use std::any::Any;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use drawbridge_admission::ClientCertificate;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Accepted;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{StartHandshake, TlsAcceptor};
use tower::ServiceExt as _;

use crate::config::{HEADER_BYTES_MAX, HttpConfig};
use crate::crowd::Crowd;

/// The address of the peer, in the extensions of every request that came through [`serve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// Pause after a failed `accept`: out of file descriptors, most of all, which waiting may mend.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Read at once of a ClientHello; one with X25519MLKEM768 has 1.5 kB.
const HELLO_READ_BYTES: usize = 4096;

/// How long connections may finish their request after `shutdown`.
const GRACE: Duration = Duration::from_secs(5);

/// A way in: where clients come from, and what they may have there.
pub struct HttpsDoor {
    /// Where they come from.
    pub from: HttpsFrom,
    /// What is served to them.
    pub served: Served,
}

/// Where clients of HTTPS come from.
pub enum HttpsFrom {
    /// A listener of its own.
    Listener(TcpListener, HttpsTls),
    /// One that is shared with MQTT: whoever listens there has read the ClientHello.
    Shared(UnboundedReceiver<HandedOver>),
}

/// How TLS begins at a listener.
#[derive(Clone)]
pub enum HttpsTls {
    /// The same for everybody.
    Fixed(Arc<rustls::ServerConfig>),
    /// As the ClientHello wants it.
    ByHello(Arc<dyn ReadsHello>),
}

/// Chooses settings of TLS by the ClientHello.
pub trait ReadsHello: Send + Sync {
    /// Begins with a client.
    fn begin(&self) -> Box<dyn HelloInParts>;
}

/// The ClientHello of one client.
pub trait HelloInParts: Send {
    /// Takes what came; `None`: it is not whole yet.
    ///
    /// # Errors
    /// What is wrong with it, and the alert that is to be sent.
    fn feed(&mut self, ciphertext: &[u8]) -> Result<Option<TlsStart>, (rustls::Error, Vec<u8>)>;
}

/// What the handshake goes on with behind a ClientHello.
pub type TlsStart = (Accepted, Arc<rustls::ServerConfig>);

/// A connection of a shared listener.
pub struct HandedOver {
    /// Non-blocking.
    pub socket: std::net::TcpStream,
    /// Its other end.
    pub peer: SocketAddr,
    /// Its ClientHello, and how TLS goes on.
    pub start: TlsStart,
    /// Its place where it came from, given back when its handshake is done.
    pub place: Box<dyn Any + Send>,
}

/// What is served to the clients of a listener, in the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Which listener it is, for [`crate::WebSocketDoor`].
    pub listener: usize,
    /// The API, and all else but `/mqtt`.
    pub api: bool,
    /// MQTT over WebSocket.
    pub web_socket: bool,
}

impl Served {
    /// All there is, at the first listener.
    pub const ALL: Self = Self { listener: 0, api: true, web_socket: true };
}

/// Serves a router over TLS until `shutdown` is ready, then lets running requests end (5 s at most).
///
/// `tls` is taken as it is, but for ALPN, which is set to `http/1.1`.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    config: HttpConfig,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let from = HttpsFrom::Listener(listener, HttpsTls::Fixed(Arc::new(tls)));
    serve_all(vec![HttpsDoor { from, served: Served::ALL }], router, config, shutdown).await;
}

/// As [`serve`], for many listeners; the bounds of `config` are for all of them together.
pub async fn serve_all(
    doors: Vec<HttpsDoor>,
    router: Router,
    config: HttpConfig,
    shutdown: impl Future<Output = ()> + Send,
) {
    let server = Arc::new(Server {
        router,
        handshakes: Arc::new(Semaphore::new(config.handshakes_max.max(1))),
        connections: Arc::new(Semaphore::new(config.connections_max.max(1))),
        crowd: Crowd::new(config.connections_per_address_max),
        config,
    });
    let (stop, stopped) = watch::channel(false);
    for HttpsDoor { from, served } in doors {
        let (server, stopped) = (Arc::clone(&server), stopped.clone());
        match from {
            HttpsFrom::Listener(listener, tls) => {
                drop(tokio::spawn(server.listen(listener, tls, served, stopped)));
            }
            HttpsFrom::Shared(arrivals) => drop(tokio::spawn(server.receive(arrivals, served, stopped))),
        }
    }
    drop(stopped);
    shutdown.await;
    stop.send_replace(true);
    // Every door and connection holds a receiver: when the last is gone, all are done.
    if tokio::time::timeout(GRACE, stop.closed()).await.is_err() {
        tracing::warn!("https: some requests did not end within {} s and are cut off", GRACE.as_secs());
    }
}

async fn stop_asked(stopped: &mut watch::Receiver<bool>) {
    // The sender going away is the same as its saying so.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("the semaphores are never closed")
}

struct Server {
    router: Router,
    config: HttpConfig,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    crowd: Arc<Crowd>,
}

impl Server {
    async fn listen(
        self: Arc<Self>,
        listener: TcpListener,
        tls: HttpsTls,
        served: Served,
        mut stopped: watch::Receiver<bool>,
    ) {
        loop {
            let accepted = async {
                // Permits before `accept`: the excess waits in the kernel's queue and costs us nothing.
                let connection = acquire(&self.connections).await;
                let handshake = acquire(&self.handshakes).await;
                (listener.accept().await, connection, handshake)
            };
            let (accepted, connection, handshake) = tokio::select! {
                () = stop_asked(&mut stopped) => return,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(seat) = self.crowd.enter(peer.ip()) else {
                        tracing::debug!(%peer, "https: as many connections as one address may have");
                        continue;
                    };
                    let (server, tls, stopped) = (Arc::clone(&self), tls.clone(), stopped.clone());
                    tokio::spawn(async move {
                        let handshake = server.handshake(peer, handshake, begin(stream, &tls));
                        if let Some(stream) = handshake.await {
                            server.connection(stream, peer, served, stopped).await;
                        }
                        drop((connection, seat));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "https: cannot accept a connection, trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Those who cannot be served now are closed: who waited here would keep others from MQTT.
    async fn receive(
        self: Arc<Self>,
        mut arrivals: UnboundedReceiver<HandedOver>,
        served: Served,
        mut stopped: watch::Receiver<bool>,
    ) {
        loop {
            let arrived = tokio::select! {
                () = stop_asked(&mut stopped) => return,
                arrived = arrivals.recv() => arrived,
            };
            let Some(HandedOver { socket, peer, start, place }) = arrived else { return };
            let connection = Arc::clone(&self.connections).try_acquire_owned();
            let (Ok(connection), Some(seat)) = (connection, self.crowd.enter(peer.ip())) else {
                tracing::debug!(%peer, "https: as many connections as there may be, in all or of one address");
                continue;
            };
            let (server, stopped) = (Arc::clone(&self), stopped.clone());
            tokio::spawn(async move {
                let (hello, tls) = start;
                let stream = async {
                    let stream = TcpStream::from_std(socket)?;
                    StartHandshake::from_parts(hello, stream).into_stream(tls).await
                };
                let patience = Duration::from_secs(server.config.handshake_s_max);
                let Ok(permit) = tokio::time::timeout(patience, acquire(&server.handshakes)).await else {
                    return tracing::debug!(%peer, "https: as many handshakes as there may be");
                };
                let stream = server.handshake(peer, permit, stream).await;
                drop(place);
                if let Some(stream) = stream {
                    server.connection(stream, peer, served, stopped).await;
                }
                drop((connection, seat));
            });
        }
    }

    async fn handshake(
        &self,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        stream: impl Future<Output = io::Result<TlsStream<TcpStream>>>,
    ) -> Option<TlsStream<TcpStream>> {
        let patience = Duration::from_secs(self.config.handshake_s_max);
        let done = tokio::time::timeout(patience, stream).await;
        drop(permit);
        match done {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "https: TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "https: TLS handshake took too long"),
        }
        None
    }

    async fn connection(
        &self,
        stream: TlsStream<TcpStream>,
        peer: SocketAddr,
        served: Served,
        mut stopped: watch::Receiver<bool>,
    ) {
        if let Err(error) = stream.get_ref().0.set_nodelay(true) {
            tracing::debug!(%peer, %error, "https: TCP_NODELAY");
        }
        let certificate = client_certificate(&stream);
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(PeerAddress(peer));
            request.extensions_mut().insert(served);
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(Arc::clone(certificate));
            }
            router.clone().oneshot(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(self.config.header_s_max))
            .max_buf_size(HEADER_BYTES_MAX)
            .keep_alive(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop_asked(&mut stopped) => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(GRACE, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "https: connection ended");
        }
    }
}

/// Begins with a client that has said nothing yet.
async fn begin(mut stream: TcpStream, tls: &HttpsTls) -> io::Result<TlsStream<TcpStream>> {
    let reads = match tls {
        HttpsTls::Fixed(config) => return TlsAcceptor::from(Arc::clone(config)).accept(stream).await,
        HttpsTls::ByHello(reads) => reads,
    };
    let mut hello = reads.begin();
    let mut buffer = [0; HELLO_READ_BYTES];
    loop {
        let came = stream.read(&mut buffer).await?;
        if came == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match hello.feed(buffer.get(..came).unwrap_or_default()) {
            Ok(None) => {}
            Ok(Some((hello, tls))) => {
                return StartHandshake::from_parts(hello, stream).into_stream(tls).await;
            }
            Err((error, alert)) => {
                // The close says enough if this does not arrive.
                let _ = stream.write_all(&alert).await;
                let _ = stream.shutdown().await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

/// What the client has presented in the handshake of this connection, by which it has proven to hold the
/// key; or in that of the session that this one resumes. It is judged anew wherever it is used.
fn client_certificate(stream: &TlsStream<TcpStream>) -> Option<Arc<ClientCertificate>> {
    let chain = stream.get_ref().1.peer_certificates()?;
    let chain_der: Vec<Vec<u8>> = chain.iter().map(|certificate| certificate.to_vec()).collect();
    (!chain_der.is_empty()).then(|| Arc::new(ClientCertificate { chain_der }))
}
