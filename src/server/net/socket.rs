//! A TCP stream that can be asked, while it is in use, whether its client has left.

use std::future::Future;
use std::io::{IoSlice, Result};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// One TCP stream with several handles. Only one of them may read and write.
#[derive(Clone, Debug)]
pub struct Socket(Arc<TcpStream>);

impl Socket {
    /// Turns off the delay of small packets.
    ///
    /// # Errors
    /// If the connection has failed already.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(Arc::new(stream)))
    }

    /// # Errors
    /// If the connection has failed already.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.0.local_addr()
    }

    /// True once the client has closed or reset the connection, even if bytes that it sent before have not been read. hyper
    /// reads nothing while it has such bytes, and would not notice.
    pub fn has_left(&self) -> bool {
        let ready = pin!(self.0.ready(Interest::READABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// True if bytes have arrived that were not read.
    pub fn has_unread(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        socket2::SockRef::from(&*self.0)
            .peek(&mut byte)
            .is_ok_and(|count| count > 0)
    }

    /// Calls `io` when the socket is ready, until it does not fail for lack of readiness.
    fn poll_io<T>(
        &self,
        context: &mut Context<'_>,
        poll_ready: impl Fn(&TcpStream, &mut Context<'_>) -> Poll<Result<()>>,
        mut io: impl FnMut(&TcpStream) -> Result<T>,
    ) -> Poll<Result<T>> {
        loop {
            ready!(poll_ready(&self.0, context))?;
            match io(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let read = |stream: &TcpStream| stream.try_read(buffer.initialize_unfilled());
        let bytes = ready!(self.poll_io(context, TcpStream::poll_read_ready, read))?;
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.poll_io(context, TcpStream::poll_write_ready, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.poll_io(context, TcpStream::poll_write_ready, |stream| {
            stream.try_write_vectored(bytes)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is buffered.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
