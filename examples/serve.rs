//! Serves the demo model over HTTP on a free port, sends it one request, and stops.
//!
//! ```sh
//! cargo run --example serve
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use cloze::Cloze;
use cloze::engine::Limits;
use cloze::server::Settings;

fn main() -> Result<(), Box<dyn Error>> {
    let limits = Limits {
        queue_size: 64,
        ..Limits::default()
    };
    let cloze = Cloze::builder()
        .limits(limits)
        .open(cloze::checkpoint::Source::embedded())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    println!("serving {} on http://{address}", cloze.name());
    let runtime = tokio::runtime::Runtime::new()?;
    let client = runtime.spawn_blocking(move || ask(address).map_err(|error| error.to_string()));
    let shutdown = async {
        // A server would wait for a signal here.
        match client.await {
            Ok(Ok(response)) => println!("{response}"),
            Ok(Err(error)) => eprintln!("the client failed: {error}"),
            Err(error) => eprintln!("the client failed: {error}"),
        }
    };
    runtime.block_on(cloze.serve(listener, Settings::default(), shutdown))?;
    Ok(())
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let text = "Paris is the [MASK] of France.";
    let mut stream = TcpStream::connect(address)?;
    let length = text.len();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{text}"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
