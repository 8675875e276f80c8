//! The listener: TLS handshakes side by side, each bounded in time and number, then HTTP/1.1.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use drawbridge_admission::ClientCertificate;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use crate::config::{HEADER_BYTES_MAX, HttpConfig};
use crate::crowd::Crowd;

/// The address of the peer, in the extensions of every request that came through [`serve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// Pause after a failed `accept`: out of file descriptors, most of all, which waiting may mend.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long connections may finish their request after `shutdown`.
const GRACE: Duration = Duration::from_secs(5);

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
    let server = Arc::new(Server { acceptor: TlsAcceptor::from(Arc::new(tls)), router, config });
    let handshakes = Arc::new(Semaphore::new(server.config.handshakes_max.max(1)));
    let connections = Arc::new(Semaphore::new(server.config.connections_max.max(1)));
    let crowd = Crowd::new(server.config.connections_per_address_max);
    let (stop, stopped) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            // Permits before `accept`: the excess waits in the kernel's queue and costs us nothing.
            let connection = acquire(&connections).await;
            let handshake = acquire(&handshakes).await;
            (listener.accept().await, connection, handshake)
        };
        let (accepted, connection, handshake) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = crowd.enter(peer.ip()) else {
                    tracing::debug!(%peer, "https: as many connections as one address may have");
                    continue;
                };
                let (server, stopped) = (Arc::clone(&server), stopped.clone());
                tokio::spawn(async move {
                    server.connection(stream, peer, handshake, stopped).await;
                    drop((connection, seat));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "https: cannot accept a connection, trying again");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    drop(stopped);
    stop.send_replace(true);
    // Every connection holds a receiver: when the last is gone, all are done.
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
    acceptor: TlsAcceptor,
    router: Router,
    config: HttpConfig,
}

impl Server {
    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        handshake: OwnedSemaphorePermit,
        mut stopped: watch::Receiver<bool>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "https: TCP_NODELAY");
        }
        let patience = Duration::from_secs(self.config.handshake_s_max);
        let stream = match tokio::time::timeout(patience, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "https: TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "https: TLS handshake took too long"),
        };
        drop(handshake);
        let certificate = client_certificate(&stream);
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(PeerAddress(peer));
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

/// What the client has presented in the handshake of this connection, by which it has proven to hold the
/// key. Nothing is resumed, so it is never of another one.
fn client_certificate(stream: &TlsStream<TcpStream>) -> Option<Arc<ClientCertificate>> {
    let chain = stream.get_ref().1.peer_certificates()?;
    let chain_der: Vec<Vec<u8>> = chain.iter().map(|certificate| certificate.to_vec()).collect();
    (!chain_der.is_empty()).then(|| Arc::new(ClientCertificate { chain_der }))
}
