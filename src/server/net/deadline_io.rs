//! A socket that tells the clock what happens on it.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::deadlines::Clock;

/// A clock that a connection's socket, service and task share. They run on one task, so nobody waits for it.
#[derive(Clone, Debug)]
pub struct SharedClock(Arc<Mutex<Clock>>);

impl SharedClock {
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Mutex::new(clock)))
    }

    pub fn get(&self) -> MutexGuard<'_, Clock> {
        // A panic between two assignments leaves a deadline too many or too few on a connection that it ends.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket, or what TLS makes of one.
pub struct Timed<S> {
    pub socket: S,
    pub clock: SharedClock,
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(context, buffer);
        if before < buffer.filled().len() {
            self.clock.get().arrived();
        }
        result
    }
}

impl<S> Timed<S> {
    fn sent(&self, result: Poll<Result<usize>>) -> Poll<Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = result {
            self.clock.get().sent(bytes);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.sent(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.sent(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// hyper comes here only when the socket has taken all that it had to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(context);
        if let Poll::Ready(Ok(())) = result {
            self.clock.get().flushed();
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
