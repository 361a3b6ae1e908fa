//! One connection: TLS handshake, requests, answers, and an early end by deadline, drain or slot request.

use std::convert::Infallible;
use std::fmt::{Display, Formatter};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use poem::http::uri::Scheme;
use poem::http::{HeaderValue, Method, Request, Response as HttpResponse, header};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::deadline_io::DeadlineIo;
use super::deadlines::{Awaited, ConnectionDeadlines, SharedDeadlines};
use super::held::Held;
use super::linger::linger;
use super::options::ConnectionOptions;
use super::refusal::{BadHead, RefusalIo, Refuse};
use super::slots::ConnectionSlots;
use super::socket::Socket;

/// Read buffer of one connection: the longest head, and the largest part of a body that is read at once.
const BUFFER_BYTES_MAX: usize = 32 * 1024;

/// While a request is computed, its connection looks for the departure of its client at this interval.
const DEPARTURE_INTERVAL: Duration = Duration::from_millis(20);

/// Until a request that has arrived is read, its connection looks at this interval.
const DRAIN_INTERVAL: Duration = Duration::from_millis(1);

/// The end of a connection with the server.
#[derive(PartialEq)]
enum Drain {
    No,
    /// Once bytes that have arrived are read: hyper would discard a request among them.
    Soon,
    /// After the present request.
    Now,
}

/// A connection before it is served, with everything that it shares with others.
pub struct Connection<E> {
    pub endpoint: Arc<E>,
    /// Answers the heads that never reach `endpoint`.
    pub refuse: Refuse,
    pub options: ConnectionOptions,
    pub slots: Arc<ConnectionSlots>,
    /// True once the server drains.
    pub stopping: watch::Receiver<bool>,
    pub remote: SocketAddr,
}

/// Why a connection ended before its client closed it.
enum EarlyEnd {
    Http(hyper::Error),
    /// The client closed the connection before its answer.
    ClientLeft,
    /// It was idle or slow, and an accepted connection needed its slot.
    SlotRequested,
    /// The deadline passed while it waited for this.
    TimedOut(Awaited),
}

impl EarlyEnd {
    /// The value of the label `reason` in metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Http(_) | Self::ClientLeft => "broken",
            Self::SlotRequested => "slot",
            Self::TimedOut(Awaited::Request) => "idle_timeout",
            Self::TimedOut(Awaited::Head) => "head_timeout",
            Self::TimedOut(Awaited::Answer) => "answer_timeout",
            Self::TimedOut(Awaited::Reader) => "write_timeout",
        }
    }
}

impl Display for EarlyEnd {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::ClientLeft => f.write_str("the client left before its answer"),
            Self::SlotRequested => f.write_str("idle or slow while another connection needed its slot"),
            Self::TimedOut(awaited) => write!(f, "waited too long for {awaited}"),
        }
    }
}

