//! One keep-alive connection.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Result;

/// Longer than any request may take; what exceeds it hangs.
pub const PATIENCE: Duration = Duration::from_secs(40);

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
        self.send(Request::builder().method(method).uri(path), body).await
    }

    /// Asks for the blank of `text`, and for an answer within `timeout`.
    pub async fn ask_within(&mut self, timeout: Duration, text: Bytes) -> Result<Answer> {
        let request = Request::post("/").header("x-request-timeout-ms", timeout.as_millis() as u64);
        self.send(request, text).await
    }

    async fn send(&mut self, request: hyper::http::request::Builder, body: Bytes) -> Result<Answer> {
        let request = request.header("host", "x").body(Full::new(body))?;
        let asked = async {
            self.0.ready().await?;
            let response = self.0.send_request(request).await?;
            Ok(Answer {
                status: response.status().as_u16(),
                has_retry_after: response.headers().contains_key("retry-after"),
                body: response.into_body().collect().await?.to_bytes(),
            })
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| "no answer: the server hangs")?
    }
}
