//! Counts of events whose log lines are suppressed.

use std::fmt::Debug;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poem::Response;
use poem::endpoint::make_sync;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::MINUTE;
use crate::server::net::{self, ConnectionLimits, ConnectionOptions, EndSlowRequest};
use crate::server::state::State;

/// A message and its field `count`.
type Line = (String, u64);

/// Records the events of a thread that have a count.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Line>>>);

impl Recorder {
    /// A recorder of this thread's events, until the guard is dropped.
    fn start() -> (Self, DefaultGuard) {
        let recorder = Self::default();
        let subscriber = tracing_subscriber::registry().with(recorder.clone());
        (recorder, subscriber.set_default())
    }

    /// The counts since the last call of the lines that begin with `message`.
    fn counts(&self, message: &str) -> Vec<u64> {
        let mut counts = Vec::new();
        self.0.lock().unwrap().retain(|(line, count)| {
            let is_wanted = line.starts_with(message);
            counts.extend(is_wanted.then_some(*count));
            !is_wanted
        });
        counts
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let count = fields.count;
        self.0
            .lock()
            .unwrap()
            .extend(count.map(|count| (fields.message, count)));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    count: Option<u64>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "count" {
            self.count = Some(value);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_event_is_counted_after_a_second_and_at_the_stop() {
    let (recorder, _guard) = Recorder::start();
    let state = Arc::new(State::default());
    let counting = Arc::clone(&state);
    tokio::spawn(async move { counting.log_counts().await });
    for is_stop in [false, true] {
        let kinds = [
            (&state.refusals, "requests refused with 503 since"),
            (&state.bad_heads, "requests refused before the service since"),
            (&state.departures, "clients left before their answers since"),
        ];
        for (log, _) in kinds {
            (0..4).for_each(|_| log.log(|_| ()));
        }
        tokio::task::yield_now().await;
        for (_, message) in kinds {
            assert!(recorder.counts(message).is_empty(), "{message}: at once");
        }
        match is_stop {
            true => state.log_last_counts(),
            false => tokio::time::sleep(Duration::from_millis(1001)).await,
        }
        for (_, message) in kinds {
            assert_eq!(recorder.counts(message), [3], "{message}");
        }
        // A line is due again.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test]
async fn waits_at_the_connection_limit_are_counted_after_ten_seconds_and_at_the_stop() {
    const COUNT: &str = "connections waited at the connection limit since";
    let (recorder, _guard) = Recorder::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = ConnectionOptions {
        limits: ConnectionLimits {
            connections_max: 1,
            ..ConnectionLimits::default()
        },
        tls: None,
        end_slow_request: EndSlowRequest(Arc::new(|| {})),
        counters: Arc::default(),
    };
    let endpoint = Arc::new(make_sync(|_| Response::from("answer")));
    let refuse = Arc::new(|_, _| unreachable!("the heads are good"));
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let serving = net::serve(listener, endpoint, refuse, options, shutdown, MINUTE);
    // Each connection takes the slot of the one before it.
    let request = async || {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
        client
    };
    let clients = async {
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(request().await);
        }
        assert_eq!(recorder.counts("connection limit reached"), [1]);
        assert!(recorder.counts(COUNT).is_empty());
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(11)).await;
        tokio::time::resume();
        assert_eq!(recorder.counts(COUNT), [2]);
        for _ in 0..2 {
            clients.push(request().await);
        }
        assert!(recorder.counts(COUNT).is_empty());
        stop.send(()).unwrap();
    };
    tokio::join!(serving, clients).0.unwrap();
    let at_stop = recorder.counts(COUNT);
    assert!(matches!(at_stop[..], [1..=2]), "{at_stop:?}");
}