impl<E: Endpoint<Output = Response> + 'static> Connection<E> {
    /// Serves `stream` until it ends.
    pub async fn run(mut self, stream: TcpStream) {
        let remote = self.remote;
        let counters = Arc::clone(&self.options.counters);
        let _open = counters.open();
        let socket = Socket::new(stream).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (local, socket) = match socket {
            Ok(socket) => socket,
            Err(error) => return tracing::debug!(%remote, %error, "a connection failed before it was served"),
        };
        // From the accept, so that the TLS handshake and the first head share one deadline.
        let accepted_at = Instant::now();
        let deadlines = SharedDeadlines::new(ConnectionDeadlines::new(self.options.limits, accepted_at));
        let Some(tls) = &self.options.tls else {
            return self.serve(socket.clone(), socket, deadlines, local, Scheme::HTTP).await;
        };
        let handshake = TlsAcceptor::from(tls.config()).accept(socket.clone());
        let handshake = tokio::select! {
            result = tokio::time::timeout_at(accepted_at + self.options.limits.head_timeout, handshake) => result,
            // The client has sent no request yet.
            _ = self.stopping.wait_for(|stopping| *stopping) => return,
            () = give_up_slot(&self.slots, &deadlines) => {
                counters.ended_early(EarlyEnd::SlotRequested.label());
                return tracing::debug!(%remote, reason = %EarlyEnd::SlotRequested, "a connection ended early");
            }
        };
        match handshake {
            Ok(Ok(stream)) => self.serve(stream, socket, deadlines, local, Scheme::HTTPS).await,
            Ok(Err(error)) => {
                counters.ended_early("tls_handshake");
                tracing::debug!(%remote, %error, "the TLS handshake failed");
            }
            Err(_) => {
                counters.ended_early(EarlyEnd::TimedOut(Awaited::Head).label());
                tracing::debug!(%remote, "the TLS handshake took too long");
            }
        }
    }

    /// Serves `stream`, which is `socket` or TLS over it.
    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        socket: Socket,
        deadlines: SharedDeadlines,
        local: SocketAddr,
        scheme: Scheme,
    ) {
        let service = service_fn(|request| {
            deadlines.get().request_started();
            self.answer(request, local, scheme.clone(), deadlines.clone())
        });
        let stream = DeadlineIo {
            socket: stream,
            deadlines: deadlines.clone(),
        };
        let stream = RefusalIo::new(stream, deadlines.clone(), Arc::clone(&self.refuse), self.remote);
        // hyper's own timer for heads also limits how long a connection is idle; the deadlines here tell them apart.
        let connection = Builder::new()
            .header_read_timeout(None)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut stopping = self.stopping.clone();
        let mut drain = Drain::No;
        let mut expiry = pin!(tokio::time::sleep_until(Instant::now()));
        let mut slot_request = pin!(None::<Notified<'_>>);
        let mut idle = pin!(tokio::time::sleep_until(Instant::now()));
        let mut departure = pin!(tokio::time::sleep_until(Instant::now()));
        let end = loop {
            if drain == Drain::Soon && !(deadlines.get().is_idle() && socket.has_unread()) {
                drain = Drain::Now;
                connection.as_mut().graceful_shutdown();
            }
            tokio::select! {
                biased;
                result = &mut connection => break result.map_err(EarlyEnd::Http),
                // Fails if the accept loop has ended, which means the same.
                _ = stopping.wait_for(|stopping| *stopping), if drain == Drain::No => {
                    drain = Drain::Soon;
                    deadlines.get().drain();
                }
                () = tokio::time::sleep(DRAIN_INTERVAL), if drain == Drain::Soon => {}
                () = poll_fn(|context| poll_departure(&socket, departure.as_mut(), &deadlines, context)) => {
                    break Err(EarlyEnd::ClientLeft);
                }
                // The last two are polled after the connection, because it has just moved the deadlines.
                () = poll_fn(|context| poll_slot_request(&self.slots, slot_request.as_mut(), idle.as_mut(), &deadlines, context)) => {
                    break Err(EarlyEnd::SlotRequested);
                }
                () = poll_fn(|context| poll_expiry(expiry.as_mut(), &deadlines, context)) => {
                    break Err(EarlyEnd::TimedOut(deadlines.get().awaited()));
                }
            }
        };
        if let Err(EarlyEnd::Http(error)) = &end
            && error.is_parse()
            && !deadlines.get().is_refused()
        {
            // hyper closed the connection without an answer, as it does for HTTP/2. This logs and counts it.
            drop((self.refuse)(BadHead::Malformed, self.remote));
        }
        let is_closed_by_server = matches!(end, Ok(()) | Err(EarlyEnd::Http(_)));
        if let Err(reason) = end {
            self.options.counters.ended_early(reason.label());
            tracing::debug!(remote = %self.remote, %reason, "a connection ended early");
        }
        if is_closed_by_server && deadlines.get().may_send_more() {
            // It would keep the request for a slot from others.
            slot_request.set(None);
            tokio::select! {
                () = linger(&socket) => {}
                () = self.slots.requested_and_wanted() => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        }
    }

    /// Answers one request with the endpoint.
    async fn answer(
        &self,
        request: Request<Incoming>,
        local: SocketAddr,
        scheme: Scheme,
        deadlines: SharedDeadlines,
    ) -> Result<HttpResponse<NotifyOnDropBody>, Infallible> {
        // Otherwise a client that sends many requests at once would hold the thread until all are answered.
        tokio::task::yield_now().await;
        let is_post = request.method() == Method::POST;
        let has_body = !request.body().is_end_stream();
        let mut answer: HttpResponse<BoxBody<Bytes, std::io::Error>> = match BadHead::check(&request) {
            Ok(()) => {
                let addresses = (LocalAddr(local.into()), RemoteAddr(self.remote.into()));
                let request = poem::Request::from((request, addresses.0, addresses.1, scheme));
                self.endpoint.get_response(request).await.into()
            }
            Err(reason) => (self.refuse)(reason, self.remote)
                .map(|body| Full::new(body.into()).map_err(|never| match never {}).boxed()),
        };
        if self.slots.are_wanted() {
            // Gives the slot to the connection that waits.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
        }
        let held = answer.extensions_mut().remove::<Held>();
        // The body of a post with an answer was read.
        let may_send_more = has_body && !(is_post && answer.status().is_success());
        deadlines.get().answer_started(held, may_send_more);
        Ok(answer.map(|body| NotifyOnDropBody { body, deadlines }))
    }
}

/// Completes when a connection that has sent no request counts as idle and should give up its slot.
async fn give_up_slot(slots: &ConnectionSlots, deadlines: &SharedDeadlines) {
    let idle_from = deadlines.get().idle_from();
    match idle_from {
        Some(idle_from) => tokio::time::sleep_until(idle_from).await,
        None => std::future::pending().await,
    }
    slots.requested_and_wanted().await;
}

/// Completes when the client has left while its request is being answered.
fn poll_departure(
    socket: &Socket,
    mut next: Pin<&mut Sleep>,
    deadlines: &SharedDeadlines,
    context: &mut Context<'_>,
) -> Poll<()> {
    let Some(since) = deadlines.get().request_since() else {
        return Poll::Pending;
    };
    if next.deadline() < since {
        next.as_mut().reset(since + DEPARTURE_INTERVAL);
    }
    while next.as_mut().poll(context).is_ready() {
        if socket.has_left() {
            return Poll::Ready(());
        }
        next.as_mut().reset(Instant::now() + DEPARTURE_INTERVAL);
    }
    Poll::Pending
}

/// Completes when the connection is idle and should give up its slot. `request` is its place in the order of idle
/// connections, `idle` a timer for the moment when it joins them.
fn poll_slot_request<'a>(
    slots: &'a ConnectionSlots,
    mut request: Pin<&mut Option<Notified<'a>>>,
    mut idle: Pin<&mut Sleep>,
    deadlines: &SharedDeadlines,
    context: &mut Context<'_>,
) -> Poll<()> {
    let Some(idle_from) = deadlines.get().idle_from() else {
        request.set(None);
        return Poll::Pending;
    };
    if Instant::now() < idle_from {
        request.set(None);
        if idle.deadline() != idle_from {
            idle.as_mut().reset(idle_from);
        }
        if idle.poll(context).is_pending() {
            return Poll::Pending;
        }
    }
    if request.is_none() {
        request.set(Some(slots.requested()));
    }
    while let Some(requested) = request.as_mut().as_pin_mut()
        && requested.poll(context).is_ready()
    {
        if slots.are_wanted() {
            return Poll::Ready(());
        }
        // The connection that needed a slot has found one meanwhile.
        request.set(Some(slots.requested()));
    }
    Poll::Pending
}

/// Completes when the deadline of the connection has passed.
fn poll_expiry(mut expiry: Pin<&mut Sleep>, deadlines: &SharedDeadlines, context: &mut Context<'_>) -> Poll<()> {
    let Some(deadline) = deadlines.get().deadline() else {
        return Poll::Pending;
    };
    if expiry.deadline() != deadline {
        expiry.as_mut().reset(deadline);
    }
    expiry.poll(context)
}

/// The body of an answer. hyper drops it when it has taken all of it, or gives up.
struct NotifyOnDropBody {
    body: BoxBody<Bytes, std::io::Error>,
    deadlines: SharedDeadlines,
}

impl Drop for NotifyOnDropBody {
    fn drop(&mut self) {
        self.deadlines.get().answer_taken();
    }
}

impl Body for NotifyOnDropBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
