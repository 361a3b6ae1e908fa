//! Connections over a real socket: slow readers and the stop.

use std::net::TcpListener;
use std::sync::Arc;
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
use crate::server::serve;

const ANSWER_BYTES: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_disconnected_after_the_write_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
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
    let (stop, stopped) = oneshot::channel::<()>();
    let refuse = Arc::new(|_, _| unreachable!("the head is good"));
    let shutdown = async { drop(stopped.await) };
    let server = net::serve(listener, endpoint, refuse, options, shutdown, MINUTE);
    let client = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // The system takes several megabytes, which would be worth a minute at the lowest rate of reading.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let mut answer = Vec::new();
        // The end of the connection, with or without an error.
        let _ = client.read_to_end(&mut answer).await;
        assert!(answer.len() < ANSWER_BYTES, "the whole answer came after the timeout");
        while counters.open_now() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(counters.accepted(), 1);
        assert_eq!(counters.early_ends(), [("write_timeout", 1)].into());
        stop.send(()).unwrap();
    };
    tokio::join!(async { server.await.unwrap() }, client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_the_shutdown_timeout_once() {
    let (model, begun, _may_end) = gated();
    let app = app(model, 8, MINUTE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let timeout = Duration::from_secs(2);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, app, async { drop(stopped.await) }, timeout);
    let client = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\na [MASK]";
        client.write_all(request).await.unwrap();
        let begun = tokio::task::spawn_blocking(move || begun.recv().map(|()| begun));
        // The batch never ends, and neither does its request.
        let _begun = begun.await.unwrap().unwrap();
        let stopped_at = Instant::now();
        stop.send(()).unwrap();
        // The server closes the connection at the end of the timeout.
        let _ = client.read_to_end(&mut Vec::new()).await;
        stopped_at
    };
    let ((), stopped_at) = tokio::join!(async { server.await.unwrap() }, client);
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, Arc::clone(&app), async { drop(stopped.await) }, MINUTE);
    let clients = async {
        let mut computed = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\na [MASK]";
        computed.write_all(request).await.unwrap();
        let begun = tokio::task::spawn_blocking(move || begun.recv().map(|()| begun));
        let _begun = begun.await.unwrap().unwrap();
        let mut waits = TcpStream::connect(address).await.unwrap();
        waits.write_all(request).await.unwrap();
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
        stop.send(()).unwrap();
    };
    tokio::join!(async { server.await.unwrap() }, clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_arrive_do_not_keep_others_out() {
    let app = app(|_| {}, 4, MINUTE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, Arc::clone(&app), async { drop(stopped.await) }, MINUTE);
    let head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\n";
    let status = async |client: &mut TcpStream| {
        let mut answer = Vec::new();
        // The end of the connection, with or without an error.
        let _ = client.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer)[9..12].to_owned()
    };
    let clients = async {
        let mut halves = Vec::new();
        for _ in 0..4 {
            let mut half = TcpStream::connect(address).await.unwrap();
            half.write_all(head).await.unwrap();
            half.write_all(b"a [M").await.unwrap();
            halves.push(half);
        }
        tokio::time::sleep(2 * SLOW_BODY).await;
        for _ in 0..2 {
            let mut whole = TcpStream::connect(address).await.unwrap();
            whole.write_all(head).await.unwrap();
            whole.write_all(b"a [MASK]").await.unwrap();
            assert_eq!(status(&mut whole).await, "200");
        }
        // One gave its place to the others, which needed one, one after the other; the rest still have theirs.
        let mut statuses = Vec::new();
        for half in &mut halves {
            // A refusal is there already.
            let refused = tokio::time::timeout(SLOW_BODY, half.peek(&mut [0])).await.is_ok();
            if !refused {
                half.write_all(b"ASK]").await.unwrap();
            }
            statuses.push(status(half).await);
        }
        statuses.sort();
        assert_eq!(statuses, ["200", "200", "200", "503"]);
        stop.send(()).unwrap();
    };
    tokio::join!(async { server.await.unwrap() }, clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_request_does_not_wait_for_bodies_that_arrive() {
    let app = app(|_| {}, 2, MINUTE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, Arc::clone(&app), async { drop(stopped.await) }, MINUTE / 60);
    let head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\n";
    let clients = async {
        for _ in 0..5 {
            let mut halves = Vec::new();
            for _ in 0..2 {
                let mut half = TcpStream::connect(address).await.unwrap();
                half.write_all(head).await.unwrap();
                half.write_all(b"a").await.unwrap();
                halves.push(half);
            }
            // Both have places by then, and are not slow yet.
            tokio::time::sleep(SLOW_BODY / 4).await;
            let mut whole = TcpStream::connect(address).await.unwrap();
            whole.write_all(&[&head[..], b"a [MASK]"].concat()).await.unwrap();
            let mut answer = Vec::new();
            whole.read_to_end(&mut answer).await.unwrap();
            assert_eq!(&answer[9..12], b"200");
        }
        stop.send(()).unwrap();
    };
    tokio::join!(async { server.await.unwrap() }, clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_give_up_the_slots_of_their_connections() {
    let mut app = app(|_| {}, 8, MINUTE);
    Arc::get_mut(&mut app).unwrap().options.connections.connections_max = 2;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, Arc::clone(&app), async { drop(stopped.await) }, MINUTE / 60);
    let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n";
    let clients = async {
        let mut halves = Vec::new();
        for _ in 0..2 {
            let mut half = TcpStream::connect(address).await.unwrap();
            half.write_all(&[&head[..], b"a"].concat()).await.unwrap();
            halves.push(half);
        }
        let mut whole = TcpStream::connect(address).await.unwrap();
        whole.write_all(&[&head[..], b"a [MASK]"].concat()).await.unwrap();
        let mut answer = [0; 12];
        let answered = tokio::time::timeout(MINUTE / 6, whole.read_exact(&mut answer)).await;
        answered.expect("the slow bodies keep their slots").unwrap();
        assert_eq!(&answer[9..], b"200");
        stop.send(()).unwrap();
        drop(whole);
    };
    tokio::join!(async { server.await.unwrap() }, clients);
}

/// The client sends the whole request and `more`, and leaves when the batch has begun.
async fn leaves_after(more: &[u8]) {
    let (model, begun, may_end) = gated();
    let app = app(model, 8, MINUTE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, Arc::clone(&app), async { drop(stopped.await) }, MINUTE);
    let client = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\na [MASK]";
        client.write_all(&[request, more].concat()).await.unwrap();
        let begun = tokio::task::spawn_blocking(move || begun.recv().map(|()| begun));
        let _begun = begun.await.unwrap().unwrap();
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
        stop.send(()).unwrap();
    };
    tokio::join!(async { server.await.unwrap() }, client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_unread_bytes_leaves() {
    leaves_after(b"G").await;
    leaves_after(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
}
