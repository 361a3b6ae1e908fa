//! One keep-alive connection.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::request::Builder;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Result;

/// Longer than any request may take, in seconds; what exceeds it hangs.
const PATIENCE_SECONDS: u32 = 40;

/// Gives what `future` gives, or `None` if it hangs. Seconds that this process slept through, stopped by a signal or
/// with its machine, are no patience: the server may have been stopped with it.
pub async fn patiently<F: Future>(future: F) -> Option<F::Output> {
    let wait = async {
        for _ in 0..PATIENCE_SECONDS {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = wait => None,
    }
}

/// A connection that is free.
pub struct Client(SendRequest<Full<Bytes>>);

/// What came back.
pub struct Answer {
    pub status: u16,
    pub has_retry_after: bool,
    pub body: Bytes,
}

impl Client {
    pub async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its error is told by the request that meets it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self(sender))
    }

    /// Sends one request and reads its answer whole.
    pub async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let request = Request::builder().method(method).uri(path);
        self.send(complete(request, body)?).await
    }

    /// Asks for the blank of `text`, and for an answer within `timeout`.
    pub async fn ask_within(&mut self, timeout: Duration, text: Bytes) -> Result<Answer> {
        let request = Request::post("/").header("x-request-timeout-ms", timeout.as_millis() as u64);
        self.send(complete(request, text)?).await
    }

    /// Asks for the blank of `text`, and calls `is_read` when the server says that it is reading the request (with status
    /// 100, for which this asks).
    pub async fn ask_and_hear(&mut self, text: Bytes, is_read: impl Fn() + Send + Sync + 'static) -> Result<Answer> {
        let mut request = complete(Request::post("/").header("expect", "100-continue"), text)?;
        hyper::ext::on_informational(&mut request, move |_| is_read());
        self.send(request).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let asked = async {
            self.0.ready().await?;
            let response = self.0.send_request(request).await?;
            Ok(Answer {
                status: response.status().as_u16(),
                has_retry_after: response.headers().contains_key("retry-after"),
                body: response.into_body().collect().await?.to_bytes(),
            })
        };
        patiently(asked).await.ok_or("no answer: the server hangs")?
    }
}

fn complete(request: Builder, body: Bytes) -> Result<Request<Full<Bytes>>> {
    Ok(request.header("host", "x").body(Full::new(body))?)
}

/// A text of so many words and a mask.
pub fn text(words: usize) -> Bytes {
    Bytes::from("word ".repeat(words) + "[MASK].")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let begun = tokio::time::Instant::now();
        assert_eq!(patiently(async { 1 }).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(patiently(std::future::pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), Duration::from_secs(PATIENCE_SECONDS.into()));
    }
}
