//! Requests a second through HTTP on loopback, with 1, 8 and 32 keep-alive connections.
//!
//! Server and clients share the machine's cores, as they do when the peers are measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cloze::Cloze;
use cloze::server::Settings;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const TEXT: &str = "The capital of France is [MASK].";

fn start() -> (SocketAddr, String) {
    let cloze = Cloze::demo().expect("the demo model opens");
    let device = cloze.device().to_string();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    // The server lives until the process ends.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(cloze.serve(listener, Settings::default(), std::future::pending()))
    });
    (address, device)
}

/// One keep-alive connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self(BufReader::new(stream))
    }

    fn ask(&mut self) {
        let length = TEXT.len();
        let request = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{TEXT}");
        self.0
            .get_mut()
            .write_all(request.as_bytes())
            .expect("the server reads");
        let mut body_bytes = 0;
        let mut line = String::new();
        for number in 0.. {
            line.clear();
            self.0.read_line(&mut line).expect("the server answers");
            assert!(number > 0 || line.contains(" 200 "), "{line}");
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                body_bytes = value.trim().parse().expect("a number");
            }
            if line == "\r\n" {
                break;
            }
        }
        self.0.read_exact(&mut vec![0; body_bytes]).expect("a whole body");
    }
}

/// The time that `connections` clients take for `requests` requests between them.
fn drive(address: SocketAddr, connections: usize, requests: u64) -> Duration {
    let mut clients: Vec<Client> = (0..connections).map(|_| Client::connect(address)).collect();
    let left = std::sync::atomic::AtomicU64::new(requests);
    let take = || {
        left.fetch_update(
            std::sync::atomic::Ordering::Relaxed,
            std::sync::atomic::Ordering::Relaxed,
            |n| n.checked_sub(1),
        )
    };
    let started_at = Instant::now();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                while take().is_ok() {
                    client.ask();
                }
            });
        }
    });
    started_at.elapsed()
}

fn http(criterion: &mut Criterion) {
    let (address, device) = start();
    println!("demo model through HTTP on {device} (an element is a request)");
    let mut group = criterion.benchmark_group("http");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for connections in [1, 8, 32] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{connections} connections"), |bencher| {
            bencher.iter_custom(|requests| drive(address, connections, requests));
        });
    }
    group.finish();
}

criterion_group!(benches, http);
criterion_main!(benches);
