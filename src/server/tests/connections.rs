//! Connections over a real socket: slow readers and the stop.

use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use poem::Response;
use poem::endpoint::make_sync;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use cloze_queue::SLOW_BODY;

use super::{MINUTE, app, gated};
use crate::server::metrics::ConnectionCounters;
use crate::server::net::{self, ConnectionLimits, ConnectionOptions, EndSlowRequest};
use crate::server::{App, serve};

const ANSWER_BYTES: usize = 64 << 20;

/// The head of a request with a body of 8 bytes.
const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n";
/// The same; the connection ends with the answer.
const LAST_HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\n";
const BODY: &[u8] = b"a [MASK]";

type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server at a free port, which stops when this is dropped.
struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Runs a server until `clients` is done with it; returns the result of `clients`.
    async fn run<R, E: std::fmt::Debug, F: Future<Output = Result<(), E>>>(
        serve: impl FnOnce(TcpListener, Shutdown) -> F,
        clients: impl AsyncFnOnce(Self) -> R,
    ) -> R {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = oneshot::channel::<()>();
        let served = serve(listener, Box::pin(async { drop(stopped.await) }));
        let (served, result) = tokio::join!(served, clients(Self { address, _stop }));
        served.unwrap();
        result
    }

    /// The same for `app`, which may take `shutdown_timeout` to stop.
    async fn run_app<R>(app: &Arc<App>, shutdown_timeout: Duration, clients: impl AsyncFnOnce(Self) -> R) -> R {
        let app = Arc::clone(app);
        let serve = |listener, shutdown| serve(listener, app, shutdown, shutdown_timeout);
        Self::run(serve, clients).await
    }

    /// A connection on which these parts of a request are sent.
    async fn send(&self, parts: &[&[u8]]) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(&parts.concat()).await.unwrap();
        client
    }
}

/// Waits until the model of [`gated`] computes the first batch; the model ends when the result is dropped.
async fn first_batch(begun: Receiver<()>) -> Receiver<()> {
    let begun = tokio::task::spawn_blocking(move || begun.recv().map(|()| begun));
    begun.await.unwrap().unwrap()
}

/// The bytes until the connection ends, with or without an error.
async fn rest_of(client: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    answer
}

