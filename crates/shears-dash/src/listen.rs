//! Connections: how many there may be, and how long one may take to send a request.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use shears_run::PLAN;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runs::ITSELF;
use crate::{App, DashError, Options, app};

/// How long a connection may take to send the head of a request; half a head would hold it for
/// ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Simultaneous connections. Others wait; a browser opens six.
const MOST_CONNECTIONS: usize = 512;
/// The pause after accepting failed, mostly because no file descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn listen(
    options: Options,
    ready: impl FnOnce(&str) -> ControlFlow<()>,
) -> Result<(), DashError> {
    let address = SocketAddr::new(options.host, options.port);
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| DashError::Listen { address, source })?;
    let address = listener.local_addr().map_err(DashError::Serve)?;
    let asked_to_stop = stop_signal().map_err(DashError::Serve)?;
    let page = match options.folder.join(PLAN).is_file() {
        true => format!("#/run/{ITSELF}"),
        false => String::new(),
    };
    let App { router, token } = app(options)?;
    let token = token.map_or(String::new(), |token| format!("?token={token}"));
    if ready(&format!("http://{address}/{token}{page}")).is_break() {
        return Ok(());
    }
    tokio::select! {
        () = accept(&listener, &router, HEAD_TIMEOUT) => Ok(()),
        () = asked_to_stop => Ok(()),
    }
}

/// Accepts connections for ever.
async fn accept(listener: &TcpListener, router: &Router, head_timeout: Duration) {
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = free.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, router.clone(), head_timeout, permit));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn answer(
    stream: TcpStream,
    router: Router,
    head_timeout: Duration,
    _permit: OwnedSemaphorePermit,
) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away or took too long is not an error of the server.
    drop(connection.await);
}

/// Completes on Ctrl-C, or when the system asks the process to end.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Completes on Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without such a signal the server runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn half_a_request_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new();
        tokio::spawn(async move { accept(&listener, &router, Duration::from_millis(200)).await });
        let half = TcpStream::connect(address).await.unwrap();
        half.writable().await.unwrap();
        half.try_write(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
        let closed = async {
            loop {
                half.readable().await.unwrap();
                match half.try_read(&mut [0; 512]) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                }
            }
        };
        let closed = tokio::time::timeout(Duration::from_secs(60), closed).await;
        closed.expect("the connection is closed");
    }
}
