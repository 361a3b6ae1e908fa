//! One connection: requests in, answers out, closed when its clock says so.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use poem::http::uri::Scheme;
use poem::http::{HeaderValue, Request, Response as HttpResponse, header};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Rules;
use super::deadline_io::{SharedClock, Timed};
use super::deadlines::Clock;
use super::slots::Places;

/// What is kept of one connection before it is read, in bytes: a head is never longer, and a body comes in such parts.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What a connection needs of its surroundings.
pub struct Connection<E> {
    pub endpoint: Arc<E>,
    pub rules: Rules,
    /// Places for this and further connections.
    pub places: Arc<Places>,
    /// True once the server is about to end.
    pub stopping: watch::Receiver<bool>,
    pub remote: SocketAddr,
}

impl<E: Endpoint<Output = Response> + 'static> Connection<E> {
    /// Serves `stream` to its end.
    pub async fn run(mut self, stream: TcpStream) {
        let local = match stream.set_nodelay(true).and_then(|()| stream.local_addr()) {
            Ok(local) => local,
            Err(error) => return tracing::debug!(remote = %self.remote, %error, "a connection ended before it began"),
        };
        let Some(tls) = &self.rules.tls else {
            return self.serve(stream, local, Scheme::HTTP).await;
        };
        let handshake = TlsAcceptor::from(tls.config()).accept(stream);
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.rules.limits.head_timeout, handshake) => shaken,
            // Nothing has been asked yet.
            _ = self.stopping.wait_for(|stopping| *stopping) => return,
        };
        let remote = self.remote;
        match shaken {
            Ok(Ok(stream)) => self.serve(stream, local, Scheme::HTTPS).await,
            Ok(Err(error)) => tracing::debug!(%remote, %error, "no TLS was agreed upon"),
            Err(_) => tracing::debug!(%remote, "waited too long for TLS to be agreed upon"),
        }
    }

    async fn serve(self, socket: impl AsyncRead + AsyncWrite + Unpin + Send, local: SocketAddr, scheme: Scheme) {
        let Self {
            endpoint,
            rules,
            places,
            mut stopping,
            remote,
        } = self;
        let clock = SharedClock::new(Clock::new(rules.limits));
        let our_places = Arc::clone(&places);
        let service = service_fn(|request: Request<Incoming>| {
            clock.get().request();
            let (endpoint, clock, places) = (Arc::clone(&endpoint), clock.clone(), Arc::clone(&places));
            let surroundings = (LocalAddr(local.into()), RemoteAddr(remote.into()), scheme.clone());
            async move {
                let (local, remote, scheme) = surroundings;
                let request = poem::Request::from((request, local, remote, scheme));
                let mut answer: HttpResponse<BoxBody<Bytes, std::io::Error>> =
                    endpoint.get_response(request).await.into();
                if places.are_wanted() {
                    // Everybody gets a turn.
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                clock.get().answer();
                Ok::<_, Infallible>(answer.map(|body| Told { body, clock }))
            }
        });
        let socket = Timed {
            socket,
            clock: clock.clone(),
        };
        // hyper's own timer for heads would also limit how long a connection is idle; ours tells the two apart.
        let mut connection = pin!(
            Builder::new()
                .header_read_timeout(None)
                .max_buf_size(BUFFER_BYTES_MAX)
                .serve_connection(TokioIo::new(socket), service)
        );
        // An error says that the server is gone already.
        let mut stopping = pin!(async move { drop(stopping.wait_for(|stopping| *stopping).await) });
        let (mut told_to_stop, mut alarm) = (false, pin!(tokio::time::sleep_until(Instant::now())));
        let mut asked_for_place = pin!(None::<Notified<'_>>);
        let ended = poll_fn(|context| {
            if !told_to_stop && stopping.as_mut().poll(context).is_ready() {
                told_to_stop = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(result) = connection.as_mut().poll(context) {
                return Poll::Ready(result.map_err(|error| error.to_string()));
            }
            if clock.get().is_between_requests() {
                if asked_for_place.is_none() {
                    asked_for_place.set(Some(our_places.asked_for()));
                }
                while let Some(asked) = asked_for_place.as_mut().as_pin_mut()
                    && asked.poll(context).is_ready()
                {
                    if our_places.are_wanted() {
                        return Poll::Ready(Err("idle, and another waits for a place".to_owned()));
                    }
                    // Whoever asked has found one meanwhile.
                    asked_for_place.set(Some(our_places.asked_for()));
                }
            } else {
                asked_for_place.set(None);
            }
            // What just happened may have moved it.
            let Some(deadline) = clock.get().deadline() else {
                return Poll::Pending;
            };
            if alarm.deadline() != deadline {
                alarm.as_mut().reset(deadline);
            }
            alarm
                .as_mut()
                .poll(context)
                .map(|()| Err(format!("waited too long for {}", clock.get().awaited())))
        });
        if let Err(reason) = ended.await {
            tracing::debug!(%remote, reason, "a connection ended early");
        }
    }
}

/// The body of an answer; tells when hyper has taken all of it, or has given up.
struct Told {
    body: BoxBody<Bytes, std::io::Error>,
    clock: SharedClock,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.clock.get().taken();
    }
}

impl Body for Told {
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