/// The status of the last answer on a connection.
async fn last_status(client: &mut TcpStream) -> String {
    String::from_utf8_lossy(&rest_of(client).await)[9..12].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_disconnected_after_the_write_timeout() {
    let counters = Arc::new(ConnectionCounters::default());
    let endpoint = Arc::new(make_sync(|_| Response::from(vec![b'x'; ANSWER_BYTES])));
    let limits = ConnectionLimits {
        write_timeout: Duration::from_secs(1),
        ..ConnectionLimits::default()
    };
    let options = ConnectionOptions {
        limits,
        tls: None,
        end_slow_request: EndSlowRequest(Arc::new(|| {})),
        counters: Arc::clone(&counters),
    };
    let refuse = Arc::new(|_, _| unreachable!("the head is good"));
    let serve = |listener, shutdown| net::serve(listener, endpoint, refuse, options, shutdown, MINUTE);
    Server::run(serve, async |server: Server| {
        let mut client = server.send(&[b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"]).await;
        // The system takes several megabytes, which would be worth a minute at the lowest rate of reading.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let answer = rest_of(&mut client).await;
        assert!(answer.len() < ANSWER_BYTES, "the whole answer came after the timeout");
        while counters.open_now() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(counters.accepted(), 1);
        assert_eq!(counters.early_ends(), [("write_timeout", 1)].into());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_the_shutdown_timeout_once() {
    let (model, begun, _may_end) = gated();
    let timeout = Duration::from_secs(2);
    let stopped_at = Server::run_app(&app(model, 8, MINUTE), timeout, async |server: Server| {
        let mut client = server.send(&[HEAD, BODY]).await;
        // The batch never ends, and neither does its request.
        let _begun = first_batch(begun).await;
        let stopped_at = Instant::now();
        drop(server);
        // The server closes the connection at the end of the timeout.
        rest_of(&mut client).await;
        stopped_at
    })
    .await;
    let elapsed = stopped_at.elapsed();
    assert!(
        (timeout..timeout + Duration::from_secs(1)).contains(&elapsed),
        "{elapsed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_counted() {
    let (model, begun, may_end) = gated();
    let app = app(model, 8, MINUTE);
    Server::run_app(&app, MINUTE, async |server: Server| {
        let computed = server.send(&[HEAD, BODY]).await;
        let _begun = first_batch(begun).await;
        let waits = server.send(&[HEAD, BODY]).await;
        while app.pipeline.engine().waiting().0 < 1 {
            tokio::task::yield_now().await;
        }
        drop((computed, waits));
        let count = || app.state.metrics.requests("POST", "/", 499);
        while count() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(count(), 2);
        drop(may_end);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_arrive_do_not_keep_others_out() {
    Server::run_app(&app(|_| {}, 4, MINUTE), MINUTE, async |server: Server| {
        let mut halves = Vec::new();
        for _ in 0..4 {
            halves.push(server.send(&[LAST_HEAD, &BODY[..4]]).await);
        }
        tokio::time::sleep(2 * SLOW_BODY).await;
        for _ in 0..2 {
            let mut whole = server.send(&[LAST_HEAD, BODY]).await;
            assert_eq!(last_status(&mut whole).await, "200");
        }
        // One gave its place to the others, which needed one, one after the other; the rest still have theirs.
        let mut statuses = Vec::new();
        for half in &mut halves {
            // A refusal is there already.
            let refused = tokio::time::timeout(SLOW_BODY, half.peek(&mut [0])).await.is_ok();
            if !refused {
                half.write_all(&BODY[4..]).await.unwrap();
            }
            statuses.push(last_status(half).await);
        }
        statuses.sort();
        assert_eq!(statuses, ["200", "200", "200", "503"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_request_does_not_wait_for_bodies_that_arrive() {
    Server::run_app(&app(|_| {}, 2, MINUTE), MINUTE / 60, async |server: Server| {
        for _ in 0..5 {
            let mut halves = Vec::new();
            for _ in 0..2 {
                halves.push(server.send(&[LAST_HEAD, &BODY[..1]]).await);
            }
            // Both have places by then, and are not slow yet.
            tokio::time::sleep(SLOW_BODY / 4).await;
            let mut whole = server.send(&[LAST_HEAD, BODY]).await;
            assert_eq!(last_status(&mut whole).await, "200");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_give_up_the_slots_of_their_connections() {
    let mut app = app(|_| {}, 8, MINUTE);
    Arc::get_mut(&mut app).unwrap().options.connections.connections_max = 2;
    Server::run_app(&app, MINUTE / 60, async |server: Server| {
        let mut halves = Vec::new();
        for _ in 0..2 {
            halves.push(server.send(&[HEAD, &BODY[..1]]).await);
        }
        let mut whole = server.send(&[HEAD, BODY]).await;
        let mut answer = [0; 12];
        let answered = tokio::time::timeout(MINUTE / 6, whole.read_exact(&mut answer)).await;
        answered.expect("the slow bodies keep their slots").unwrap();
        assert_eq!(&answer[9..], b"200");
    })
    .await;
}

/// The client sends the whole request and `more`, and leaves when the batch has begun.
async fn leaves_after(more: &[u8]) {
    let (model, begun, may_end) = gated();
    let app = app(model, 8, MINUTE);
    Server::run_app(&app, MINUTE, async |server: Server| {
        let client = server.send(&[HEAD, BODY, more]).await;
        let _begun = first_batch(begun).await;
        drop(client);
        let is_counted = || app.state.metrics.requests("POST", "/", 499) == 1;
        let counted = async {
            while !is_counted() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let counted = tokio::time::timeout(MINUTE / 6, counted).await;
        counted.expect("the departure is not noticed");
        drop(may_end);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_unread_bytes_leaves() {
    leaves_after(b"G").await;
    leaves_after(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_sends_everything_first() {
    Server::run_app(&app(|_| {}, 4, MINUTE), MINUTE, async |server: Server| {
        let body = vec![b'a'; 8 << 20];
        let chunk = [b"100000\r\n".as_slice(), &body[..1 << 20], b"\r\n"].concat();
        let length = format!("content-length: {}", body.len());
        for (path, framing, body, status) in [
            ("/", length.as_str(), &body, "413"),
            ("/", "transfer-encoding: chunked", &chunk.repeat(8), "413"),
            ("/nothing", length.as_str(), &body, "404"),
            ("/", "content-length: 5\r\ncontent-length: 6", &body, "400"),
        ] {
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
            let mut client = server.send(&[head.as_bytes(), body]).await;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer)[9..12], *status, "{path} {framing}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_arrive_does_not_hold_up_the_stop() {
    Server::run_app(&app(|_| {}, 4, MINUTE), MINUTE, async |server: Server| {
        let mut half = server.send(&[b"GET /health HTTP/1.1\r\nho"]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(server);
        let stopped_at = Instant::now();
        rest_of(&mut half).await;
        let elapsed = stopped_at.elapsed();
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    })
    .await;
}

/// On one thread, so that the server sees the stop before it sees the bytes.
#[tokio::test]
async fn a_request_that_has_arrived_before_the_stop_is_answered() {
    let app = app(|_| {}, 4, MINUTE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, app, async { drop(stopped.await) }, MINUTE));
    let request = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request).await.unwrap();
    assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
    client.write_all(request).await.unwrap();
    stop.send(()).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lingers_gives_up_its_slot() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let refused = make_sync(|request: poem::Request| match request.method().as_str() {
        "POST" => Response::builder()
            .status(poem::http::StatusCode::PAYLOAD_TOO_LARGE)
            .finish(),
        _ => Response::from("answer"),
    });
    let limits = ConnectionLimits {
        connections_max: 1,
        ..ConnectionLimits::default()
    };
    let options = ConnectionOptions {
        limits,
        tls: None,
        end_slow_request: EndSlowRequest(Arc::new(|| {})),
        counters: Arc::default(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let refuse = Arc::new(|_, _| unreachable!("the head is good"));
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(net::serve(
        listener,
        Arc::new(refused),
        refuse,
        options,
        shutdown,
        MINUTE,
    ));
    let mut lingers = TcpStream::connect(address).await.unwrap();
    // Idle for a while, so that it waits for a request for its slot.
    lingers.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(lingers.read(&mut [0; 4096]).await.unwrap() > 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    lingers
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        .await
        .unwrap();
    assert!(lingers.read(&mut [0; 4096]).await.unwrap() > 0);
    let trickle = tokio::spawn(async move {
        while lingers.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let asked_at = Instant::now();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
    assert!(asked_at.elapsed() < Duration::from_secs(3), "{:?}", asked_at.elapsed());
    trickle.await.unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_does_not_hold_up_the_stop() {
    let app = app(|_| {}, 4, MINUTE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, Arc::clone(&app), async { drop(stopped.await) }, MINUTE));
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\na")
        .await
        .unwrap();
    while !app.pipeline.engine().is_receiving() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.send(()).unwrap();
    let stopped_at = Instant::now();
    let mut answer = Vec::new();
    half.read_to_end(&mut answer).await.unwrap();
    assert!(
        stopped_at.elapsed() < Duration::from_secs(5),
        "{:?}",
        stopped_at.elapsed()
    );
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("shutting_down"),
        "{answer}"
    );
    server.await.unwrap().unwrap();
}

/// On one thread, so that the server sees the stop before it accepts the connection.
#[tokio::test]
async fn a_connection_in_the_backlog_at_the_stop_is_answered() {
    use std::io::{Read, Write};

    let app = app(|_| {}, 4, MINUTE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, app, async { drop(stopped.await) }, MINUTE));
    tokio::task::yield_now().await;
    // Blocking, so that the server does not run meanwhile.
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client
        .write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
