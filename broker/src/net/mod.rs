//! The Kafka port: listeners, connections, frames, ordered replies, limits.
//!
//! Invariants:
//! 1. No reply overtakes the reply to an earlier request of the same connection.
//! 2. No declared length makes the broker allocate: buffers grow with what has arrived.
//! 3. No connection takes memory beyond the budget: it is not read while the budget is exhausted.
//! 4. No connection waits for another one: each has one task, which reads, writes and waits at the same time.
//!    Where connections share memory, holders without progress are closed when it is short.

mod budget;
mod connection;
mod descriptors;
mod input;
mod load_shedding;
mod memory_wait;
mod output;
mod registry;
mod server;

use std::io;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::config::Address;

pub(crate) use descriptors::Descriptors;
pub(crate) use server::Server;

/// The listen backlog.
const BACKLOG: i32 = 1024;

/// Listens on every address of `host:port`, so that a name like `localhost` is reached over IPv4 and IPv6.
/// The connections get send buffers of this size, or the system's default.
pub(crate) async fn bind(address: &Address, send_buffer: Option<usize>) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut refused = None;
    for resolved in tokio::net::lookup_host((address.host(), address.port())).await? {
        let mut wanted = resolved;
        if wanted.port() == 0
            && let Some(first) = listeners.first()
        {
            // Port 0 picks any free one, but the same one on every address.
            wanted.set_port(first.local_addr()?.port());
        }
        match listen(wanted, send_buffer) {
            Ok(listener) => listeners.push(listener),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        // An address family that the machine does not support does not matter; a port that is in use on one
        // of them does.
        Some(error) if listeners.is_empty() || error.kind() == io::ErrorKind::AddrInUse => Err(error),
        _ if listeners.is_empty() => Err(io::ErrorKind::AddrNotAvailable.into()),
        _ => Ok(listeners),
    }
}

fn listen(address: std::net::SocketAddr, send_buffer: Option<usize>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // "::" is separate from "0.0.0.0" only if requested alone.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if let Some(bytes) = send_buffer {
        // Connections inherit it.
        socket.set_send_buffer_size(bytes)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn connections_get_the_send_buffer_that_is_configured() {
        let sizes = |bytes| async move {
            let listeners =
                bind(&"127.0.0.1:0".parse().expect("an address"), bytes).await.expect("a free port");
            let address = listeners[0].local_addr().expect("bound");
            let (client, accepted) =
                tokio::join!(tokio::net::TcpStream::connect(address), listeners[0].accept());
            let (_client, (accepted, _)) = (client.expect("connected"), accepted.expect("accepted"));
            SockRef::from(&accepted).send_buffer_size().expect("a size")
        };
        // The system doubles the requested size, for its own overhead.
        assert_eq!([sizes(Some(16_384)).await, sizes(Some(65_536)).await], [32_768, 131_072]);
        assert!(sizes(None).await > 131_072, "grown by the system");
    }
}
