//! One task per connection: it reads, starts requests in order, and writes the replies in the same order.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, Ready, ready},
    stream::FuturesOrdered,
};
use tokio::{net::TcpStream, sync::watch};

use super::{
    budget::Charge,
    input::{Budgets, FrameError, Input},
    output::Output,
    registry::{ConnectionPermit, Expelled, Progress},
};
use crate::{
    clock,
    kafka::{Answer, Dispatcher, Peer, Reply},
    telemetry::Warnings,
};

/// Most requests of one connection in progress.
const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Reply bytes that may wait for a slow reader before its requests have to wait too.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

type Pending = FuturesOrdered<Either<BoxFuture<'static, Settled>, Ready<Settled>>>;

/// A reply, with the memory of its request.
struct Settled {
    reply: Reply,
    _charge: Charge,
}

/// What connections share.
pub(super) struct Serving {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) budgets: Budgets,
    pub(super) frame_bytes_max: usize,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) warnings: Arc<Warnings>,
    /// The HTTP address, for clients that use the wrong port.
    pub(super) http_addr: SocketAddr,
}

/// Serves a connection until the client disconnects or violates the protocol, or the broker stops.
pub(super) async fn serve(
    mut stream: TcpStream,
    address: SocketAddr,
    permit: ConnectionPermit,
    serving: Serving,
) {
    let peer = Peer::new(address);
    let (warnings, http_addr) = (serving.warnings.clone(), serving.http_addr);
    match run(&mut stream, &peer, &permit, serving).await {
        Ok(()) => tracing::trace!(%address, "connection closed"),
        Err(error) if is_departure(&error) => tracing::debug!(%address, %error, "connection lost"),
        Err(error) => {
            if let Some(left_out) = warnings.admit(clock::monotonic()) {
                tracing::warn!(%address, %error, left_out, "connection closed");
            }
            if is_http(&error) {
                // Best effort: the client may not wait for it.
                let _ = stream.try_write(http_answer(http_addr).as_bytes());
            }
        }
    }
}

fn is_http(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref()) == Some(&FrameError::Http)
}

/// The response to an HTTP request on the Kafka port.
fn http_answer(http_addr: SocketAddr) -> String {
    let said = format!("this port speaks the Kafka protocol; HTTP is answered on {http_addr}\n");
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length";
    format!("{head}: {}\r\n\r\n{said}", said.len())
}

/// A disconnect is not worth a warning.
fn is_departure(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected | TimedOut | UnexpectedEof)
}

async fn run(
    stream: &mut TcpStream,
    peer: &Peer,
    permit: &ConnectionPermit,
    mut serving: Serving,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    let mut input = Input::new(serving.budgets.clone(), serving.frame_bytes_max);
    let mut output = Output::default();
    let mut pending = Pending::new();
    let mut stopping = *serving.stop.borrow();
    loop {
        // A client that does not read replies gets no more of them.
        let reads = output.bytes() < OUTPUT_BYTES_MAX;
        let has_room = reads && begin_requests(&serving.dispatcher, peer, &mut input, &mut pending)?;
        if stopping && pending.is_empty() && output.is_empty() {
            return Ok(());
        }
        if pending.is_empty() {
            input.rest();
        }
        permit.touch(clock::monotonic(), progress(&input, &output, &pending, has_room));
        tokio::select! {
            // Replies first, so that those that are ready together leave in one write.
            biased;
            Some(settled) = pending.next(), if !pending.is_empty() && reads => {
                take_reply(settled, &mut output)?;
            }
            written = output.write(&mut to), if !output.is_empty() => written?,
            read = input.fill(&mut from, &permit.activity.memory_wait), if has_room && !stopping => {
                if read? == 0 {
                    return ended(&input);
                }
            }
            changed = serving.stop.changed(), if !stopping => stopping = changed.is_err() || *serving.stop.borrow(),
            () = permit.activity.close.notified() => {
                return Err(expelled(permit.activity.why()));
            }
        }
    }
}

fn expelled(why: Expelled) -> io::Error {
    // Idle timeouts are counted, but not logged one by one.
    let kind = if why == Expelled::Idle { io::ErrorKind::TimedOut } else { io::ErrorKind::Other };
    io::Error::new(kind, why)
}

fn progress(input: &Input, output: &Output, pending: &Pending, has_room: bool) -> Progress {
    Progress {
        // A request that waits here for memory does not wait for the client.
        partial: input.partial().filter(|_| has_room),
        busy: !pending.is_empty() || !output.is_empty(),
        unwritten: output.bytes(),
        written: output.written(),
    }
}

/// A disconnect between two requests is clean; replies that the client did not wait for are dropped.
fn ended(input: &Input) -> io::Result<()> {
    if input.partial().is_some() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Starts every complete request; false when the limit of requests in flight is reached.
fn begin_requests(
    dispatcher: &Dispatcher,
    peer: &Peer,
    input: &mut Input,
    pending: &mut Pending,
) -> io::Result<bool> {
    while pending.len() < REQUESTS_IN_FLIGHT_MAX {
        let next = input.next_frame().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let Some((frame, charge)) = next else { return Ok(true) };
        pending.push_back(begin(dispatcher, peer, frame, charge));
    }
    Ok(false)
}

fn begin(
    dispatcher: &Dispatcher,
    peer: &Peer,
    frame: Bytes,
    charge: Charge,
) -> Either<BoxFuture<'static, Settled>, Ready<Settled>> {
    match dispatcher.begin(peer, frame) {
        Answer::Now(reply) => Either::Right(ready(Settled { reply, _charge: charge })),
        Answer::Later(reply) => Either::Left(reply.map(|reply| Settled { reply, _charge: charge }).boxed()),
        Answer::Change(change) => {
            // The request keeps its memory until the change has ended, which may be after the connection's
            // end.
            change.hold(charge);
            let settled = change.map(|reply| {
                let reply = reply.unwrap_or_else(|error| Reply::Close(error.to_string()));
                Settled { reply, _charge: Charge::default() }
            });
            Either::Left(settled.boxed())
        }
    }
}

fn take_reply(settled: Settled, output: &mut Output) -> io::Result<()> {
    match settled.reply {
        Reply::Frame(frame) => output.push(frame),
        Reply::Nothing => {}
        Reply::Close(reason) => return Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
    }
    Ok(())
}
