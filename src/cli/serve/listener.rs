//! The listening socket. Binding it before the model is loaded detects a port in use early; it refuses connections
//! until [`listen`](BoundSocket::listen), so that a load balancer uses another replica meanwhile.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

use crate::cli::exit::UsageError;

/// Capacity of the system's queue of connections that are not accepted yet; the system may have a lower limit.
const BACKLOG: i32 = 1024;

/// A socket with an address that does not accept connections yet.
pub struct BoundSocket {
    socket: Socket,
    pub address: SocketAddr,
}

impl BoundSocket {
    /// Binds an IP address, or the address of a name. Port 0 is replaced with a free port.
    ///
    /// # Errors
    /// [`UsageError`] for a host without an address, and the system's error.
    pub fn bind(host: &str, port: u16) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let address = SocketAddr::new(resolve(host).map_err(UsageError)?, port);
        Ok(bind(address).map_err(|error| message(address, &error))?)
    }

    /// Starts to accept connections.
    pub fn listen(self) -> std::result::Result<TcpListener, String> {
        let listening = self.socket.listen(BACKLOG);
        listening.map_err(|error| message(self.address, &error))?;
        Ok(self.socket.into())
    }
}

/// The address of a name: its first IPv4 address, or else its first one.
fn resolve(host: &str) -> std::result::Result<IpAddr, String> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    if host.parse::<SocketAddr>().is_ok() || host.contains([':', '/']) {
        return Err(format!(
            "--host: \"{host}\" is more than an address; set the port with --port"
        ));
    }
    let unresolved = |reason: String| {
        format!(
            "--host: the name \"{host}\" has no address ({reason}); write an IP address, such as 127.0.0.1 or 0.0.0.0"
        )
    };
    let addresses = (host, 0)
        .to_socket_addrs()
        .map_err(|error| unresolved(error.to_string()))?;
    let addresses: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
    let first_v4 = addresses.iter().find(|address| address.is_ipv4());
    let first = first_v4.or(addresses.first()).copied();
    first.ok_or_else(|| unresolved("the list of addresses is empty".to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        for (host, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            assert_eq!(resolve(host).unwrap().to_string(), expected);
        }
        assert!(resolve("localhost").unwrap().is_loopback());
        for (host, says) in [
            ("127.0.0.1:8000", "--port"),
            ("http://localhost", "--port"),
            ("no-such-host.invalid", "has no address"),
            ("", "has no address"),
        ] {
            let error = resolve(host).unwrap_err();
            assert!(error.starts_with("--host: ") && error.contains(says), "{host}: {error}");
        }
    }
}
