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

/// Seconds after which a request counts as hanging.
const PATIENCE_SECONDS: u32 = 40;

/// The output of `future`, or `None` if it hangs. Time during which this process was stopped does not count: the server
/// may have been stopped with it.
pub async fn unless_it_hangs<F: Future>(future: F) -> Option<F::Output> {
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

/// An idle connection.
pub struct Client(SendRequest<Full<Bytes>>);

/// An answer.
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
        // The request that fails reports the error.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self(sender))
    }

    /// Sends one request and reads the whole answer.
    pub async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let request = Request::builder().method(method).uri(path);
        self.send(complete(request, body)?).await
    }

    /// Sends `text` with a timeout for the answer.
    pub async fn ask_within(&mut self, timeout: Duration, text: Bytes) -> Result<Answer> {
        let request = Request::post("/").header("x-request-timeout-ms", timeout.as_millis() as u64);
        self.send(complete(request, text)?).await
    }

    /// Sends `text` with `expect: 100-continue` and calls `is_read` when the server answers with status 100, which says
    /// that it reads the request.
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
        unless_it_hangs(asked).await.ok_or("no answer: the server hangs")?
    }
}

fn complete(request: Builder, body: Bytes) -> Result<Request<Full<Bytes>>> {
    Ok(request.header("host", "x").body(Full::new(body))?)
}

/// A text of `words` words and a mask.
pub fn text(words: usize) -> Bytes {
    Bytes::from("word ".repeat(words) + "[MASK].")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let begun = tokio::time::Instant::now();
        assert_eq!(unless_it_hangs(async { 1 }).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(unless_it_hangs(std::future::pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), Duration::from_secs(PATIENCE_SECONDS.into()));
    }
}
