//! The end of a connection whose client may still be sending.
//!
//! A socket that is closed while bytes arrive resets the connection, and a client that sends its whole body before it
//! reads would lose the refusal. So the server reads and discards for a while (RFC 9112, section 9.6).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::socket::Socket;

/// Time limit of the whole, and between two parts.
const LINGER_MAX: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Bytes that are discarded at most.
const BYTES_MAX: usize = 64 << 20;

/// Discards what the client sends, until it closes its side or a limit is reached.
pub async fn linger(socket: &Socket) {
    let mut socket = socket.clone();
    // After an error hyper has not done so. The client may have closed the connection.
    let _ = socket.shutdown().await;
    let mut buffer = vec![0; 32 * 1024];
    let end = Instant::now() + LINGER_MAX;
    let mut discarded = 0;
    while discarded < BYTES_MAX {
        let silence = Instant::now() + SILENCE_MAX;
        match timeout_at(end.min(silence), socket.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => discarded += count,
            // The end, an error, or a time limit.
            _ => return,
        }
        // A client that sends fast would hold the thread.
        tokio::task::yield_now().await;
    }
}
