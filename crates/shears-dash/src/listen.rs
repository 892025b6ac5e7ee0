//! Connections: how many there may be, and how long one may take to send a request.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use shears_run::PLAN;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::runs::ITSELF;
use crate::{App, DashError, Options, app};

/// What connections may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How long a connection may take to send the head of a request; half a head would hold it for
    /// ever.
    head: Duration,
    /// Simultaneous connections; for a further one, another is closed. A browser opens six.
    connections: usize,
}

const LIMITS: Limits = Limits {
    head: Duration::from_secs(10),
    connections: 512,
};
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
    let address = to_open(address);
    if ready(&format!("http://{address}/{token}{page}")).is_break() {
        return Ok(());
    }
    tokio::select! {
        () = accept(&listener, &router, LIMITS) => Ok(()),
        () = asked_to_stop => Ok(()),
    }
}

/// The address that a browser on this machine opens. One that stands for all is none.
fn to_open(mut listening: SocketAddr) -> SocketAddr {
    match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listening.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listening.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listening
}

/// Accepts connections for ever.
async fn accept(listener: &TcpListener, router: &Router, limits: Limits) {
    let connections = Arc::new(Connections::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.add(stream, router, limits),
            Err(_) => {
                connections.close_one();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The open connections, by number in the order in which they were accepted.
#[derive(Debug, Default)]
struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    by_number: BTreeMap<u64, Connection>,
    /// Counts accepted connections and answered requests.
    turn: u64,
}

#[derive(Debug)]
struct Connection {
    /// Whether a request is being answered; otherwise it waits for the head of one.
    is_answering: bool,
    /// The turn at which that began.
    since: u64,
    task: AbortHandle,
}

impl Open {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        // The table is consistent after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of a further connection in a task of its own.
    fn add(self: &Arc<Self>, stream: TcpStream, router: &Router, limits: Limits) {
        if self.open().by_number.len() >= limits.connections {
            self.close_one();
        }
        // Locked until it is in the table, from which the task removes it.
        let mut open = self.open();
        let number = open.next_turn();
        let listed = Listed {
            connections: self.clone(),
            number,
        };
        let task = tokio::spawn(answer(stream, router.clone(), limits.head, listed));
        let connection = Connection {
            is_answering: false,
            since: number,
            task: task.abort_handle(),
        };
        open.by_number.insert(number, connection);
    }

    /// Closes the connection that has waited longest for a request, so that idle connections do not
    /// keep others out. If all are being answered (streams of live pages, or clients that do not
    /// read), closes the oldest: a page opens its stream again.
    fn close_one(&self) {
        let mut open = self.open();
        let by_number = &open.by_number;
        let oldest = by_number
            .iter()
            .min_by_key(|(_, it)| (it.is_answering, it.since));
        let number = oldest.map(|(number, _)| *number);
        let connection = number.and_then(|number| open.by_number.remove(&number));
        drop(open);
        if let Some(connection) = connection {
            connection.task.abort();
        }
    }

    fn mark(&self, number: u64, is_answering: bool) {
        let mut open = self.open();
        let since = open.next_turn();
        if let Some(connection) = open.by_number.get_mut(&number) {
            connection.is_answering = is_answering;
            connection.since = since;
        }
    }
}

/// A connection's entry in the table, removed at its end.
struct Listed {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.open().by_number.remove(&self.number);
    }
}

/// A request being answered, to the end of the response's body.
struct Answering {
    connections: Arc<Connections>,
    number: u64,
}

impl Answering {
    fn of(listed: &Listed) -> Self {
        listed.connections.mark(listed.number, true);
        Answering {
            connections: listed.connections.clone(),
            number: listed.number,
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.connections.mark(self.number, false);
    }
}

/// The body of a response; dropped when all of it has been sent.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

async fn answer(stream: TcpStream, router: Router, head_timeout: Duration, listed: Listed) {
    let pages = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        let answering = Answering::of(&listed);
        let response = pages.call(request);
        async move {
            let answer = |body| Answer {
                body,
                _answering: answering,
            };
            response.await.map(|response| response.map(answer))
        }
    });
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

    const HALF: &[u8] = b"GET / HTTP/1.1\r\nHost: loc";
    const WHOLE: &[u8] = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";

    async fn serve(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new();
        tokio::spawn(async move { accept(&listener, &router, limits).await });
        address
    }

    async fn connect(address: SocketAddr, request: &[u8]) -> TcpStream {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.writable().await.unwrap();
        assert_eq!(stream.try_write(request).unwrap(), request.len());
        stream
    }

    /// What arrives first; nothing if the connection is closed.
    async fn received(stream: &TcpStream) -> Vec<u8> {
        let read = async {
            let mut bytes = [0; 512];
            loop {
                stream.readable().await.unwrap();
                match stream.try_read(&mut bytes) {
                    Ok(read) => return bytes[..read].to_vec(),
                    // Closed with bytes that the server has not read.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return vec![],
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        read.expect("an answer within a minute")
    }

    #[tokio::test]
    async fn half_a_request_is_dropped() {
        let head = Duration::from_millis(200);
        let address = serve(Limits { head, ..LIMITS }).await;
        let half = connect(address, HALF).await;
        assert_eq!(received(&half).await, b"");
    }

    /// Neither half requests, nor silence, nor connections that were answered once and are kept.
    #[tokio::test]
    async fn connections_without_requests_keep_nobody_out() {
        let limits = Limits {
            head: Duration::from_secs(3600),
            connections: 4,
        };
        let address = serve(limits).await;
        let mut idle = Vec::new();
        for _ in 0..10 {
            idle.push(connect(address, HALF).await);
            idle.push(connect(address, b"").await);
            let asked = connect(address, WHOLE).await;
            assert!(received(&asked).await.starts_with(b"HTTP/1.1 404"));
            idle.push(asked);
        }
        // The oldest were closed; the newest are as they were.
        assert_eq!(received(&idle[0]).await, b"");
        let newest = idle.last().unwrap();
        assert_eq!(newest.try_write(WHOLE).unwrap(), WHOLE.len());
        assert!(received(newest).await.starts_with(b"HTTP/1.1 404"));
    }
}
