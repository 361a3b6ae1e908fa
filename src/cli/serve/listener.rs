//! The listening socket. Binding it before the model is loaded detects a port in use early; it refuses connections
//! until [`listen`](BoundSocket::listen), so that a load balancer uses another replica meanwhile.

use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Capacity of the system's queue of connections that are not accepted yet; the system may have a lower limit.
const BACKLOG: i32 = 1024;

/// A socket with an address that does not accept connections yet.
pub struct BoundSocket {
    socket: Socket,
    pub address: SocketAddr,
}

impl BoundSocket {
    /// Binds `address`. Port 0 is replaced with a free port.
    pub fn bind(address: SocketAddr) -> std::result::Result<Self, String> {
        bind(address).map_err(|error| message(address, &error))
    }

    /// Starts to accept connections.
    pub fn listen(self) -> std::result::Result<TcpListener, String> {
        let listening = self.socket.listen(BACKLOG);
        listening.map_err(|error| message(self.address, &error))?;
        Ok(self.socket.into())
    }
}

fn bind(address: SocketAddr) -> Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process in TIME_WAIT must not block the port. On Windows the option has another meaning.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(BoundSocket { socket, address })
}

fn message(address: SocketAddr, error: &Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => format!("{address} is in use by another program; choose another port with --port"),
        ErrorKind::PermissionDenied => {
            format!("permission denied to listen on {address}; choose a port above 1023 with --port")
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}
