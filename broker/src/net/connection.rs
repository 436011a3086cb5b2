//! One connection, one task: it reads, begins requests in their order, and writes the replies in that order.

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

/// Requests of one connection that are worked on at the same time.
const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Reply bytes that may wait for a slow reader before its requests have to wait too.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

type Pending = FuturesOrdered<Either<BoxFuture<'static, Settled>, Ready<Settled>>>;

/// A reply, with the memory that its request held.
struct Settled {
    reply: Reply,
    _charge: Charge,
}

/// What a connection is served with.
pub(super) struct Serving {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) budgets: Budgets,
    pub(super) frame_bytes_max: usize,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) warnings: Arc<Warnings>,
    /// Where HTTP is answered, for those who ask for it here.
    pub(super) http_addr: SocketAddr,
}

/// Serves a connection until the client leaves, does something that is not allowed, or the broker stops.
pub(super) async fn serve(
    mut stream: TcpStream,
    address: SocketAddr,
    seat: ConnectionPermit,
    serving: Serving,
) {
    let peer = Peer::new(address);
    let (warnings, http_addr) = (serving.warnings.clone(), serving.http_addr);
    match run(&mut stream, &peer, &seat, serving).await {
        Ok(()) => tracing::trace!(%address, "connection closed"),
        Err(error) if is_departure(&error) => tracing::debug!(%address, %error, "connection lost"),
        Err(error) => {
            if let Some(left_out) = warnings.admit(clock::monotonic()) {
                tracing::warn!(%address, %error, left_out, "connection closed");
            }
            if is_http(&error) {
                // Whoever does not wait for it does not get it.
                let _ = stream.try_write(http_answer(http_addr).as_bytes());
            }
        }
    }
}

fn is_http(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref()) == Some(&FrameError::Http)
}

/// What somebody gets who asks the Kafka port over HTTP.
fn http_answer(http_addr: SocketAddr) -> String {
    let said = format!("this port speaks the Kafka protocol; HTTP is answered on {http_addr}\n");
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length";
    format!("{head}: {}\r\n\r\n{said}", said.len())
}

/// A client that is simply gone is nothing to warn of.
fn is_departure(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected | TimedOut | UnexpectedEof)
}

async fn run(
    stream: &mut TcpStream,
    peer: &Peer,
    seat: &ConnectionPermit,
    mut serving: Serving,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    let mut input = Input::new(serving.budgets.clone(), serving.frame_bytes_max);
    let mut output = Output::default();
    let mut pending = Pending::new();
    let mut stopping = *serving.stop.borrow();
    loop {
        // Who does not read replies is not given more of them.
        let reads = output.bytes() < OUTPUT_BYTES_MAX;
        let has_room = reads && begin_requests(&serving.dispatcher, peer, &mut input, &mut pending)?;
        if stopping && pending.is_empty() && output.is_empty() {
            return Ok(());
        }
        if pending.is_empty() {
            input.rest();
        }
        seat.touch(clock::monotonic(), progress(&input, &output, &pending, has_room));
        tokio::select! {
            // Replies first, so that those that are ready together leave in one write.
            biased;
            Some(settled) = pending.next(), if !pending.is_empty() && reads => {
                take_reply(settled, &mut output)?;
            }
            written = output.write(&mut to), if !output.is_empty() => written?,
            read = input.fill(&mut from, &seat.activity.memory_wait), if has_room && !stopping => {
                if read? == 0 {
                    return ended(&input);
                }
            }
            changed = serving.stop.changed(), if !stopping => stopping = changed.is_err() || *serving.stop.borrow(),
            () = seat.activity.close.notified() => {
                return Err(expelled(seat.activity.why()));
            }
        }
    }
}

fn expelled(why: Expelled) -> io::Error {
    // Who has done nothing for very long is counted and not named.
    let kind = if why == Expelled::Idle { io::ErrorKind::TimedOut } else { io::ErrorKind::Other };
    io::Error::new(kind, why)
}

fn progress(input: &Input, output: &Output, pending: &Pending, has_room: bool) -> Progress {
    Progress {
        // What waits here for room among the requests in flight does not wait for the client.
        partial: input.partial().filter(|_| has_room),
        busy: !pending.is_empty() || !output.is_empty(),
        unwritten: output.bytes(),
        written: output.written(),
    }
}

/// A client that leaves between two requests does so in good order; replies that it did not wait for are lost.
fn ended(input: &Input) -> io::Result<()> {
    if input.partial().is_some() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Begins every whole request that has arrived; false when as many as allowed are in flight.
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
            // The request keeps its memory until the change has ended, which may be after the connection's end.
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
