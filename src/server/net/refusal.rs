//! Refusals of request heads that never reach the service.
//!
//! hyper answers a head that it cannot parse itself, with an empty body and unknown to the service. [`RefusalIo`]
//! recognizes such an answer by the state of the connection and sends the one of the service in its place.

use std::io::{IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use poem::http::{Request, Response, StatusCode, Version, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::deadlines::SharedDeadlines;

/// Why the head of a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// Not HTTP, or fields that contradict each other.
    Malformed,
    /// A TLS handshake on a port without TLS.
    Tls,
    /// No `Host` field in HTTP/1.1, or more than one.
    Host,
    UriTooLong,
    /// Too many fields, or longer than the read buffer.
    TooLarge,
}

impl BadHead {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::Tls | Self::Host => StatusCode::BAD_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// Checks the rules that hyper leaves to the server.
    ///
    /// # Errors
    /// [`BadHead::Host`], by RFC 9112, section 3.2.
    pub fn check<B>(request: &Request<B>) -> std::result::Result<(), Self> {
        let hosts = request.headers().get_all(header::HOST).iter().count();
        match (hosts, request.version()) {
            (1, _) | (0, Version::HTTP_09 | Version::HTTP_10) => Ok(()),
            _ => Err(Self::Host),
        }
    }
}

/// Makes the answer to a bad head of a client, and logs and counts it.
pub type Refuse = Arc<dyn Fn(BadHead, SocketAddr) -> Response<Vec<u8>> + Send + Sync>;

/// A socket under hyper that replaces the refusals of hyper with those of the service.
pub struct RefusalIo<S> {
    socket: S,
    deadlines: SharedDeadlines,
    refuse: Refuse,
    remote: SocketAddr,
    /// The first byte of the connection.
    first_byte: Option<u8>,
    /// The refusal that is being sent, and the bytes of it that the socket has taken.
    refusal: Option<(Vec<u8>, usize)>,
}

/// The type of a TLS record with a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

impl<S> RefusalIo<S> {
    pub fn new(socket: S, deadlines: SharedDeadlines, refuse: Refuse, remote: SocketAddr) -> Self {
        Self {
            socket,
            deadlines,
            refuse,
            remote,
            first_byte: None,
            refusal: None,
        }
    }

    /// Starts a refusal if `bytes` are an answer of hyper to a head that it refused. True while a refusal is sent, so
    /// that hyper's own bytes are discarded.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        if self.deadlines.get().is_answering() {
            return false;
        }
        let reason = match bytes
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| rest.first_chunk::<3>())
        {
            Some(b"400") if self.first_byte == Some(TLS_HANDSHAKE) => BadHead::Tls,
            Some(b"400") => BadHead::Malformed,
            Some(b"414") => BadHead::UriTooLong,
            Some(b"431") => BadHead::TooLarge,
            _ => return false,
        };
        self.deadlines.get().head_refused();
        let answer = (self.refuse)(reason, self.remote);
        self.refusal = Some((encode(&answer, bytes), 0));
        true
    }
}

/// The bytes of `answer`, with the date of hyper's own answer `original`.
fn encode(answer: &Response<Vec<u8>>, original: &[u8]) -> Vec<u8> {
    let status = answer.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    let mut field = |name: &[u8], value: &[u8]| {
        bytes.extend([name, b": ", value, b"\r\n"].concat());
    };
    for (name, value) in answer.headers() {
        field(name.as_str().as_bytes(), value.as_bytes());
    }
    field(b"content-length", answer.body().len().to_string().as_bytes());
    field(b"connection", b"close");
    let mut lines = original.split(|&byte| byte == b'\n');
    if let Some(date) = lines.find_map(|line| line.strip_prefix(b"date: ")) {
        field(b"date", date.trim_ascii());
    }
    bytes.extend(b"\r\n");
    bytes.extend(answer.body());
    bytes
}

impl<S: AsyncWrite + Unpin> RefusalIo<S> {
    /// Sends the rest of the refusal, if there is one.
    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some((bytes, sent)) = &mut self.refusal {
            while *sent < bytes.len() {
                match ready!(Pin::new(&mut self.socket).poll_write(context, &bytes[*sent..]))? {
                    0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                    count => *sent += count,
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RefusalIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(context, buffer);
        if self.first_byte.is_none() {
            self.first_byte = buffer.filled().get(before).copied();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RefusalIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match self.replaces(bytes) {
            true => Poll::Ready(Ok(bytes.len())),
            false => Pin::new(&mut self.socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        // hyper writes a refusal in one part, because it has no body.
        match self.replaces(bytes.first().map_or(&[], |first| first)) {
            true => Poll::Ready(Ok(bytes.iter().map(|part| part.len()).sum())),
            false => Pin::new(&mut self.socket).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_refusal(context))?;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_refusal(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_field_is_needed_since_http_1_1() {
        let request = |hosts: usize, version: Version| {
            let request = Request::builder().version(version);
            let request = (0..hosts).fold(request, |request, _| request.header(header::HOST, "x"));
            BadHead::check(&request.body(()).unwrap())
        };
        assert_eq!(request(1, Version::HTTP_11), Ok(()));
        assert_eq!(request(0, Version::HTTP_10), Ok(()));
        for (hosts, version) in [(0, Version::HTTP_11), (2, Version::HTTP_11), (2, Version::HTTP_10)] {
            assert_eq!(request(hosts, version), Err(BadHead::Host), "{hosts} in {version:?}");
        }
    }
}
